"""Evaluation while training: EM, F1 and recall of the preferred selections, the best model by them, and stopping."""

import pytest

from dro_trl import AnswerLogLikelihood, RAGPipeline, exact_match_reward
from dro_trl.metrics import exact_match, recall, token_f1
from dro_trl.trainer.resuming import last_checkpoint
from tests.helpers.training import logged, make_trainer, questions, save_start

GENERATE = {"predict_with_generate": True, "eval_max_new_tokens": 5, "eval_strategy": "steps", "eval_steps": 1}
WITHOUT_GOLD = questions().remove_columns("gold_ids")


def judged(rows, outputs):
    em = [exact_match(o.answer, row["answers"]) for row, o in zip(rows, outputs, strict=True)]
    f1 = [token_f1(o.answer, row["answers"]) for row, o in zip(rows, outputs, strict=True)]
    found = [[p["id"] for p in o.passages] for o in outputs]
    recalls = [recall(row["gold_ids"], ids) for row, ids in zip(rows, found, strict=True)]
    return {f"eval_{name}": sum(v) / len(v) for name, v in {"em": em, "f1": f1, "recall": recalls}.items()}


def answered(rows, texts):
    """Rows whose answers are these, some right and some half right."""
    return rows.map(lambda row, i: {"answers": [texts[i]]}, with_indices=True)


@pytest.mark.parametrize("policy", ["dro_trl.PlackettLucePolicy", "dro_trl.AutoregressivePolicy"])
def test_they_are_those_of_the_saved_pair(tmp_path, policy):
    """On batches that do not divide the questions; some answers are what the generator writes, so that EM is not 0."""
    trainer = make_trainer(tmp_path / "out", model=save_start(tmp_path / "start"), policy=policy, max_steps=1)
    trainer.train()
    trainer.save_model()
    pipeline = RAGPipeline.from_pretrained(tmp_path / "out", device="cpu", dtype="float32")
    written = [output.answer for output in pipeline.predict(questions().to_list(), max_new_tokens=5)]
    rows = answered(questions(), [*written[:2], f"{written[2]} too", "Ada Oslo", "Ada Lima", "Ada Perth"])
    wanted = judged(rows.to_list(), pipeline.predict(rows.to_list(), max_new_tokens=5))
    assert 0 < wanted["eval_em"] < wanted["eval_f1"] < 1
    trainer.args.predict_with_generate, trainer.args.eval_max_new_tokens = True, 5
    trainer.args.per_device_eval_batch_size = 4
    measured = trainer.evaluate(rows)
    assert {name: measured[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (questions(), {"predict_with_generate": True, "kl_coef": 0.1}),
        (WITHOUT_GOLD, {"predict_with_generate": True, "loss_type": "ppo"}),
        (questions(), {"reward_funcs": [AnswerLogLikelihood(), exact_match_reward], "min_generator_weight": 0.1}),
        (questions(), {"policy_kwargs": {"learn_weights": True}}),
        ({"one": questions(), "two": WITHOUT_GOLD}, {"predict_with_generate": True}),
    ],
    ids=["kl", "ppo", "rewards", "weights", "two sets"],
)
def test_what_is_measured_is_known_before(tmp_path, rows, options):
    trainer = make_trainer(tmp_path, eval_dataset=rows, **{**options, "eval_max_new_tokens": 2})
    measured = {name.removeprefix("eval_") for name in trainer.evaluate()}
    more = measured - set(trainer.eval_measures())
    assert {name for name in more if name != "epoch" and not name.endswith("model_preparation_time")} == set()
    assert set(trainer.eval_measures()) <= measured


@pytest.mark.parametrize(
    ("metric", "options", "hint"),
    [
        ("eval_em", {}, "predict_with_generate=True adds em, f1 and recall"),
        ("recal", GENERATE, "did you mean 'recall'? there are loss, reward, "),
        ("nothing", GENERATE, "measures here; there are loss, reward, "),
    ],
)
def test_a_measure_that_there_is_not_is_told_before_training(tmp_path, metric, options, hint):
    trainer = make_trainer(tmp_path, eval_dataset=questions(), metric_for_best_model=metric, **options)
    with pytest.raises(ValueError, match=f"metric_for_best_model='{metric}' is nothing") as told:
        trainer.train()
    assert hint in str(told.value)
    assert "\n" not in str(told.value)
    assert trainer.state.global_step == 0


def test_measures_of_rewards_are_told_when_they_are_not_there(tmp_path):
    def longest(selections, log_metric, **kwargs):
        log_metric("length", len(selections))
        return [1.0] * len(selections)

    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": questions(), "reward_funcs": longest}
    make_trainer(tmp_path, metric_for_best_model="length", **options).train()
    with pytest.raises(ValueError, match="'width' is nothing that an evaluation measures here.* length,"):
        make_trainer(tmp_path, metric_for_best_model="width", **options).train()


def test_the_best_model_is_that_of_the_best_answers(tmp_path):
    best = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_f1",
        "save_strategy": "steps",
        "save_steps": 1,
    }
    trainer = make_trainer(tmp_path, eval_dataset=questions(), max_steps=3, learning_rate=1e-2, **GENERATE, **best)
    trainer.train()
    f1 = logged(trainer, "eval_f1")
    assert len(f1) == 3
    assert trainer.args.greater_is_better
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{f1.index(max(f1)) + 1}")


def stopping(folder, **options):
    defaults = {"early_stopping_patience": 3, "metric_for_best_model": "em", "max_steps": 9, "learning_rate": 0.0}
    return make_trainer(folder, eval_dataset=questions(), **{**GENERATE, **defaults, **options})


def test_training_stops_after_so_many_evaluations_that_are_no_better(tmp_path):
    """Nothing is learnt, so that the first is the best of all; a second training counts anew."""
    trainer = stopping(tmp_path)
    for _ in range(2):
        trainer.train()
        assert trainer.state.global_step == 4


def test_a_resumed_run_stops_where_the_whole_one_does(tmp_path):
    stopping(tmp_path, max_steps=3, save_strategy="steps", save_steps=3).train()
    trainer = stopping(tmp_path, save_strategy="steps", save_steps=3)
    trainer.train(resume_from_checkpoint=str(last_checkpoint(tmp_path)))
    assert trainer.state.global_step == 4


@pytest.mark.parametrize("unset", [{"metric_for_best_model": None}, {"eval_strategy": "no"}])
def test_stopping_needs_something_to_go_by(tmp_path, unset):
    with pytest.raises(ValueError, match=f"early_stopping_patience=3 .*set {next(iter(unset))}"):
        stopping(tmp_path, **unset)


def test_without_the_option_nothing_is_generated(tmp_path, monkeypatch):
    monkeypatch.setattr("dro_trl.trainer.evaluating.answer_selections", None)
    assert "eval_em" not in make_trainer(tmp_path, eval_dataset=questions()).evaluate()


def test_the_table_has_a_line_for_the_answers(tmp_path, capsys):
    make_trainer(tmp_path, eval_dataset={"dev": questions()}, max_steps=1, **GENERATE).train()
    lines = capsys.readouterr().out.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.split()[:1] == ["dev"]]
    assert lines[at + 1].split(":")[0].strip() == "answers from the preferred selections"
    assert [word.split()[0] for word in lines[at + 1].split(": ")[1].split(", ")] == ["EM", "F1", "recall"]
