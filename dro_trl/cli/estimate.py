"""`dro-trl estimate`: the memory and the time that a recipe is expected to need, without running it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dro_trl.cli import options

if TYPE_CHECKING:
    from dro_trl.recipes.options import Given

AccelerateConfig = Annotated[
    Path | None, typer.Option("--accelerate_config", help="As given to accelerate launch; one process without.")
]
NumProcesses = Annotated[
    int | None, typer.Option("--num_processes", "--gpus", min=1, help="In place of the accelerate config's.")
]
Backend = Annotated[str | None, typer.Option("--backend", help="DDP, FSDP2, ZeRO-1, ZeRO-2 or ZeRO-3, likewise.")]
ModelConfig = Annotated[
    str | None,
    typer.Option("--model_config", help="Folder, config.json or known name, where the model itself is not here."),
]
PassageTokens = Annotated[int | None, typer.Option("--passage_tokens", min=1, help="In place of the data.")]
NumQuestions = Annotated[int | None, typer.Option("--num_questions", min=1, help="In place of the data.")]
FlopsPerSecond = Annotated[
    float | None, typer.Option("--flops_per_second", min=1.0, help="Of one process; measured here where not given.")
]
Utilization = Annotated[
    float, typer.Option("--utilization", min=0.01, max=1.0, help="Part of it that training reaches.")
]
Bandwidth = Annotated[
    float | None,
    typer.Option("--bandwidth", min=0.001, help="GB a second that a process receives while all others do."),
]
Output = Annotated[
    Path | None, typer.Option("--output", help="JSON file; estimate.json in output_dir where not given.")
]


def main(
    context: typer.Context,
    accelerate_config: AccelerateConfig = None,
    num_processes: NumProcesses = None,
    backend: Backend = None,
    model_config: ModelConfig = None,
    passage_tokens: PassageTokens = None,
    question_tokens: Annotated[int, typer.Option("--question_tokens", min=1, help="With --passage_tokens.")] = 20,
    answer_tokens: Annotated[int, typer.Option("--answer_tokens", min=1, help="With --passage_tokens.")] = 8,
    num_questions: NumQuestions = None,
    flops_per_second: FlopsPerSecond = None,
    utilization: Utilization = 0.4,
    bandwidth: Bandwidth = None,
    output: Output = None,
    help_all: options.HelpAll = False,
) -> None:
    """Estimate memory and time: --config recipe.yaml, and --NAME VALUE for any field of it, as for `train`."""
    from dro_trl.recipes.options import TRAIN, read_given

    given = read_given(context.args, TRAIN)  # Before torch is imported, which takes seconds.
    _check_there(given, output, model_config)

    from dataclasses import replace

    from rich.console import Console

    from dro_trl.cli.outputs import claim
    from dro_trl.files.writing import write_json
    from dro_trl.recipes.estimates.estimate import (
        describe_estimate,
        describe_run,
        estimate_exchange,
        estimate_memory,
        estimate_time,
        parse_for_any_machine,
        read_backend,
    )
    from dro_trl.recipes.estimates.flops import measured_flops_per_second
    from dro_trl.recipes.estimates.lengths import StatedLengths

    (script, args, model), gpu = parse_for_any_machine(given, accelerate_config is not None)
    chosen, mixed_precision = read_backend(accelerate_config, gpu, backend, num_processes)
    path = output or Path(str(args.output_dir)) / "estimate.json"
    read = {"--accelerate_config": accelerate_config, "--model_config": Path(model_config) if model_config else None}
    claim(context, {"--output": path}, read)
    stated = StatedLengths(passage_tokens, question_tokens, answer_tokens) if passage_tokens else None
    run = describe_run(script, args, model, chosen, mixed_precision, model_config, stated)
    if num_questions:
        run = replace(run, lengths=replace(run.lengths, num_questions=num_questions))
    shape = run.selector.shape
    rate = flops_per_second or measured_flops_per_second(run.precision, shape.hidden, shape.intermediate)
    found: dict[str, Any] = {
        **describe_estimate(run, rate, utilization, measured=flops_per_second is None),
        "memory": estimate_memory(run),
        "time": estimate_time(run, rate * utilization),
    }
    tables = [_memory_table(found), _time_table(found)]
    if chosen.processes > 1:
        seconds = found["time"]["seconds_of_a_step"]
        found["exchange"] = estimate_exchange(run, seconds, bandwidth and bandwidth * 1e9)
        tables.append(_exchange_table(found["exchange"], seconds))
    console = Console()
    for table in tables:
        console.print(table)
    print("Not counted: the CUDA context, fragmentation, evaluation, and rewards that generate answers.")
    write_json(path, found)
    print(f"Results: {path}")


def _check_there(given: "Given", output: Path | None, model_config: str | None) -> None:
    """Look at what a recipe names that is read for an estimate; nothing is fetched from a hub."""
    from dro_trl.recipes.paths import check_lines, check_sizes

    models = ("model_name_or_path", "generator_name_or_path")
    unread = {*models, "eval_dataset_name", "resume_from_checkpoint", *(["output_dir"] if output else [])}
    if not Path(str(given.values["dataset_name"])).exists():  # Lengths are stated then.
        unread.add("dataset_name")
    check_lines(given.values, given.source, unread)
    for name in () if model_config else models:
        if start := given.values.get(name):
            check_sizes(f"{given.source}: {name} {start}", str(start), given.values)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _memory_table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    from dro_trl.files.wording import counted

    memory, backend = found["memory"], found["backend"]
    many = backend["processes"] if backend["name"] != "one process" else 0
    processes = f", {counted(many, 'process', 'processes')}" if many else ""
    table = Table("GiB a process", "", title=backend["name"] + processes)
    for name, size in memory["state"].items():
        table.add_row(name, _gib(size))
    for name in ("selector", "generator"):
        part = memory[name]
        table.add_row(f"{name}: activations kept", _gib(part["kept"]))
        table.add_row(f"{name}: logits at their peak", _gib(part["logits"]))
    table.add_section()
    for name, size in memory["moments"].items():
        table.add_row(name, _gib(size), style="bold" if name == memory["peak_moment"] else None)
    table.add_section()
    table.add_row("peak", _gib(memory["peak"]), style="bold")
    for name, size in memory["host"].items():
        table.add_row(f"in the CPU's memory: {name}", _gib(size))
    return table


def _time_table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    expected, rate, lengths = found["time"], found["rate"], found["lengths"]
    table = Table("time", "")
    table.add_row("tokens a question (selector; each generator prompt)", _pair(lengths["mean"]))
    table.add_row("the longest, which memory is for", _pair(lengths["longest"]))
    table.add_row("from", lengths["source"])
    table.add_row("TFLOP of an optimizer step, a process", f"{expected['flops_of_a_step'] / 1e12:.2f}")
    origin = "measured here" if rate["measured_here"] else "stated"
    table.add_row(
        "TFLOP/s of a process",
        f"{rate['flops_per_second'] / 1e12:.3g} ({origin}) x {rate['utilization']:g} of it used",
    )
    table.add_row("seconds a step", f"{expected['seconds_of_a_step']:.2f}", style="bold")
    table.add_row("questions a step", str(expected["questions_of_a_step"]))
    known = expected["steps"] is not None
    table.add_row("steps", str(expected["steps"]) if known else "unknown: give --num_questions")
    if known:
        table.add_row("hours", f"{expected['seconds'] / 3600:.2f}", style="bold")
    return table


def _exchange_table(exchange: dict[str, Any], computing: float) -> Any:
    from rich.table import Table

    seconds = exchange["seconds"]
    table = Table("a step of several processes", "")
    for name, size in exchange["received"].items():
        table.add_row(f"GB of {name} that a process receives (rings)", f"{size / 1e9:.2f}")
    if seconds["exchanging"] is None:
        table.add_row("seconds of the exchange", "unknown: give --bandwidth")
        return table
    table.add_row("seconds of the work", f"{computing:.2f}")
    table.add_row(
        f"seconds of the exchange, at {exchange['bandwidth'] / 1e9:g} GB/s (stated)", f"{seconds['exchanging']:.2f}"
    )
    bounds = f"{seconds['least']:.2f} to {seconds['most']:.2f}"
    table.add_row("seconds a step: all of it behind the work, to none", bounds, style="bold")
    table.add_row("what binds", seconds["binds"], style="bold")
    return table


def _pair(lengths: dict[str, float]) -> str:
    return f"{lengths['selector']:.0f}; {lengths['generator']:.0f}"
