"""Launching programs as users do, on two processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BACKENDS = ("cpu_2proc", "fsdp2", "zero1", "zero2", "zero3", "zero3_offload")
"""The accelerate configs of `recipes/accelerate` that a machine without an accelerator can run."""


def command(backend: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python module under a backend: `"one"` for one process."""
    if backend == "one":
        return [sys.executable, "-m", *arguments]
    config = REPOSITORY / "recipes" / "accelerate" / f"{backend}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*launch, "--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0", "-m", *arguments]


def launch(
    backend: str,
    *arguments: str,
    timeout: float = 240,
    environment: dict[str, str] | None = None,
    check: bool = True,
) -> tuple[int, str]:
    """Run a module under a backend; a run that hangs, or one that fails where `check` is on, fails the test.

    Returns:
        The exit code, negative where a signal ended it, and what was printed.
    """
    done = subprocess.run(
        command(backend, *arguments),
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **(environment or {})},
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0 or not check, done.stdout[-20000:]
    return done.returncode, done.stdout
