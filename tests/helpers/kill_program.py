"""Saves over what a folder holds, again and again, in processes that each kill themselves one file operation later."""

import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from tests.models.test_killed import SAVES

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.chmod", "shutil.copyfile"}


def die_at(number: int, folder: Path) -> None:
    """Kill this process before the operation of a number on files in a folder, or in hidden ones beside it that are
    about to take its place; reading is none.
    """
    left, places = [number], (str(folder), str(folder.with_name(f".{folder.name}")))

    def count(event: str, args: tuple[object, ...]) -> None:
        if event not in EVENTS or not any(str(arg).startswith(places) for arg in args[:2]):
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
                die_at(number, folder)
                try:
                    save(folder)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if status == 0:
                break
            if not os.WIFSIGNALED(status):
                sys.exit(f"{what}, operation {number}: the save failed by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
