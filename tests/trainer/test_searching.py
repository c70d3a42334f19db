"""A search with Optuna: each trial is the run that a trainer with its options makes, and nothing is left of it."""

import pytest

from dro_trl import DROTrainer
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import LORA, logged, make_trainer, options, questions, save_start

STEPS = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "reward"}


def searcher(folder, model_init, **kwargs):
    of_trainer = {name: kwargs.pop(name) for name in {"peft_config", "train_dataset", "eval_dataset"} & kwargs.keys()}
    rows = {"train_dataset": questions(), "eval_dataset": questions(), **of_trainer}
    args, tokenizer = options(folder, **{**STEPS, **kwargs}), tiny_tokenizer()
    return DROTrainer(
        model_init=model_init, args=args, processing_class=tokenizer, generator_processing_class=tokenizer, **rows
    )


def tiny():
    return tiny_model("llama", tiny_tokenizer())


def test_a_trial_is_the_run_of_a_new_trainer(tmp_path):
    """Its rows too, which the seed shuffles; and what an earlier trial alone had set is as it was."""
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
    asked = [
        {"learning_rate": 1e-2, "seed": 3, "num_selections": 3, "likelihood_reduction": "mean"},
        {"kl_coef": 0.5, "seed": 4, "per_device_train_batch_size": 3, "num_selected": 3, "warmup_steps": 0.5},
    ]
    found, made = [], []

    def space(trial):
        trial.suggest_int("number", trial.number, trial.number)
        return asked[trial.number]

    def models(trial):
        made.append(trial and trial.number)
        return tiny(), tiny_model("llama", tiny_tokenizer(), seed=5)

    shorter = {"max_steps": 1, "eval_steps": 1, "answerable_only": True}
    trainer = searcher(tmp_path / "search", models, peft_config=LORA, **shorter)
    before = trainer.args.to_dict()

    def objective(metrics):
        found.append({name: value for name, value in metrics.items() if "second" not in name and "time" not in name})
        return metrics["eval_reward"]

    best = trainer.hyperparameter_search(
        space, objective, n_trials=2, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    assert trainer.args.to_dict() == before
    assert made == [None, 0, 1]
    for wanted, given in zip(found, asked, strict=True):
        one = make_trainer(
            tmp_path / "one",
            model=tiny(),
            generator=tiny_model("llama", tiny_tokenizer(), seed=5),
            generator_processing_class=tiny_tokenizer(),
            peft_config=LORA,
            eval_dataset=questions(),
            **{**STEPS, **shorter, **given},
        )
        one.train()
        again = {name: logged(one, name)[-1] for name in wanted if name != "epoch"}
        assert {name: value for name, value in wanted.items() if name != "epoch"} == again
    assert best.objective == max(metrics["eval_reward"] for metrics in found)


def test_by_names_with_checkpoints_and_stopping(tmp_path):
    """The best model's measure is sought by itself; checkpoints lie in a folder a trial; stopping counts anew."""
    pytest.importorskip("optuna", reason="Optuna is not installed")
    stopping = {"early_stopping_patience": 1, "learning_rate": 0.0, "save_strategy": "steps", "save_steps": 1}
    start = save_start(tmp_path / "start")
    trainer = searcher(tmp_path / "out", lambda: start, **{**stopping, "eval_steps": 1, "max_steps": 5})
    best = trainer.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 0, 9)}, n_trials=2)
    assert sorted(path.name for path in (tmp_path / "out" / "run-1").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert trainer.state.global_step == 2
    assert best.objective >= trainer.state.best_metric
    trainer.args.seed, trainer.args.max_steps = best.hyperparameters["seed"], 1
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "out" / "dro_config.json").is_file()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"learning_rat": 1.0}, "'learning_rat' is no option of DROConfig; did you mean 'learning_rate'"),
        ({"lora_rank_of_mine": 4}, "what model_init decides it can ask of the trial itself"),
        ({"save_steps": 4}, "'save_steps' cannot be searched"),
        ({"shared_base": True}, "'shared_base' cannot be searched"),
        ({"num_selections": 1}, "num_selections=1 gives the selector no signal"),
        ({"kl_coef": -1.0}, "kl_coef=-1.0 must be a number"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
    ],
)
def test_what_no_trial_can_have_is_one_line(tmp_path, space, said):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    trainer = searcher(tmp_path, tiny)
    with pytest.raises(ValueError, match="hp_space: ") as told:
        trainer.hyperparameter_search(lambda trial: space, n_trials=1)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "search", "said"),
    [
        ({"model": tiny}, {}, "give model_init"),
        ({"eval_dataset": None, "eval_strategy": "no"}, {}, "give an eval_dataset"),
        ({}, {"backend": "ray"}, "use 'optuna'"),
        ({}, {"n_jobs": 2}, "leave it 1"),
        ({}, {"direction": "minimize"}, "would look for the worst reward"),
        ({"metric_for_best_model": "rewrd"}, {}, "did you mean 'reward'"),
    ],
)
def test_what_cannot_be_searched_is_told_first(tmp_path, given, search, said):
    if "model" in given:
        trainer = make_trainer(tmp_path, eval_dataset=questions())
    else:
        trainer = searcher(tmp_path, tiny, **given)
    with pytest.raises(ValueError, match=said):
        trainer.hyperparameter_search(lambda trial: {}, n_trials=1, **search)


def test_one_source_of_models_is_given(tmp_path):
    for models, said in (({}, "neither of"), ({"model": tiny(), "model_init": tiny}, "both of")):
        with pytest.raises(ValueError, match=f"{said} model and model_init"):
            DROTrainer(args=options(tmp_path), train_dataset=questions(), **models)
    with pytest.raises(ValueError, match="model_init returned None"):
        searcher(tmp_path, lambda: None)
    with pytest.raises(ValueError, match="train_dataset is a stream of rows, which can be read once"):
        searcher(tmp_path, tiny, train_dataset=iter(questions()))
    with pytest.raises(ValueError, match="optimizers hold the weights of one pair"):
        DROTrainer(args=options(tmp_path), model_init=tiny, optimizers=(object(), None))


def test_training_by_model_init_is_that_of_the_model(tmp_path):
    losses = []
    for trainer in (searcher(tmp_path, tiny), make_trainer(tmp_path, eval_dataset=questions(), **STEPS)):
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]
