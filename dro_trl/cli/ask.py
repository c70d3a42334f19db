"""`dro-trl ask`: one question to a trained pair."""

from typing import TYPE_CHECKING, Annotated

import typer

from dro_trl.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from dro_trl.pipeline import RAGOutput


def main(
    question: Annotated[str, typer.Argument(help="The question.")],
    model: options.Model,
    index_dir: Annotated[str | None, typer.Option("--index_dir", help="Folder that `dro-trl index` wrote.")] = None,
    prebuilt: Annotated[str | None, typer.Option("--prebuilt", help="Name of a Pyserini index instead.")] = None,
    num_candidates: Annotated[
        int | None,
        typer.Option("--num_candidates", min=1, help="Candidates to retrieve; as in training if not given."),
    ] = None,
    num_selected: options.NumSelected = None,
    window_size: options.WindowSize = None,
    window_stride: options.WindowStride = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_thinking_tokens: options.MaxThinkingTokens = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Retrieve, select and answer; prints the answer and the passages it rests on."""
    from dro_trl.lm.devices import choose_device, choose_dtype, describe
    from dro_trl.models.names import pair_folder
    from dro_trl.models.saving import read_config
    from dro_trl.pipeline import RAGPipeline
    from dro_trl.retrieval.pyserini import PyseriniRetriever

    if (index_dir is None) == (prebuilt is None):
        raise ValueError(f"give one of --index_dir and --prebuilt, not --index_dir={index_dir} --prebuilt={prebuilt}")
    place = choose_device(device)
    number_format = choose_dtype(dtype, place)
    read_config(pair_folder(model, revision))  # Before the index is opened, which starts a Java.
    typer.echo(f"Asking {model} {describe(place, number_format)}", err=True)
    retriever = PyseriniRetriever(index_dir) if index_dir else PyseriniRetriever.from_prebuilt(str(prebuilt))
    with retriever:
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
        print_output(pipeline(question))


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
