"""`dro-trl ask`: questions to a trained pair, one, a file of them, or as they are typed."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dro_trl.cli import options
from dro_trl.cli.retrieve import K1, B, IndexDir, Prebuilt

if TYPE_CHECKING:
    from rich.console import Console

    from dro_trl.pipeline import RAGOutput, RAGPipeline

Question = Annotated[str | None, typer.Argument(help="The question; typed or piped in, one a line, if not given.")]
Input = Annotated[Path | None, typer.Option("--input", help="JSONL file of rows with a question instead.")]
NumCandidates = Annotated[
    int | None, typer.Option("--num_candidates", min=1, help="Candidates to retrieve; as in training if not given.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a question.")]
MaxNewTokens = Annotated[int, typer.Option("--max_new_tokens", min=1, help="Longest answer, in tokens.")]
BatchSize = Annotated[int, typer.Option("--per_device_eval_batch_size", min=1, help="Questions in a batch.")]


def main(
    model: options.Model,
    question: Question = None,
    input: Input = None,
    as_json: AsJson = False,
    index_dir: IndexDir = None,
    prebuilt: Prebuilt = None,
    num_candidates: NumCandidates = None,
    num_selected: options.NumSelected = None,
    k1: K1 = 0.9,
    b: B = 0.4,
    window_size: options.WindowSize = None,
    window_stride: options.WindowStride = None,
    batch_size: BatchSize = 8,
    max_new_tokens: MaxNewTokens = 32,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_thinking_tokens: options.MaxThinkingTokens = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Retrieve, select and answer; prints the answer and the passages it rests on."""
    from dro_trl.cli.quiet import load_quietly
    from dro_trl.lm.garbage import without_collection

    with without_collection():
        from dro_trl.lm.devices import choose_device, choose_dtype, describe
        from dro_trl.models.names import pair_folder
        from dro_trl.models.saving import read_config
        from dro_trl.pipeline import RAGPipeline
        from dro_trl.retrieval.opening import passage_source

    if (index_dir is None) == (prebuilt is None):
        raise ValueError(f"give one of --index_dir and --prebuilt, not --index_dir={index_dir} --prebuilt={prebuilt}")
    rows = None if is_typed(question, input) else read_questions(question, input)
    place = choose_device(device)
    number_format = choose_dtype(dtype, place)
    read_config(pair_folder(model, revision))  # Before the index is opened, which starts a Java.
    typer.echo(f"Asking {model} {describe(place, number_format)}", err=True)
    load_quietly()
    with passage_source(index_dir, prebuilt, None, k1, b, None, None, None) as retriever:
        pipeline = RAGPipeline.from_pretrained(
            model,
            retriever=retriever,
            num_candidates=num_candidates,
            num_selected=num_selected,
            window_size=window_size,
            window_stride=window_stride,
            device=place,
            dtype=number_format,
            revision=revision,
            max_thinking_tokens=max_thinking_tokens,
            trust_remote_code=trust_remote_code,
        )
        if rows is None:
            answer_typed(pipeline, max_new_tokens, as_json)
            return
        for start in range(0, len(rows), 4 * batch_size):
            some = rows[start : start + 4 * batch_size]
            outputs = pipeline([row["question"] for row in some], batch_size, max_new_tokens)
            for row, output in zip(some, outputs, strict=True):
                show(output, as_json, row)


def is_typed(question: str | None, input: Path | None) -> bool:
    """Whether questions are typed at a terminal, since none are given."""
    return question is None and input is None and sys.stdin.isatty()


def read_questions(question: str | None, input: Path | None) -> list[dict[str, Any]]:
    """Return the questions that are given, those of a file with their ids.

    Raises:
        ValueError: If there are none, or two sources of them.
        FileNotFoundError: If there is no such file.
    """
    from dro_trl.retrieval.questions import QuestionRows, query_id

    if question is not None and input is not None:
        raise ValueError(f"give a question or --input {input}, not both")
    if question is not None:
        return [{"question": question}]
    if input is None:
        rows = [{"question": line.strip()} for line in sys.stdin if line.strip()]
        where = "standard input"
    else:
        with QuestionRows(input) as found:
            rows = [{"id": query_id(row, i), "question": row["question"]} for i, row in enumerate(found, start=1)]
        where = str(input)
    if not rows:
        raise ValueError(f'{where} holds no question; give one, such as dro-trl ask "Who discovered radium?" …')
    return rows


def typed() -> Iterator[str]:
    """Yield what is typed, until an empty line or the end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  Arrow keys, and what was typed before.
    while True:
        try:
            line = input("question (empty to end)> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def answer_typed(pipeline: "RAGPipeline", max_new_tokens: int, as_json: bool) -> None:
    """Answer questions as they are typed; one that cannot be answered does not end it."""
    for question in typed():
        try:
            show(pipeline(question, max_new_tokens=max_new_tokens), as_json, {})
        except ValueError as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)


def show(output: "RAGOutput", as_json: bool, row: dict[str, Any]) -> None:
    """Print an answer, for a reader or as a line of JSON with the id that its question has."""
    import json
    from dataclasses import asdict

    if as_json:
        ids = {"id": row["id"]} if "id" in row else {}
        typer.echo(json.dumps({**ids, **asdict(output)}, ensure_ascii=False))
    else:
        print_output(output)


def print_output(output: "RAGOutput", console: "Console | None" = None) -> None:
    """Print an answer and the passages it rests on."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dro_trl.lm.prompts import passage_text

    console = console or Console()
    console.print(f"[bold]{escape(output.question)}[/bold]\n[green]{escape(output.answer)}[/green]", highlight=False)
    table = Table("", "Score", "Passage")
    for rank, (passage, score) in enumerate(zip(output.passages, output.scores, strict=True), start=1):
        table.add_row(str(rank), f"{score:.2f}", escape(passage_text(passage)))
    console.print(table)
