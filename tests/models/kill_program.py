"""Saves over what a folder holds, again and again, in processes that each kill themselves one file operation later."""

import os
import shutil
import signal
import sys
from pathlib import Path

from tests.models.test_killed import SAVES

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.chmod", "shutil.copyfile"}


def die_at(number: int, folder: str) -> None:
    """Kill this process before the operation of a number on files in a folder; reading is none."""
    left = [number]

    def count(event: str, args: tuple[object, ...]) -> None:
        if event not in EVENTS or not any(str(arg).startswith(folder) for arg in args[:2]):
            return
        if event == "open" and not int(args[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):  # type: ignore[call-overload]
            return
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main(start: Path, root: Path) -> None:
    """Leave `root/…/0`, `root/…/1`, … as the processes left them, the last of which was not killed."""
    for what, make in SAVES.items():
        old = root / what / "old"
        save = make(start, old, root / what)
        for number in range(1000):
            folder = root / what / str(number)
            shutil.copytree(old, folder)
            child = os.fork()
            if child == 0:
                die_at(number, str(folder))
                save(folder)
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
