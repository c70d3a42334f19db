"""Batches that workers prepare: the same training, and the main process encodes no question of it."""

import os

import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from dro_trl import AutoregressivePolicy, ConditionalScoresPolicy, PlackettLucePolicy
from dro_trl.trainer.dataset import Collator
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer
from tests.helpers.training import logged, make_trainer, weights_of


def trained(folder, policy_class, workers, **options):
    """Train; return what was logged and learnt, and how many batches were encoded here and ahead."""
    policy = policy_class(tiny_tokenizer(), 2)
    trainer = make_trainer(folder, policy=policy, dataloader_num_workers=workers, max_steps=4, **options)
    encode, forward = policy.encode, trainer._forward
    here, ahead = [], []

    def encode_here(rows):
        here.append(len(rows))  # A worker adds to a list of its own.
        return encode(rows)

    def watched(model, batch):
        ahead.append(batch.get("inputs") is not None)
        return forward(model, batch)

    policy.encode, trainer._forward = encode_here, watched
    trainer.train()
    return (logged(trainer, "loss"), logged(trainer, "reward"), weights_of(trainer)), len(here), sum(ahead)


@pytest.mark.parametrize("policy_class", [PlackettLucePolicy, AutoregressivePolicy, ConditionalScoresPolicy])
def test_workers_change_no_number(tmp_path, policy_class):
    options = {"gradient_accumulation_steps": 2}
    (loss, reward, weights), here, ahead = trained(tmp_path / "none", policy_class, 0, **options)
    assert (here, ahead) == (8, 0)
    (worker_loss, worker_reward, worker_weights), here, ahead = trained(tmp_path / "two", policy_class, 2, **options)
    assert (here, ahead) == (0, 8)
    assert (worker_loss, worker_reward) == (loss, reward)
    assert all(weight.equal(worker_weights[name]) for name, weight in weights.items())


def test_an_estimation_step_and_an_evaluation_go_on_as_they_were(tmp_path):
    options = {"num_iterations": 2, "eval_dataset": Dataset.from_list(tiny_questions(4, 5)), "eval_strategy": "epoch"}
    plain, *_ = trained(tmp_path / "none", PlackettLucePolicy, 0, **options)
    worked, _, ahead = trained(tmp_path / "one", PlackettLucePolicy, 1, **options)
    assert ahead == 0
    assert worked[:2] == plain[:2]


def test_batches_that_wait_for_a_step_hold_no_files():
    """A step of many micro-batches takes all of them out of the loader before it begins."""
    rows = tiny_questions(*[4] * 16)
    collator = Collator(rows, PlackettLucePolicy(tiny_tokenizer(), 2), ahead=True)
    waiting, opened = [], []
    for batch in DataLoader(range(len(rows)), batch_size=1, collate_fn=collator, num_workers=1):
        waiting.append(batch)
        opened.append(len(os.listdir("/proc/self/fd")))
    assert max(opened) <= opened[0] + 2
    assert waiting[3][0].rows == [rows[3]]
    assert waiting[3][0].inputs.batch.input_ids.equal(collator.policy.encode([rows[3]]).batch.input_ids)
