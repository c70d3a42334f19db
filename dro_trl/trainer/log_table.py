"""What training logs, as a table: a row a log with the numbers that matter and the time left, and hints."""

import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

COLUMNS = {"loss": "loss", "reward": "reward", "recall": "selection_recall", "entropy": "entropy", "ESS": "ess"}
"""Headings, and what is logged under them; the rest of a log goes to trackers and `trainer_state.json` alone."""

ANSWERS = {"EM": "em", "F1": "f1", "recall": "recall"}
"""What `predict_with_generate` adds to an evaluation, and what it is called in the line below its row."""

LOGS = 3
"""So many logs on end have to look wrong: one of few questions may by chance."""

ROWS = 20
"""The headings stand again after so many rows."""

SAME_REWARDS = (
    "hint: all selections of every question got the same reward, so the selector learns nothing from it: raise "
    "num_selections or temperature, or check what reward_funcs return"
)
NOT_FINITE = "hint: the loss is not finite: lower learning_rate, or compute in bf16 in place of fp16"


def clock(seconds: float) -> str:
    """Return a time as `h:mm:ss`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Rows:
    """Makes the lines of the table, each at most 80 columns."""

    def __init__(self) -> None:
        self._rows, self._same, self._said = 0, 0, set[str]()
        self._begun, self._first = time.monotonic(), 0

    def begin(self, state: TrainerState) -> None:
        """Count the time and the steps from here."""
        self._begun, self._first = time.monotonic(), state.global_step

    def lines(self, logs: Mapping[str, Any], state: TrainerState) -> list[str]:
        """Return what a log has to tell, with the headings where they are due."""
        if "train_runtime" in logs:
            return [f"trained {state.global_step:,} steps in {clock(logs['train_runtime'])}"]
        # Of several sets of questions each is evaluated by itself, as `eval_NAME_loss` and so on.
        losses = [name for name in logs if name.startswith("eval_") and name.endswith("_loss") and "/" not in name]
        prefix = losses[0].removesuffix("loss") if losses else ""
        values = [logs.get(prefix + name) for name in COLUMNS.values()]
        if all(value is None for value in values):
            return [f"{name}: {value}" for name, value in logs.items()]
        evaluated = prefix.removeprefix("eval_").removesuffix("_") or "evaluated"
        step = evaluated if prefix else f"{state.global_step:,}/{state.max_steps:,}"
        cells = ["–" if value is None else f"{value:.4g}" for value in values]
        row = self._row(step, cells, "" if prefix else self._left(state))
        heading = [self._row("step", [*COLUMNS], "left")] if self._rows % ROWS == 0 else []
        self._rows += 1
        return [*heading, row, *self._answers(logs, prefix), *self._hints(logs)]

    def _answers(self, logs: Mapping[str, Any], prefix: str) -> list[str]:
        found = {word: logs.get(prefix + name) for word, name in ANSWERS.items()}
        said = ", ".join(f"{word} {value:.4g}" for word, value in found.items() if value is not None)
        return [f"{'':>13} answers from the preferred selections: {said}"] if prefix and said else []

    def _row(self, step: str, cells: list[str], left: str) -> str:
        return f"{step:>13} {' '.join(f'{cell:>10}' for cell in cells)} {left:>9}".rstrip()

    def _left(self, state: TrainerState) -> str:
        done = state.global_step - self._first
        return clock((time.monotonic() - self._begun) / done * (state.max_steps - state.global_step)) if done else ""

    def _hints(self, logs: Mapping[str, Any]) -> list[str]:
        if "reward_std" in logs:
            self._same = 0 if logs["reward_std"] else self._same + 1
        found = {
            NOT_FINITE: not math.isfinite(logs.get("loss", 0.0)),
            SAME_REWARDS: self._same == LOGS,
        }
        new = [hint for hint, due in found.items() if due and hint not in self._said]
        self._said.update(new)
        return new


class LogTable(TrainerCallback):
    """Prints the table where there is no bar, in place of the dictionaries of transformers' `PrinterCallback`."""

    def __init__(self) -> None:
        self._rows = Rows()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin to count."""
        self._rows.begin(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Print a row."""
        if state.is_world_process_zero:
            for line in self._rows.lines(kwargs.get("logs") or {}, state):
                print(line, flush=True)  # Whoever waits reads how far it is from the log.


class LogTableWithBar(ProgressCallback):
    """Prints the table above transformers' bar."""

    def __init__(self) -> None:
        super().__init__()
        self._rows = Rows()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin to count, and show the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        self._rows.begin(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        """Print a row above the bar."""
        if state.is_world_process_zero and self.training_bar is not None:
            for line in self._rows.lines(logs or {}, state):
                self.training_bar.write(line)


def show_table(trainer: Trainer) -> None:
    """Have a trainer print the table in place of what transformers prints; a callback that was given stays."""
    for plain, table in ((PrinterCallback, LogTable), (ProgressCallback, LogTableWithBar)):
        for callback in [c for c in trainer.callback_handler.callbacks if type(c) is plain]:
            trainer.remove_callback(callback)
            trainer.add_callback(table())
