"""Batches that workers prepare: the same training, and the main process encodes no question of it."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys

import psutil
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from dro_trl import AutoregressivePolicy, ConditionalScoresPolicy, PlackettLucePolicy
from dro_trl.trainer.workers import Collator, useful_workers, worker_context
from tests.helpers.launching import REPOSITORY
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import logged, make_trainer, weights_of


def trained(folder, policy_class, workers, chat=False, **options):
    """Train; return what was logged and learnt, how many batches were encoded here and ahead, and by whom."""
    policy = policy_class(tiny_tokenizer(chat=chat), 2)
    named = {"policy": policy, "processing_class": policy.tokenizer, "chat": "true" if chat else "auto"}
    named["model"] = tiny_model("llama", policy.tokenizer)
    trainer = make_trainer(folder, **named, dataloader_num_workers=workers, max_steps=4, **options)
    forward, here, ahead, started = trainer._forward, [], [], set()

    def watched(model, batch):
        ahead.append(batch.get("inputs") is not None)
        started.update(child.pid for child in multiprocessing.active_children())
        return forward(model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_class, "encode", counting(policy_class.encode, here))
        trainer._forward = watched
        trainer.train()
    return (logged(trainer, "loss"), logged(trainer, "reward"), weights_of(trainer)), len(here), sum(ahead), started


def counting(encode, here):
    def encode_here(self, rows):
        here.append(len(rows))  # A worker has a class of its own.
        return encode(self, rows)

    return encode_here


@pytest.mark.parametrize("policy_class", [PlackettLucePolicy, AutoregressivePolicy, ConditionalScoresPolicy])
def test_workers_change_no_number(tmp_path, policy_class):
    """Over two epochs, in a chat template that each worker has to be told of, and beside an evaluation."""
    options = {"gradient_accumulation_steps": 2, "chat": policy_class is PlackettLucePolicy}
    if policy_class is ConditionalScoresPolicy:
        options |= {"policy_learning_rate": 0.1, "eval_dataset": Dataset.from_list(tiny_questions(4, 5))}
        options |= {"eval_strategy": "steps", "eval_steps": 1}
    (loss, reward, weights), here, ahead, _ = trained(tmp_path / "none", policy_class, 0, **options)
    assert (here >= 8, ahead) == (True, 0)
    found, encoded, ahead, started = trained(tmp_path / "two", policy_class, 2, **options)
    assert (here - encoded, ahead, len(started)) == (8, 8, 2)
    assert found[:2] == (loss, reward)
    assert all(weight.equal(found[2][name]) for name, weight in weights.items())


def test_an_estimation_step_and_an_evaluation_go_on_as_they_were(tmp_path):
    options = {"num_iterations": 2, "eval_dataset": Dataset.from_list(tiny_questions(4, 5)), "eval_strategy": "epoch"}
    plain, *_ = trained(tmp_path / "none", PlackettLucePolicy, 0, **options)
    worked, _, ahead, started = trained(tmp_path / "one", PlackettLucePolicy, 1, **options)
    assert (ahead, started) == (0, set())
    assert worked[:2] == plain[:2]


def test_workers_that_stay_let_each_dataset_be_evaluated(tmp_path):
    """Transformers keeps the loader of the first evaluation beside them, for all datasets that follow."""
    sets = [Dataset.from_list(tiny_questions(*sizes)) for sizes in ((4, 5), (6, 4, 5))]
    named = {"first": sets[0], "second": sets[1]}

    def losses(**options):
        trainer = make_trainer(tmp_path / "run", eval_dataset=sets[0], per_device_eval_batch_size=2, **options)
        found = trainer.evaluate(named)
        return [trainer.evaluate(rows)["eval_loss"] for rows in sets], [found[f"eval_{name}_loss"] for name in named]

    one_by_one, by_name = losses()
    assert one_by_one == by_name
    assert one_by_one[0] != one_by_one[1]
    assert losses(dataloader_num_workers=1, dataloader_persistent_workers=True) == (one_by_one, by_name)


def test_batches_that_wait_for_a_step_hold_no_files():
    """A step of many micro-batches takes all of them out of the loader before it begins."""
    rows = tiny_questions(*[4] * 16)
    collator = Collator(rows, PlackettLucePolicy(tiny_tokenizer(), 2), ahead=True)
    waiting, opened = [], []
    options = {"num_workers": 1, "multiprocessing_context": worker_context(None)}
    for batch in DataLoader(range(len(rows)), batch_size=1, collate_fn=collator, **options):
        waiting.append(batch)
        opened.append(len(os.listdir("/proc/self/fd")))
    assert max(opened) <= opened[0] + 2
    assert waiting[3][0].rows == [rows[3]]
    assert waiting[3][0].inputs.batch.input_ids.equal(collator.policy.encode([rows[3]]).batch.input_ids)


def test_what_cannot_be_sent_to_a_worker_is_encoded_here(caplog):
    class Local(PlackettLucePolicy):
        pass

    collator = Collator(tiny_questions(4), Local(tiny_tokenizer(), 2), ahead=True)
    assert useful_workers(collator, 2, None) == 0
    assert "dataloader_num_workers=2: no worker is started, which changes no number: they cannot be" in caplog.text
    assert "Local" in caplog.text
    assert useful_workers(collator, 2, "fork") == 2
    caplog.clear()
    assert useful_workers(Collator([], PlackettLucePolicy(tiny_tokenizer(), 2), ahead=False), 2, "fork") == 0
    assert "num_iterations" in caplog.text


PROGRAM = """
import os, sys
from torch.utils.data import DataLoader
from dro_trl import PlackettLucePolicy
from dro_trl.trainer.workers import Collator, useful_workers, worker_context
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer

class Mine(PlackettLucePolicy):
    pass

rows = tiny_questions(4, 4)
collators = [Collator(rows, kind(tiny_tokenizer(), 2), ahead=True) for kind in (Mine, PlackettLucePolicy)]
print([useful_workers(collator, 2, None) for collator in collators])
options = {"num_workers": 2, "multiprocessing_context": worker_context(None), "persistent_workers": True}
loader = DataLoader(range(2), batch_size=1, collate_fn=collators[1], **options)
print([batch[0].rows == [row] for batch, row in zip(loader, rows, strict=True)], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow  # Three processes import everything.
def test_a_program_without_a_guard_has_workers_that_end_when_it_is_killed(tmp_path):
    """No worker imports the program, which would start workers of its own, and none is left behind."""
    (tmp_path / "program.py").write_text(PROGRAM)
    run = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], env=environment, **run) as program:
        said = list(itertools.takewhile(lambda line: "True" not in line, program.stdout))
        started = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(signal.SIGKILL)
    assert "[0, 2]" in "".join(said)
    assert "Mine is defined in the program itself" in "".join(said)
    assert len(started) >= 3
    left = psutil.wait_procs(started, timeout=60)[1]
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
