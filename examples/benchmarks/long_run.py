"""Thousands of optimizer steps: does anything grow, and does a run that is killed again and again end as it should?

    OMP_NUM_THREADS=1 python examples/benchmarks/long_run.py --steps 3000

Two small random Qwen2 train on `--num_rows` questions for as many epochs as the steps take, with an evaluation and a
checkpoint every `--save_steps`. Every ten steps each process notes its resident memory, open files, threads, children
and the size of its logs. A second run is the same, but all its processes are killed outright (SIGKILL) at `--kills`
random moments, and it is resumed each time. Then the weights and the logged measures of both are compared, bit by bit.

Growth is the slope of a straight line through the means of twenty blocks of steps, the first fifth left out, per 1,000
steps, with its 95 % interval; of several processes that of the one that grows most. `--backend` names a file of
`recipes/accelerate`, for two processes on the CPU, and `--workers` gives data loader workers a process.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from small_models import QWEN2_25M, questions
from small_runs import make_trainer
from transformers import TrainerCallback

from dro_trl.files.writing import write_json
from dro_trl.trainer.resuming import last_checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "accelerate"
TINY = {**QWEN2_25M, "hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 2}
NOTED = {
    "resident_mib": "resident memory, MiB",
    "files": "open files",
    "threads": "threads",
    "children": "processes under it",
    "log_kib": "logged measures, KiB",
}
BLOCKS, T_OF_BLOCKS = 20, 2.10
"""Means that a line is laid through, and Student's t for its slope: 18 degrees of freedom, 95 %."""


class Notes(TrainerCallback):
    """Appends to a file what the process holds, every ten steps."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"notes_{os.environ.get('RANK', 0)}.jsonl"
        self._process = psutil.Process()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note them."""
        if state.global_step % 10:
            return
        times, process = [], self._process
        for one in (process, *process.children(recursive=True)):
            spent = one.cpu_times()
            times.append(spent.user + spent.system)
        note = {
            "step": state.global_step,
            "seconds": sum(times),
            "resident_mib": process.memory_info().rss / 2**20,
            "files": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(times) - 1,
            "log_kib": len(json.dumps(state.log_history)) / 1024,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train in this process, going on from what the folder holds."""
    rows = questions(options.num_rows + 4, 5, 8)
    trainer = make_trainer(
        Dataset.from_list(rows[4:]),
        folder,
        TINY,
        eval_dataset=Dataset.from_list(rows[:4]),
        callbacks=[Notes(folder)],
        num_selected=2,
        num_selections=4,
        learning_rate=1e-3,
        max_steps=options.steps,
        per_device_train_batch_size=1 if options.backend else 2,
        logging_strategy="steps",
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=options.save_steps,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=3,
        dataloader_num_workers=options.workers,
        dataloader_multiprocessing_context=options.start_method,
        dataloader_persistent_workers=not options.leave_each_epoch,
    )
    trainer.train(resume_from_checkpoint=str(last_checkpoint(folder) or "") or None)
    trainer.save_model()
    trainer.save_state()
    trainer.accelerator.end_training()


def command(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command that trains in processes of its own."""
    given = ["--steps", "--num_rows", "--save_steps", "--workers"]
    arguments = [word for name in given for word in (name, str(getattr(options, name[2:])))]
    arguments += ["--start_method", options.start_method] if options.start_method else []
    arguments += ["--leave_each_epoch"] if options.leave_each_epoch else []
    launch = [sys.executable]
    if options.backend:
        arguments += ["--backend", options.backend]
        launch += ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{options.backend}.yaml")]
        launch += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    return [*launch, __file__, *arguments, "--train_in", str(folder)]


def run(folder: Path, options: argparse.Namespace, kill_after: float | None = None) -> bool:
    """Train, for a number of seconds at most if one is given; whether it came to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        launched = subprocess.Popen(command(folder, options), stdout=output, stderr=subprocess.STDOUT)
        try:
            code = launched.wait(kill_after)
        except subprocess.TimeoutExpired:
            for process in [psutil.Process(launched.pid), *_trainers(launched.pid)]:
                process.kill()
            launched.wait()
            return False
    if code:
        raise RuntimeError(f"training ended with exit code {code}; see {folder / 'output.txt'}")
    return True


def _trainers(launched: int) -> list[psutil.Process]:
    """The processes that a launcher started; their workers have to end by themselves."""
    return psutil.Process(launched).children()


def kill_and_resume(folder: Path, options: argparse.Namespace, whole_seconds: float) -> dict[str, Any]:
    """Train, killed at random moments of the time that a whole run took; return what was done at each kill."""
    chance, steps, left_behind = random.Random(0), [], 0
    while len(steps) < options.kills:
        before = {process.pid for process in psutil.Process().children(recursive=True)}
        if run(folder, options, chance.uniform(0.2, 1.8) * whole_seconds / (options.kills + 1)):
            break
        time.sleep(6)  # Workers look every few seconds at the latest.
        left_behind += len([p for p in psutil.Process().children(recursive=True) if p.pid not in before])
        left_behind += len([p for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])])
        checkpoint = last_checkpoint(folder)
        steps.append(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    run(folder, options)
    return {"resumed_at": steps, "processes_left_behind": left_behind}


def same_end(one: Path, other: Path) -> dict[str, bool]:
    """Return whether two runs ended with the same weights, and with the same logged measures."""
    names = [f"{role}/model.safetensors" for role in ("selector", "generator")]
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (one, other)]
    of_time = ("runtime", "per_second")
    logs = [
        [{k: v for k, v in entry.items() if not k.endswith(of_time)} for entry in log if "train_runtime" not in entry]
        for log in logs
    ]
    return {
        "weights": all((one / name).read_bytes() == (other / name).read_bytes() for name in names),
        "measures": logs[0] == logs[1] and len(logs[0]) > 0,
    }


def slope(steps: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return how much a value grows in 1,000 steps, and half the width of the 95 % interval."""
    kept = steps > steps[-1] / 5
    x = np.array([part.mean() for part in np.array_split(steps[kept], BLOCKS)]) / 1000
    y = np.array([part.mean() for part in np.array_split(values[kept], BLOCKS)])
    spread = ((x - x.mean()) ** 2).sum()
    rate = ((x - x.mean()) * (y - y.mean())).sum() / spread
    rest = y - y.mean() - rate * (x - x.mean())
    return float(rate), float(T_OF_BLOCKS * np.sqrt((rest**2).sum() / (BLOCKS - 2) / spread))


def growth(folder: Path) -> dict[str, dict[str, float]]:
    """Return start, end and slope of what was noted, of the process where it grows most."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("notes_*.jsonl")):
        notes = [json.loads(line) for line in path.read_text().splitlines()]
        steps = np.array([note["step"] for note in notes], float)
        for name in NOTED:
            values = np.array([note[name] for note in notes], float)
            rate, half = slope(steps, values)
            if name not in found or rate > found[name]["slope"]:
                found[name] = {"start": values[0], "end": values[-1], "most": max(values), "slope": rate, "half": half}
    return found


def main() -> None:
    """Train twice, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--num_rows", type=int, default=30, help="two a step")
    parser.add_argument("--save_steps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--backend", choices=("cpu_2proc", "fsdp2", "zero1", "zero2", "zero3"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--start_method", choices=("fork", "forkserver", "spawn"))
    parser.add_argument("--leave_each_epoch", action="store_true", help="have workers end with each epoch")
    parser.add_argument("--folder", type=Path, default=Path("long_run"))
    parser.add_argument("--train_in", type=Path, help="used inside, by the processes that train")
    options = parser.parse_args()
    if options.train_in:
        train(options.train_in, options)
        return
    started = time.monotonic()
    run(options.folder / "whole", options)
    seconds = time.monotonic() - started
    results: dict[str, Any] = {"steps": options.steps, "backend": options.backend, "workers": options.workers}
    results["growth"] = found = growth(options.folder / "whole")
    notes = [json.loads(line) for line in (options.folder / "whole" / "notes_0.jsonl").read_text().splitlines()]
    spent = (notes[-1]["seconds"] - notes[0]["seconds"]) / (notes[-1]["step"] - notes[0]["step"])
    results["processor_seconds_per_epoch"] = spent * -(-options.num_rows // 2)
    if options.kills:
        results |= kill_and_resume(options.folder / "killed", options, seconds)
        results["same_end"] = same_end(options.folder / "whole", options.folder / "killed")
    write_json(options.folder / "long_run.json", results)
    table = Table("", "after 10 steps", "at the end", "most", "growth in 1,000 steps")
    for name, label in NOTED.items():
        row = found[name]
        cells = [f"{row[part]:,.1f}" for part in ("start", "end", "most")]
        table.add_row(label, *cells, f"{row['slope']:+.2f} ± {row['half']:.2f}")
    Console(width=110).print(table)
    print({name: value for name, value in results.items() if name != "growth"})
    print(f"Results: {options.folder / 'long_run.json'}")


if __name__ == "__main__":
    main()
