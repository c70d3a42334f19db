"""`dro-trl rerank`: the rankings of a run file, ranked anew by a trained selector."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dro_trl.cli import options
from dro_trl.cli.retrieve import IndexDir, Prebuilt, check_sources

if TYPE_CHECKING:
    from dro_trl.retrieval.questions import QuestionRows
    from dro_trl.retrieval.stored_run import StoredRun
    from dro_trl.retrieval.trec_run import PassageSource
    from dro_trl.selector import Selector
    from dro_trl.types import Passage

Run = Annotated[Path, typer.Option("--run", help="TREC run file to rank anew, as a retriever wrote it.")]
Output = Annotated[Path, typer.Option("--output", help="TREC run file to write.")]
Input = Annotated[Path, typer.Option("--input", help="JSONL file of the questions, by the ids that the run has.")]
Corpus = Annotated[Path | None, typer.Option("--corpus", help="Where the passages are, if in no index.")]
NumCandidates = Annotated[
    int | None,
    typer.Option("--num_candidates", min=1, help="Passages of each ranking to read; as in training if not given."),
]
TopK = Annotated[
    int | None, typer.Option("--top_k", min=1, help="Passages of them to rank; all if not given. Others follow.")
]
BatchSize = Annotated[int, typer.Option("--per_device_eval_batch_size", min=1, help="Questions in a batch.")]


def main(
    context: typer.Context,
    model: options.Model,
    run: Run,
    input: Input,
    output: Output,
    index_dir: IndexDir = None,
    prebuilt: Prebuilt = None,
    corpus: Corpus = None,
    num_candidates: NumCandidates = None,
    top_k: TopK = None,
    window_size: options.WindowSize = None,
    window_stride: options.WindowStride = None,
    batch_size: BatchSize = 8,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Rank the first passages of each ranking of a run file anew; those below follow in their order."""
    from dro_trl.cli.outputs import claim
    from dro_trl.files.wording import counted
    from dro_trl.models.names import pair_folder
    from dro_trl.models.saving import read_config
    from dro_trl.retrieval.opening import passage_source
    from dro_trl.retrieval.questions import QuestionRows
    from dro_trl.retrieval.stored_run import StoredRun
    from dro_trl.retrieval.trec_run import write_run

    inputs = {"--run": run, "--input": input, "--index_dir": index_dir, "--corpus": corpus}
    claim(context, {"--output": output}, inputs)
    check_sources(index_dir, prebuilt, corpus, run)
    config = read_config(pair_folder(model, revision))
    with QuestionRows(input) as rows:
        rows.check_ids()
        ids = list(rows.ids())
        ranked = StoredRun(run)
        missing, foreign = _check_ids(ids, ranked, run, input)
        with passage_source(index_dir, prebuilt, corpus, 0.9, 0.4, None, ranked, None) as source:
            from dro_trl.selector import Selector

            selector = Selector.from_pretrained(
                model,
                device,
                None,
                window_size,
                window_stride,
                revision,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
            )
            depth = num_candidates or config["num_candidates"]
            write_run(output, ids, _rank(rows, ranked, source, selector, depth, top_k, batch_size), "dro-trl")
    typer.echo(f"wrote {output}: {counted(len(ids) - missing, 'ranking')}, of each the first {depth} passages anew")
    if missing:
        typer.echo(
            f"{run} ranks nothing for {missing:,} of {counted(len(ids), 'question')}: they are not in the output"
        )
    if foreign:
        typer.echo(f"{input} does not hold {foreign:,} of the questions of {run}: left out")


def _check_ids(ids: list[str], ranked: "StoredRun", run: Path, input: Path) -> tuple[int, int]:
    """Return how many questions the run does not rank, and how many that it ranks are none of them.

    Raises:
        ValueError: If it ranks none.
    """
    missing = sum(not ranked.get(id, []) for id in ids)
    if missing == len(ids):
        raise ValueError(
            f"{run} ranks nothing for any of the questions of {input}, such as {ids[:1]}; the id of a row (its number "
            "from 1 where it has none) must be the first column of the run"
        )
    return missing, ranked.num_queries() - (len(ids) - missing)


def _rank(
    rows: "QuestionRows",
    run: "StoredRun",
    source: "PassageSource",
    selector: "Selector",
    depth: int,
    top_k: int | None,
    batch_size: int,
) -> Iterator[list["Passage"]]:
    """Yield the new ranking of each question, with the selector's scores."""
    from rich.progress import MofNCompleteColumn

    from dro_trl.retrieval.progress import batched, progress_bar
    from dro_trl.retrieval.questions import query_id
    from dro_trl.retrieval.trec_run import candidates_of_run
    from dro_trl.types import Passage

    with progress_bar(MofNCompleteColumn(), enabled=True) as bar:
        task = bar.add_task("Ranking", total=sum(1 for _ in rows.ids()))
        for batch in batched(enumerate(rows, start=1), 4 * batch_size):
            ids = [query_id(row, number) for number, row in batch]
            found = candidates_of_run(run, ids, source, depth)
            ranked = selector.rank([row["question"] for _, row in batch], found, top_k, batch_size=batch_size)
            for query, candidates, ranking in zip(ids, found, ranked, strict=True):
                anew = {candidates[one["corpus_id"]]["id"]: one["score"] for one in ranking}
                last = min(anew.values(), default=0.0)
                below = [passage_id for passage_id, _ in run.get(query, []) if passage_id not in anew]
                yield [
                    Passage(id=i, title="", text="", score=s)
                    for i, s in {**anew, **dict.fromkeys(below, last)}.items()
                ]
            bar.advance(task, len(batch))
