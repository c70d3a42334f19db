"""Commands that are started as processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_LINES_OF_LOG = 15


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process as `Popen` does; an interruption meanwhile, such as by SIGTERM, ends it as well."""
    with ThreadPoolExecutor(1) as pool:  # Signals interrupt the main thread alone.
        starting = pool.submit(lambda: subprocess.Popen(command, **options))
        try:
            return starting.result()
        except BaseException:
            if starting.exception() is None:
                starting.result().kill()
            raise


def run_command(arguments: Sequence[str], log: Path, lock: int) -> dict[str, float]:
    """Run `python -m dro_trl ARGUMENTS` in a process of its own, its output appended to a file.

    Args:
        arguments: Of `dro-trl`.
        log: The file.
        lock: A file descriptor that the process holds as well.

    Returns:
        `seconds` from start to end, and `peak_memory_bytes`, the process's largest resident set.

    Raises:
        RuntimeError: If it fails; the message has the end of its output.
    """
    started = time.monotonic()
    with log.open("ab") as file:
        command = [sys.executable, "-P", "-m", "dro_trl", *arguments]
        process = start(command, stdout=file, stderr=subprocess.STDOUT, pass_fds=[lock])
        try:
            # Unlike getrusage(RUSAGE_CHILDREN), wait4 tells of this child alone, not of the largest so far.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_OF_LOG:])
        raise RuntimeError(
            f"dro-trl {arguments[0]} ended with exit code {process.returncode}; give the same command again to go on. "
            f"{log} ends with:\n{end}"
        )
    return {"seconds": round(time.monotonic() - started, 1), "peak_memory_bytes": usage.ru_maxrss * 1024}
