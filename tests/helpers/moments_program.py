"""Runs what writes files, again and again, in processes that are killed at a random moment of it."""

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tests.models.test_killed_moments import OPERATIONS


def started(run: Callable[[Path], object], folder: Path) -> int:
    """Return the id of a new process that runs something and exits with 0 if it does not fail."""
    child = os.fork()
    if child:
        return child
    try:
        run(folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finished(run: Callable[[Path], object], folder: Path) -> float:
    """Run something to its end in a process of its own; return the seconds that it took."""
    start = time.monotonic()
    if os.waitpid(started(run, folder), 0)[1]:
        sys.exit(f"{folder}: it failed by itself")
    return time.monotonic() - start


def killed_again_and_again(what: str, start: Path, home: Path, kills: int) -> None:
    """Leave `home/old`, `new`, and for each kill `0`, `1`, … as it was left and `0_again` after the next run."""
    draw = random.Random(kills)
    (home / "old").mkdir(parents=True)
    run = OPERATIONS[what](start, home / "old" / "target", home)
    shutil.copytree(home / "old", home / "new")
    seconds = finished(run, home / "new" / "target")
    for number in range(kills):
        shutil.copytree(home / "old", home / str(number))
        child = started(run, home / str(number) / "target")
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        shutil.copytree(home / str(number), home / f"{number}_again")
        finished(run, home / f"{number}_again" / "target")


def main(start: Path, root: Path, kills: int) -> None:
    """Do so for each operation in a process of its own: one that was forked off among threads may wait for ever."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tqdm.monitor_interval = 0
    for what in OPERATIONS:
        finished(partial(killed_again_and_again, what, start, kills=kills), root / what)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
