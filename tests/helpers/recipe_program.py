"""`dro-trl train` on a machine without an accelerator, whatever its processes were launched for.

    DIE_AT="saving 2 0.01" accelerate launch ... -m tests.helpers.recipe_program --config recipe.yaml ...

`DIE_AT` kills the launcher and all its processes outright, so many seconds after the n-th time that process 0 does
what it names (see `PLACES`).
"""

import os
import sys
import threading
import time

import psutil
from accelerate import Accelerator

from dro_trl.cli import app
from dro_trl.models import selector_generator
from dro_trl.recipes import training
from dro_trl.trainer import pair_trainer, resuming
from tests.helpers.backends import backend_options, shard_everything

PLACES = {
    "sampling": (selector_generator.SelectorGenerator, "forward"),
    "scoring": (selector_generator.AnswerScorer, "logps"),
    "backward": (Accelerator, "backward"),
    "saving": (pair_trainer, "save_models"),
    "saving pending samples": (resuming, "save_pending"),
    "saving the end": (resuming, "save_run"),
}
"""What a run can be killed at: where the function is looked up, and its name."""


def die(after: float) -> None:
    """Kill everything that was launched together with this process, as a power cut does."""
    time.sleep(after)
    own = psutil.Process()
    launcher = own.parent() if "WORLD_SIZE" in os.environ else None
    for process in [launcher, *launcher.children(recursive=True)] if launcher else []:
        if process.pid != own.pid:
            process.kill()
    own.kill()


def die_at(place: str, count: int, after: float) -> None:
    """Make the `count`-th call of a place deadly."""
    where, name = PLACES[place]
    function, calls = getattr(where, name), iter(range(1, 10**9))

    def deadly(*args, **kwargs):
        if next(calls) == count:
            threading.Thread(target=die, args=(after,), daemon=True).start()
        return function(*args, **kwargs)

    setattr(where, name, deadly)


def main() -> None:
    if os.environ.get("DIE_AT") and os.environ.get("RANK", "0") == "0":
        place, count, after = os.environ["DIE_AT"].rsplit(" ", 2)
        die_at(place, int(count), float(after))
    train = training.train_and_save

    def train_sharded(trainer, checkpoint=None):
        """Train after the one change that no recipe makes."""
        shard_everything(trainer)
        return train(trainer, checkpoint)

    training.train_and_save = train_sharded
    options = [f"--{name}={value}" for name, value in backend_options().items()]
    sys.argv[1:] = ["train", *sys.argv[1:], *options]
    app.main()


if __name__ == "__main__":
    main()
