"""The card beside a trained pair."""

from pathlib import Path

from huggingface_hub import ModelCard

from dro_trl.models.model_card import WARMUP_OPTIONS, write_model_card, write_warmup_card
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from tests.helpers.training import LORA, make_trainer, save_start, write_recipe

TRAINING = {
    "policy": "dro_trl.PlackettLucePolicy",
    "policy_kwargs": {"retriever_prior": 0.5},
    "learnt_policy_kwargs": None,
    "num_selected": 2,
    "num_selections": 4,
    "max_passage_tokens": None,
    "chat": "auto",
    "chat_template_kwargs": None,
    "max_thinking_tokens": 0,
    "turns": {"selector": {"chat": True, "end": "<|im_end|>"}, "generator": {"chat": False, "end": "\n"}},
    "learning_rate": 0.25,
    "generator_learning_rate": None,
    "control_variate": True,
    "entropy_coef": 0.0,
    "kl_coef": 0.0,
    "reward_temperature": 1.0,
    "steps_per_estimation": 1,
    "num_iterations": 1,
    "seed": 42,
}


def test_the_card_cites_the_paper_and_tells_options_and_last_measures(tmp_path):
    history = [
        {"reward": -5.0, "ess": 3.0},
        {"reward": -2.34567, "ess": 2.0, "selection_recall": 0.5},
        {"eval_loss": 1.0},
    ]
    write_model_card(tmp_path, TRAINING, history)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "dro-trl"
    assert {"dro", "trl"} <= set(card.data.tags)
    assert "@article{" in card.text
    assert "arXiv:2505.03075" in card.text
    assert "| `learning_rate` | `0.25` |" in card.text
    assert "The selector reads prompts in its chat template; an answer ends with `<|im_end|>`." in card.text
    assert "The generator reads prompts without a chat template; an answer ends with `\\n`." in card.text
    assert "| reward | -2.346 |" in card.text
    assert "| selection_recall | 0.500 |" in card.text
    assert "-5.0" not in card.text
    assert "iw_bound" not in card.text


def test_a_card_without_any_log(tmp_path):
    write_model_card(tmp_path, TRAINING, [])
    assert "none logged" in (tmp_path / "README.md").read_text()


def test_the_trainer_writes_it_with_its_own_values(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, seed=123, max_steps=1)
    trainer.train()
    trainer.save_model()
    text = Path(tmp_path / "README.md").read_text()
    assert "| `seed` | `123` |" in text
    assert f"| reward | {trainer.state.log_history[0]['reward']:.3f} |" in text
    for name in ("trl", "transformers", "torch"):
        assert f"{name} " in text.partition("Made with")[2]
    monkeypatch.chdir(tmp_path.parent)
    reranker = text.split("```python\n")[2].partition("```")[0]
    names = {"folder": tmp_path.name}
    exec(reranker.replace("Selector.from", "found = Selector.from"), names)
    assert sorted(names["found"][0]) == ["corpus_id", "score"]


def test_what_is_known_of_models_data_and_evaluation_is_metadata(tmp_path):
    """Loaded back by the hub's own reader; a licence is that of the base's card, where all bases state the same."""
    for name in ("a", "b"):
        save_start(tmp_path / name)
        (tmp_path / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base\n")
    start = {"selector": str(tmp_path / "a"), "generator": str(tmp_path / "b")}
    history = [{"eval_loss": 2.0, "eval_selection_recall": 0.5}, {"eval_loss": 1.23456, "eval_reward": float("nan")}]
    datasets = {"train": "someone/questions", "eval": str(tmp_path / "dev.jsonl")}
    write_model_card(tmp_path, {**TRAINING, "start": start}, history, "me/pair", datasets)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.datasets, data.pipeline_tag) == ("apache-2.0", ["someone/questions"], "text-generation")
    assert data.get("base_model") is None
    (result,) = data.eval_results
    assert (data.model_name, result.dataset_name, result.metric_type) == ("pair", "dev.jsonl", "loss")
    assert result.metric_value == 1.2346
    (tmp_path / "b" / "README.md").unlink()
    hub = {"selector": "Qwen/Qwen2.5-0.5B", "generator": str(tmp_path / "b")}
    write_model_card(tmp_path, {**TRAINING, "start": hub}, [])
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.license, data.datasets, data.eval_results) == ("Qwen/Qwen2.5-0.5B", None, None, None)


def test_a_recipe_names_its_questions_and_its_adapters_base(tmp_path):
    """The base of a second round is that of the adapters that it went on with."""
    save_start(tmp_path / "start")
    (tmp_path / "start" / "README.md").write_text("---\nlicense: mit\n---\n")
    make_trainer(tmp_path / "first", model=str(tmp_path / "start"), peft_config=LORA).save_model()
    path = write_recipe(tmp_path, model_name_or_path=str(tmp_path / "first"), use_peft=True, max_steps=1)
    given = ["--eval_dataset_name", str(tmp_path / "train.jsonl"), "--eval_strategy", "steps", "--eval_steps", "1"]
    run_recipe(*parse_recipe(["--config", path, *given]))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert {result.dataset_name for result in card.data.eval_results} == {"train.jsonl"}
    assert {"loss", "reward", "selection_recall"} <= {result.metric_type for result in card.data.eval_results}
    assert str(tmp_path) not in card.content


def test_the_card_of_a_warm_up_says_no_path_of_this_machine(tmp_path):
    start = save_start(tmp_path / "start")
    options = dict.fromkeys(
        ("teacher", "num_selected", "max_passage_tokens", "chat", "learning_rate", "num_train_epochs", "seed")
    )
    options["teacher_run"] = str(tmp_path / "other.run")
    facts = {"part": "generator", "start": start, "dataset": str(tmp_path / "train.jsonl")}
    write_warmup_card(tmp_path, facts, options, [{"eval_loss": 0.5}], {"train": facts["dataset"]})
    card = ModelCard.load(tmp_path / "README.md")
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("loss", 0.5)]
    assert "| `start` | `./start` |" in card.text
    assert str(tmp_path) not in card.content


def test_no_text_breaks_out_of_a_card_and_no_secret_is_in_it(tmp_path):
    hostile = "|a`b``\n# x <script>"
    folder = tmp_path / 'a "quoted" `name`'
    folder.mkdir()
    turns = {"selector": {"chat": True, "end": "`x`\n"}, "generator": {"chat": False, "end": "\n"}}
    kwargs = {"item_score": hostile, "api_key": "s3cr3t"}
    write_model_card(folder, {**TRAINING, "policy_kwargs": kwargs, "policy": hostile, "turns": turns}, [])
    text = (folder / "README.md").read_text()
    assert "s3cr3t" not in text
    assert "| `policy` | ```\\|a`b`` # x <script>``` |" in text
    assert "'api_key': '<hidden>'" in text
    assert "an answer ends with `` `x`\\n ``." in text
    assert 'folder = "a \\"quoted\\" `name`"' in text
    facts = {"part": "selector", "start": hostile, "dataset": hostile}
    training = dict.fromkeys(WARMUP_OPTIONS) | {"policy": hostile, "policy_kwargs": kwargs}
    write_warmup_card(tmp_path, facts, training)
    text = (tmp_path / "README.md").read_text()
    assert "s3cr3t" not in text
    assert text.count("```\\|a`b`` # x <script>```") == 3
