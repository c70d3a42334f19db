"""What was saved before modules and files got the names that they have still loads."""

import json
import logging

from dro_trl import PlackettLucePolicy, RAGPipeline
from tests.helpers.training import LORA, logged, make_trainer, questions, save_start

TURNS = {
    "before": "<s>",
    "between": "",
    "end": "\n",
    "chat": False,
    "think": None,
    "thought_end": None,
    "thought_mark": None,
    "space": "",
}
CONFIG = {
    "policy": "dro_trl.policies.plackett_luce.PlackettLucePolicy",
    "policy_kwargs": None,
    "learnt_policy_kwargs": None,
    "prompt_texts": None,
    "chat": "auto",
    "chat_template_kwargs": None,
    "turns": {"selector": TURNS, "generator": TURNS},
    "max_thinking_tokens": 0,
    "num_selected": 2,
    "num_candidates": 20,
    "max_passage_tokens": None,
    "shared_base": False,
    "start": {"selector": "../start", "generator": "../start"},
    "start_policy_kwargs": None,
}
"""A `dro_config.json` as version 0.1.0.dev0 wrote it when the package had no folders `models` and `trainer`."""


def test_a_pair(tmp_path):
    trainer = make_trainer(tmp_path / "pair", model=save_start(tmp_path / "start"), peft_config=LORA)
    trainer.train()
    trainer.save_model()
    rows = list(questions())
    expected = RAGPipeline.from_pretrained(tmp_path / "pair").predict(rows, max_new_tokens=3)
    (tmp_path / "pair" / "dro_config.json").write_text(json.dumps(CONFIG))
    pipeline = RAGPipeline.from_pretrained(tmp_path / "pair")
    assert type(pipeline.policy) is PlackettLucePolicy
    assert pipeline.predict(rows, max_new_tokens=3) == expected


def test_a_checkpoint(tmp_path, caplog):
    options = {"model": save_start(tmp_path / "start"), "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    whole = make_trainer(tmp_path / "run", **options)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    (checkpoint / "training_run.json").rename(checkpoint / "run.json")
    again = make_trainer(tmp_path / "run", **options)
    with caplog.at_level(logging.WARNING):
        again.train(str(checkpoint))
    assert logged(again, "loss") == logged(whole, "loss")
