"""A reward that calls a model: in batches, and whole on each process where the trained models are sharded."""

import json
import runpy
import sys

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from tests.examples.conftest import EXAMPLES
from tests.helpers.launching import launch
from tests.helpers.tiny_models import tiny_tokenizer
from tests.helpers.training import logged, save_start, write_recipe


@pytest.fixture
def judge(tmp_path):
    """The folder of a classifier with random weights."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"}
    config = BertConfig(vocab_size=len(tiny_tokenizer()), initializer_range=1.0, id2label=labels, **size)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    tiny_tokenizer().save_pretrained(tmp_path / "judge")
    return str(tmp_path / "judge")


def test_the_example(run_example, judge):
    (trainer,) = run_example("judge_reward.py", "--judge", judge, max_steps=2, logging_steps=1)["trainers"]
    rewards = logged(trainer, "rewards/Entailment")
    assert len(rewards) == 2
    assert all(0 < reward < 1 for reward in rewards)
    assert rewards[0] != rewards[1]


def test_batches_make_no_difference(judge):
    """The likelihood of each pair alone, also where a batch pads the shorter ones."""
    entailment = runpy.run_path(str(EXAMPLES / "judge_reward.py"))["Entailment"]
    passages = [{"text": "Oslo."}, {"text": "The club of Lima was founded by Ada Lima."}, {"text": "Ada"}]
    columns = {
        "selections": [[0, 1], [2], [1], [2]],
        "candidates": [passages] * 4,
        "question": ["Who?", "Who founded it?", "Who?", "Who?"],
        "answers": [["Ada"], ["Ada", "A."], ["Ada"], ["Ada"]],
    }
    one, all_ = (entailment(judge, batch_size=size)(**columns) for size in (1, 4))
    assert one == pytest.approx(all_, abs=1e-5)
    assert len(set(one)) == 4
    model = BertForSequenceClassification.from_pretrained(judge)
    inputs = tiny_tokenizer()([("Oslo. The club of Lima was founded by Ada Lima.", "Who? Ada")], return_tensors="pt")
    assert one[0] == pytest.approx(float(model(**inputs).logits.softmax(-1)[0, 1]), abs=1e-5)


@pytest.mark.timeout(600)
def test_under_zero3_the_judge_stays_whole(tmp_path, judge, monkeypatch):
    """From a recipe, by dotted path: its rewards are those of one process, where a sharded judge would fail."""
    save_start(tmp_path / "start")
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLES)])
    monkeypatch.setenv("JUDGE", judge)
    lines = {"reward_funcs": ["judge_reward.Entailment"], "max_steps": 2, "optim": "sgd", "num_train_epochs": None}
    expected = logged(run_recipe(*parse_recipe(["--config", write_recipe(tmp_path, **lines)])), "rewards/Entailment")
    recipe = write_recipe(tmp_path, **lines, per_device_train_batch_size=1, use_cpu=None)
    environment = {"PYTHONPATH": f"{EXAMPLES.parent}:{EXAMPLES}"}
    launch("zero3", "tests.helpers.recipe_program", "--config", recipe, environment=environment)
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    found = [record["rewards/Entailment"] for record in history if "rewards/Entailment" in record]
    assert len(expected) == 2
    assert found == pytest.approx(expected, abs=1e-4)
