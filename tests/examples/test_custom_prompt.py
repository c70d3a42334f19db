"""Other words in every prompt: those that are trained on are those that are used afterwards."""

import json
from pathlib import Path

import pytest

from dro_trl import AutoregressivePolicy, RAGPipeline, exact_match_reward
from dro_trl.lm import encoding
from dro_trl.lm.prompts import DEFAULT
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer
from tests.helpers.training import make_trainer, save_start
from tests.lm.test_prompts import GERMAN


def texts_read(monkeypatch):
    """Record every text that is encoded as a prompt."""
    read, render = [], encoding.render
    monkeypatch.setattr(encoding, "render", lambda *args, **kwargs: read.append(render(*args, **kwargs)) or read[-1])
    return read


def test_the_example(run_example, monkeypatch, capsys):
    read = texts_read(monkeypatch)
    trainer = run_example("custom_prompt.py", "--output_dir", "out", "--max_steps", "2")["trainer"]
    assert trainer.state.global_step == 2
    assert "\nAnswer: " in capsys.readouterr().out
    saved = json.loads(Path("out/dro_config.json").read_text())["prompt_texts"]
    assert saved == trainer.args.prompt_texts
    assert all(saved["question"] in text and "Question:" not in text for text in read)
    assert any(text.endswith(saved["answer"]) and saved["generator_instruction"] in text for text in read)


@pytest.mark.parametrize(
    "policy",
    [
        {"policy": "dro_trl.AutoregressivePolicy"},
        {"policy_kwargs": {"item_score": "query_likelihood"}},
        {"policy_kwargs": {"item_score": "passage_end"}},
        {"policy_kwargs": {"item_score": "identifier"}},
    ],
    ids=["autoregressive", "query likelihood", "passage end", "identifier"],
)
def test_every_policy_reads_them(tmp_path, monkeypatch, policy):
    """In sampling, in training, in rewards that generate, and from the saved folder."""
    read = texts_read(monkeypatch)
    start = save_start(tmp_path / "start")
    trainer = make_trainer(
        tmp_path / "out", model=start, prompt_texts=GERMAN, num_iterations=2, reward_funcs=exact_match_reward, **policy
    )
    trainer.train()
    trainer.save_model()
    trained, read[:] = set(read), []
    assert all("Frage:" in text and "Question:" not in text for text in trained)
    rows = [trainer.train_dataset[i] for i in range(4)]
    RAGPipeline.from_pretrained(tmp_path / "out").predict(rows)
    asked = [text for text in read if not text.endswith("Antwort:")]
    assert asked
    assert set(asked) & trained
    assert all("Frage:" in text and "Question:" not in text for text in read)


def test_a_policy_of_other_texts(tmp_path):
    policy = AutoregressivePolicy(tiny_tokenizer(), 2)
    assert policy.texts == DEFAULT
    with pytest.raises(ValueError, match=r"policy.texts and prompt_texts=\{'answer': 'A:'\} differ"):
        make_trainer(tmp_path, policy=policy, prompt_texts={"answer": "A:"})
    assert policy.prompt(tiny_questions(2)[0]).endswith(DEFAULT.ranking)
