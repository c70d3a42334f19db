"""Searching for options: each trial is the run that a new trainer with those options would make."""

import copy
from collections.abc import Callable, Mapping
from enum import Enum
from inspect import signature
from typing import Any

from transformers import set_seed
from transformers.trainer_utils import HPSearchBackend

from dro_trl.data.given import is_stream
from dro_trl.names import nearest
from dro_trl.options.values import check_config, options_of
from dro_trl.trainer.evaluating import EvaluatingTrainer
from dro_trl.trainer.resuming import ALLOWED

FIXED = tuple(
    "accelerator_config bf16 chat ddp deepspeed fp16 fsdp full_determinism generator_name_or_path local_rank "
    "model_init_kwargs save_base shared_base tf32 torch_compile".split()
)
"""Beginnings of the names of options that a trial cannot have, beside those that decide nothing of what is learnt."""


def check_sources(model: Any, model_init: Any, optimizers: tuple[Any, Any], rows: Any) -> None:
    """Refuse two sources of models, or none, and what goes with the models of one training alone.

    Raises:
        ValueError: Says which.
    """
    if (model is None) == (model_init is None):
        given = "neither" if model is None else "both"
        raise ValueError(f"{given} of model and model_init given; give one of them")
    if model_init is not None and any(optimizers):
        raise ValueError("optimizers hold the weights of one pair, and model_init makes others; leave one of them out")
    if model_init is not None and is_stream(rows):
        raise ValueError(
            "train_dataset is a stream of rows, which can be read once, and model_init is for several trainings; give "
            "as many as are wanted as a list, such as list(stream.take(500))"
        )


def start_of(model_init: Any, trial: Any, seed: int) -> tuple[Any, Any]:
    """Return what `model_init` makes: the selector's start and the generator's, None where it has none of its own.

    Args:
        model_init: As in `DROTrainer`.
        trial: Of a search, given to it where it takes an argument.
        seed: Random numbers begin with it, and begin anew for what is put on the models.

    Raises:
        ValueError: If it returns neither one model nor two, or their names.
    """
    set_seed(seed)
    made = model_init(trial) if len(signature(model_init).parameters) else model_init()
    set_seed(seed)
    selector, generator = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if selector is None or isinstance(selector, tuple):
        raise ValueError(f"model_init returned {made!r:.80}; return the selector, or (selector, generator)")
    return selector, generator


class SearchingTrainer(EvaluatingTrainer):
    """Trains with options that Optuna suggests, both models and the rows made anew in each trial."""

    args: Any
    _as_given: Any = None
    """The options before a search."""

    def rebuild(self, trial: Any) -> Any:
        """Make both models, the rows and all that depends on the options anew, and return the pair."""
        raise NotImplementedError

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new pair, of what `model_init` makes.

        Args:
            trial: Given to `model_init` where it takes an argument.
        """
        self.model = self.rebuild(trial)
        if self.args.save_strategy != "no":
            self.describe()
        return self.model

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train as `EvaluatingTrainer` does; a trial of a search with the options that it has."""
        if trial is not None and self.hp_search_backend is not None:
            self._take_options(self.hp_space(trial))
        return super().train(resume_from_checkpoint, trial, *args, **kwargs)

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], Any] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Search as `transformers.Trainer` does, by Optuna; afterwards the options are again those before.

        Args:
            hp_space: The options of a trial, by name.
            compute_objective: What is to be optimised, of an evaluation's measures; `metric_for_best_model` where
                None, or the loss.
            n_trials: How many trials.
            direction: `"maximize"` or `"minimize"`; where None, what is better of `metric_for_best_model`.
            backend: `"optuna"`.
            hp_name: The name of a trial's run.
            kwargs: As in `transformers.Trainer`.

        Raises:
            ValueError: If a trial has an option that there is not, that cannot be searched, or with a value that it
                may not have; or if there is nothing to evaluate on.
        """
        metric = self.args.metric_for_best_model or "loss"
        if compute_objective is None:
            better = "maximize" if self.args.greater_is_better else "minimize"
            if direction not in (None, better):
                raise ValueError(
                    f"direction={direction!r} would look for the worst {metric}; leave it out, or {better!r}"
                )
            direction = better
        self._check_search(backend, kwargs)

        def of_metric(metrics: Mapping[str, float]) -> float:
            return metrics[f"eval_{metric.removeprefix('eval_')}"]

        self.check_best_metric()
        self._as_given = copy.copy(self.args)
        try:
            objective, towards = compute_objective or of_metric, direction or "minimize"
            return super().hyperparameter_search(hp_space, objective, n_trials, towards, "optuna", hp_name, **kwargs)
        finally:
            vars(self.args).update(vars(self._as_given))
            self._train_batch_size, self.hp_search_backend = self.args.train_batch_size, None

    def _check_search(self, backend: Any, kwargs: Mapping[str, Any]) -> None:
        if self.model_init is None:
            raise ValueError("hyperparameter_search makes both models anew in each trial; give model_init, not model")
        if self.eval_dataset is None:
            raise ValueError("hyperparameter_search has nothing to compare trials on; give an eval_dataset")
        if backend not in (None, "optuna", HPSearchBackend.OPTUNA):
            raise ValueError(f"backend={getattr(backend, 'value', backend)!r} was not tried with a pair; use 'optuna'")
        if kwargs.get("n_jobs", 1) != 1:
            raise ValueError(f"n_jobs={kwargs['n_jobs']} would train several trials in one trainer; leave it 1")

    def _take_options(self, asked: Mapping[str, Any]) -> None:
        """Put a trial's options in the place of those given, and refuse what no run could have."""
        options = options_of(type(self.args))
        for name in asked:
            if name not in options:
                near = nearest(name, options)
                hint = f"did you mean {near!r}?" if near else "what model_init decides it can ask of the trial itself"
                raise ValueError(f"hp_space: {name!r} is no option of {type(self.args).__name__}; {hint}")
            if name.startswith((*ALLOWED, *FIXED)) and name not in ("max_steps", "num_train_epochs"):
                raise ValueError(
                    f"hp_space: {name!r} cannot be searched, since it decides nothing of what is learnt, or what all "
                    "trials have in common; set it in the options"
                )
        vars(self.args).update(vars(self._as_given))
        for name, value in asked.items():
            old, option = getattr(self.args, name), options[name]
            if isinstance(old, Enum):
                value = type(old)(value)
            # Trainer makes each value one of the old one's type, so that 0.1 in place of 0 would be 0.
            setattr(self.args, name, float(value) if type(value) is int and not option.has(int) else value)
        try:
            check_config(self.args)
            self.args.check_together()
        except ValueError as error:
            raise ValueError(f"hp_space: {error}") from error
