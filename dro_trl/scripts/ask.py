"""`dro-trl ask`: one question to a trained pair."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    question: Annotated[str, typer.Argument(help="The question.")],
    model: Annotated[Path, typer.Option("--model", help="Folder that `dro-trl train` wrote, or its name on a hub.")],
    index_dir: Annotated[str | None, typer.Option("--index_dir", help="Folder that `dro-trl index` wrote.")] = None,
    prebuilt: Annotated[str | None, typer.Option("--prebuilt", help="Name of a Pyserini index instead.")] = None,
    num_candidates: Annotated[
        int | None,
        typer.Option("--num_candidates", min=1, help="Candidates to retrieve; as in training if not given."),
    ] = None,
    num_selected: Annotated[
        int | None, typer.Option("--num_selected", min=1, help="K, passages to select; as in training if not given.")
    ] = None,
    window_size: Annotated[
        int | None, typer.Option("--window_size", min=1, help="Candidates that are read at once; all if not given.")
    ] = None,
    window_stride: Annotated[
        int | None,
        typer.Option("--window_stride", min=1, help="By how many a window moves; half of it if not given."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where the models run: auto (a GPU if there is one), cpu, cuda:1, …")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the weights: auto (bfloat16 if the device has it), float32, …")
    ] = "auto",
    max_thinking_tokens: Annotated[
        int | None,
        typer.Option("--max_thinking_tokens", min=0, help="Longest thought before an answer; as in training."),
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of the model, on a hub.")] = None,
) -> None:
    """Retrieve, select and answer; prints the answer and the passages it rests on."""
    from dro_trl.lm.devices import choose_device, choose_dtype, describe
    from dro_trl.pipeline import RAGPipeline, print_output
    from dro_trl.retrieval.pyserini import PyseriniRetriever

    if (index_dir is None) == (prebuilt is None):
        raise ValueError(f"give one of --index_dir and --prebuilt, not --index_dir={index_dir} --prebuilt={prebuilt}")
    place = choose_device(device)
    number_format = choose_dtype(dtype, place)
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
        )
        print_output(pipeline(question))
