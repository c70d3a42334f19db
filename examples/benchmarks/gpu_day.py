"""All that waits for a GPU, in one command: the most important first, each part within two minutes.

    python examples/benchmarks/gpu_day.py
    python examples/benchmarks/gpu_day.py --rehearse        # on a CPU, with tiny models, in a few minutes

Each part is a process of its own. What it found is a line of `gpu_day.jsonl` as soon as it ends, by itself or by its
time limit; the same command goes on behind the parts that are there and ended well, and takes those up again that did
not. The exit code is 1 if a part has failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LIMIT = 120.0
"""Seconds of a part on a GPU."""
LIMIT_OF_REHEARSAL = 900.0
"""On a CPU, which others may use as well."""
TESTS = ("gradients or bfloat16", "training_equals", "compiled or checkpoint", "recipe or pair")
"""Parts of `pytest -m gpu`, by words of the tests' names: all of them take longer than a part may."""
ROUNDS = 5
BACKENDS = ("zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Part:
    """A command, and where it leaves what it found."""

    name: str
    command: tuple[str, ...]
    output: Path | None = None
    """JSON that it writes; what it printed last is kept in any case."""


def benchmark(folder: Path, name: str, script: str, *arguments: str) -> Part:
    """Return a part that runs another script of this folder."""
    output = folder / f"{name.replace(' ', '_').replace(':', '')}.json"
    return Part(name, (sys.executable, str(HERE / script), *arguments, "--output", str(output)), output)


def tests() -> list[Part]:
    """Return the parts of `pytest -m gpu`."""
    command = (sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-v", "tests/integration/test_gpu.py", "-k")
    return [Part(f"tests: {words}", (*command, words)) for words in TESTS]


def against_trl(folder: Path, rehearse: bool) -> list[Part]:
    """Return rounds of our step against TRL's, each with every system, so that its ratios are of one time."""
    of_size = ("--size", "0.5B", "--dtype", "bfloat16", "--questions_per_step", "8", "--num_selections", "16")
    tiny = ("--size", "tiny", "--questions_per_step", "2", "--num_selections", "2", "--passage_tokens", "8")
    given = (*tiny, "--num_candidates", "6") if rehearse else of_size
    script = ("step_against_trl.py", "--groups", "step", "--rounds", "1", "--steps", "2" if rehearse else "3")
    return [
        benchmark(folder, f"against TRL: round {number}", *script, *given)
        for number in range(1, 2 if rehearse else ROUNDS + 1)
    ]


def rates(folder: Path, rehearse: bool) -> list[Part]:
    """Return the parts that say how much of the card is used, and what a step spends its time in."""
    size = ("--size", "tiny") if rehearse else ("--size", "0.5B", "--dtype", "bfloat16")
    batch = ("--batch_size", "2" if rehearse else "8")
    parts = [
        benchmark(folder, f"profile: {policy}", "step_profile.py", "--policy", policy, *size, *batch)
        for policy in ("pointwise", "autoregressive")
    ]
    if rehearse:
        return parts
    work = ("work_done.py", "--dtype", "bfloat16", "--policies", "pointwise", "--steps", "3", "--size")
    counted = ("operators_of_a_step.py", "--policies", "pointwise")
    return [
        *(benchmark(folder, f"rate: {size}", *work, size) for size in ("0.5B", "1.5B")),
        *parts,
        benchmark(folder, "operators", *counted),
        benchmark(folder, "operators: compiled", *counted, "--compiled"),
    ]


def memory(folder: Path, rehearse: bool) -> list[Part]:
    """Return measured peaks against those of `dro-trl estimate`, a part for each configuration."""
    names = ["small, LoRA"] if rehearse else ["LoRA", "full", "bfloat16, LoRA", "N = 20, M = 8", "Gemma 3"]
    return [benchmark(folder, f"memory: {name}", "estimate_against_measured.py", "--only", name) for name in names]


def sharded(folder: Path, rehearse: bool) -> list[Part]:
    """Return a training of two steps by each launch config that the package ships, on one device."""
    data = folder / "sharded"
    parts = []
    for name in BACKENDS:
        if rehearse and name == "fsdp2":
            continue  # accelerate knows it beside an accelerator alone.
        config = REPOSITORY / "recipes" / "accelerate" / f"{name}.yaml"
        launch = ["-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "1"]
        launch += ["--mixed_precision", "no"] if rehearse else []
        lines = {
            "model_name_or_path": data / "model",
            "dataset_name": data / "train.jsonl",
            "output_dir": data / name,
            "policy": "dro_trl.AutoregressivePolicy",  # These words have no " yes".
            "num_candidates": 6,
            "num_selected": 2,
            "num_selections": 4,
            "per_device_train_batch_size": 2,
            "max_steps": 2,
            "logging_steps": 1,
            "dtype": "float32",
            "bf16": str(not rehearse).lower(),
            "save_strategy": "no",
            "report_to": "none",
        }
        options = [part for option, value in lines.items() for part in (f"--{option}", str(value))]
        options += ["--ddp_backend", "gloo"] if rehearse else []
        command = (sys.executable, *launch, "-m", "dro_trl", "train", *options)
        parts.append(Part(f"sharded: {name}", command, data / name / "trainer_state.json"))
    return parts


def write_start(folder: Path) -> None:
    """Write the tiny model and the questions of the sharded trainings."""
    from small_models import TINY, questions, random_model, word_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    random_model("qwen2", **TINY).cpu().save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    rows = [{**row, "gold_ids": []} for row in questions(8, 6, 8)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def all_parts(folder: Path, rehearse: bool) -> list[Part]:
    """Return every part, the most important first."""
    first = [] if rehearse else tests()
    last = (*memory(folder, rehearse), *rates(folder, rehearse), *sharded(folder, rehearse))
    return [*first, *against_trl(folder, rehearse), *last]


def run(part: Part, limit: float) -> dict[str, Any]:
    """Run a part, and return what it found; at its limit it ends, with all the processes that it started."""
    if part.output is not None:
        part.output.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    began = time.monotonic()
    process = subprocess.Popen(
        part.command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, ended = process.communicate(timeout=limit)[0], True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, ended = process.communicate()[0], False
    found = json.loads(part.output.read_text()) if part.output is not None and part.output.is_file() else None
    failed = not ended or process.returncode != 0 or (part.output is not None and found is None)
    return {
        "part": part.name,
        "ok": not failed,
        "seconds": round(time.monotonic() - began, 1),
        "exit_code": process.returncode if ended else "time limit",
        "found": found,
        "said": said[-4000:],
    }


def run_all(parts: Sequence[Part], results: Path, about: dict[str, Any], limit: float) -> bool:
    """Run the parts that did not end well before, each a line of `results`; whether all have by now."""
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    done = {line["part"] for line in known if line["ok"] and line["about"] == about}
    well = True
    for part in parts:
        if part.name in done:
            print(f"{part.name}: done before", flush=True)
            continue
        found = {"about": about, **run(part, limit)}
        with results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{part.name}: {'ok' if found['ok'] else 'FAILED'}, {found['seconds']} s", flush=True)
        if not found["ok"]:
            well = False
            print(found["said"][-1000:], flush=True)
    return well


def main() -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny models, on a CPU")
    parser.add_argument("--only", nargs="+", help="beginnings of the parts' names")
    parser.add_argument("--output", type=Path, default=Path("gpu_day.jsonl"))
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("there is no GPU; --rehearse runs the parts with tiny models on a CPU")
    from importlib.metadata import version

    where = "cpu" if options.rehearse else torch.cuda.get_device_name()
    about = {"device": where, **{name: version(name) for name in ("torch", "transformers", "trl", "peft")}}
    folder = options.output.resolve().with_suffix("")
    parts = all_parts(folder, options.rehearse)
    if options.only:
        parts = [part for part in parts if part.name.startswith(tuple(options.only))]
    write_start(folder / "sharded")
    limit = LIMIT_OF_REHEARSAL if options.rehearse else LIMIT
    raise SystemExit(not run_all(parts, options.output, about, limit))


if __name__ == "__main__":
    main()
