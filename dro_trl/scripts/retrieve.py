"""`dro-trl retrieve`: add candidates to questions."""

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dro_trl.types import Passage

CUTOFFS = (1, 5, 20)


class AnswerMatch(StrEnum):
    """When a candidate holds an answer."""

    dpr = "dpr"
    extended = "extended"


def main(
    context: typer.Context,
    input: Annotated[Path, typer.Option("--input", help="JSONL file of rows with a question.")],
    output: Annotated[Path, typer.Option("--output", help="JSONL file to write: the rows, with candidates.")],
    index_dir: Annotated[Path | None, typer.Option("--index_dir", help="Folder of an index.")] = None,
    prebuilt: Annotated[
        str | None, typer.Option("--prebuilt", help="Name of a prebuilt index, such as wikipedia-dpr-100w.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Candidates for each question.")] = 20,
    k1: Annotated[float, typer.Option("--k1", help="BM25's term-frequency saturation.")] = 0.9,
    b: Annotated[float, typer.Option("--b", help="BM25's length normalisation.")] = 0.4,
    add_gold: Annotated[
        bool,
        typer.Option(
            "--add_gold", help="For a generator's training: put gold passages that were missed in place of the last."
        ),
    ] = False,
    exclude_own: Annotated[
        bool,
        typer.Option(
            "--exclude_own", help="Where a question is a document, leave the passage with its id out of its hits."
        ),
    ] = False,
    answer_as_gold: Annotated[
        bool,
        typer.Option(
            "--answer_as_gold", help="Where a row names no gold passages, take the candidates that hold an answer."
        ),
    ] = False,
    answer_match: Annotated[
        AnswerMatch,
        typer.Option(
            "--answer_match",
            help="With --answer_as_gold, when one does: dpr as DPR and Pyserini judge its text; extended in its title "
            "or text, however quotes, dashes, numbers and scripts without spaces are written.",
        ),
    ] = AnswerMatch.dpr,
    run: Annotated[Path | None, typer.Option("--run", help="TREC run file to write: what was found.")] = None,
    from_run: Annotated[
        Path | None, typer.Option("--from_run", help="TREC run file to take the rankings from, instead of BM25.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="With --from_run: where the passages are, if in no index.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads; all cores by default.")] = None,
) -> None:
    """Add candidates to questions, by BM25 or from a run file, and measure recall where gold_ids are given."""
    from dro_trl.atomic_write import write_jsonl
    from dro_trl.retrieval.run_file import candidates_of_run, check_query_ids, read_run, write_run
    from dro_trl.scripts.outputs import beside, claim
    from dro_trl.wording import counted

    results = beside(output, output.name + ".results.json")
    inputs = {"--input": input, "--from_run": from_run, "--index_dir": index_dir, "--corpus": corpus}
    claim(context, {"--output": output, "--run": run, "the figures of --output": results}, inputs)
    if sum(source is not None for source in (index_dir, prebuilt, corpus)) != 1:
        given = f"--index_dir (got {index_dir}), --prebuilt (got {prebuilt}) and --corpus (got {corpus})"
        raise ValueError(f"give one of {given}")
    if corpus is not None and from_run is None:
        raise ValueError(f"--corpus {corpus} is for the passages of --from_run; build an index to retrieve from it")
    if answer_match is not AnswerMatch.dpr and not answer_as_gold:
        raise ValueError(f"--answer_match {answer_match} says how --answer_as_gold judges candidates; add that option")
    rows = read_rows(input)
    query_ids = [str(number if row.get("id") is None else row["id"]) for number, row in enumerate(rows, start=1)]
    if run is not None or from_run is not None:
        check_query_ids(query_ids)
    excluded = [
        {*(row.get("excluded_ids") or []), *([id] if exclude_own else [])}
        for id, row in zip(query_ids, rows, strict=True)
    ]
    with passage_source(index_dir, prebuilt, corpus, k1, b, threads) as source:
        # As many more as may have to be left out.
        wanted = k + max(map(len, excluded))
        if from_run is None:
            hits = source.retrieve([row["question"] for row in rows], wanted)
        else:
            hits = candidates_of_run(read_run(from_run), query_ids, source, wanted)
        found = [without(passages, ids)[:k] for passages, ids in zip(hits, excluded, strict=True)]
        missed = sorted({id for row, hits in zip(rows, found, strict=True) for id in missed_gold(row, hits)})
        gold = {passage["id"]: passage for passage in source.passages(missed)} if add_gold else {}
    system = "bm25" if from_run is None else from_run.name
    if run is not None:
        write_run(run, query_ids, found, tag="dro-trl")
    added = 0
    for row, candidates in zip(rows, found, strict=True):
        new = [gold[id] for id in missed_gold(row, candidates)] if add_gold else []
        added += len(new)
        row["candidates"] = with_gold(candidates, new, row.get("gold_ids") or [], k)
    marked = sum(mark_answers(row, answer_match) for row in rows) if answer_as_gold else 0
    write_jsonl(output, rows)
    num_candidates = sum(len(row["candidates"]) for row in rows)
    typer.echo(f"wrote {output}: {counted(len(rows), 'question')}, {counted(num_candidates, 'candidate')}")
    if run is not None:
        typer.echo(
            f"wrote {run}: {counted(sum(map(len, found)), 'line')}"
            + (", without the added gold passages" if added else "")
        )
    if any(excluded):
        left_out = sum(without(passages, ids) != passages for passages, ids in zip(hits, excluded, strict=True))
        typer.echo(
            f"{left_out:,} of {len(rows):,} questions found a passage that was left out: excluded_ids, or their own"
        )
    if add_gold:
        typer.echo(f"added {added:,} gold passages that were not found; use these candidates for training alone")
    if answer_as_gold:
        typer.echo(f"{marked:,} questions without gold passages have candidates that hold an answer: gold now")
    if empty := sum(not candidates for candidates in found):
        typer.echo(f"nothing was found for {empty} of {len(rows)} questions: their candidates are empty lists")
    if any(row.get("gold_ids") for row in rows):
        report_recall(rows, found, k, results, system)


def passage_source(
    index_dir: Path | None, prebuilt: str | None, corpus: Path | None, k1: float, b: float, threads: int | None
) -> AbstractContextManager[Any]:
    """Open the one that is given of an index, a prebuilt index and a corpus; a corpus cannot retrieve."""
    from dro_trl.retrieval.corpus import open_corpus
    from dro_trl.retrieval.pyserini import PyseriniRetriever
    from dro_trl.retrieval.run_file import CorpusPassages

    if corpus is not None:
        return nullcontext(CorpusPassages(open_corpus(corpus), str(corpus)))
    if index_dir is not None:
        return PyseriniRetriever(index_dir, k1=k1, b=b, threads=threads)
    return PyseriniRetriever.from_prebuilt(str(prebuilt), k1=k1, b=b, threads=threads)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read and check the rows to retrieve for.

    Args:
        path: JSONL file.

    Returns:
        The rows, with all their columns.

    Raises:
        ValueError: A line is no object, has no question, or has candidates already; or there is no line.
    """
    from dro_trl.text_rows import read_objects, text_id

    rows = []
    for where, row in read_objects(path):
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{where}: field 'question': found {question!r}, need a non-empty string")
        if "candidates" in row:
            raise ValueError(f"{where}: field 'candidates' is there already; remove it to retrieve anew")
        for field in ("answers", "gold_ids", "excluded_ids"):
            values = row.get(field)
            if field != "answers" and isinstance(values, list):
                values = row[field] = [text_id(value) for value in values]
            if values is not None and not (isinstance(values, list) and all(isinstance(v, str) for v in values)):
                raise ValueError(f"{where}: field '{field}': found {values!r}, need a list of strings, or null")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows; at least one question is needed")
    return rows


def recall(gold_ids: list[str], ranked_ids: list[str], cutoff: int) -> float:
    """Return the share of the gold passages among the first `cutoff` ranked ones.

    >>> recall(["a", "b"], ["c", "a", "b"], 2)
    0.5
    """
    gold = set(gold_ids)
    return len(gold.intersection(ranked_ids[:cutoff])) / len(gold)


def mark_answers(row: dict[str, Any], match: AnswerMatch) -> bool:
    """Let a row that names no gold passages name its candidates that hold an answer.

    By `dpr` this is the proxy by which retrieval for open-domain answers is judged (Karpukhin et al., 2020):
    the text alone counts, and a passage may hold the answer by chance.

    Returns:
        Whether it names any now and did not before.
    """
    from dro_trl.metrics import has_answer, mentions_answer

    answers = row.get("answers")
    if row.get("gold_ids") or not answers:
        return False
    row["gold_ids"] = [
        passage["id"]
        for passage in row["candidates"]
        if (
            has_answer(passage["text"], answers)
            if match is AnswerMatch.dpr
            else mentions_answer(passage["title"], answers) or mentions_answer(passage["text"], answers)
        )
    ]
    return bool(row["gold_ids"])


def without(passages: list["Passage"], ids: set[str]) -> list["Passage"]:
    """Return the passages whose ids are not among `ids`."""
    return [passage for passage in passages if passage["id"] not in ids]


def missed_gold(row: dict[str, Any], hits: list["Passage"]) -> list[str]:
    """Return the ids of a row's gold passages that are not among the hits, each once."""
    found = {passage["id"] for passage in hits}
    return [id for id in dict.fromkeys(row.get("gold_ids") or []) if id not in found]


def with_gold(hits: list["Passage"], gold: list["Passage"], gold_ids: list[str], k: int) -> list["Passage"]:
    """Return at most `k` passages, the gold ones among them: the last hits that are not gold make room.

    Args:
        hits: What the retriever found, best first.
        gold: Gold passages that it did not find; they follow the hits, with the score of the last.
        gold_ids: Those of all gold passages.
        k: Passages wanted. Where more are gold, all of those.
    """
    spare = [number for number, passage in enumerate(hits) if passage["id"] not in gold_ids]
    excess = max(0, len(hits) + len(gold) - k)
    dropped = set(spare[::-1][:excess])
    kept = [passage for number, passage in enumerate(hits) if number not in dropped]
    score = hits[-1]["score"] if hits else 0.0
    return [*kept, *(passage | {"score": score} for passage in gold)]


def report_recall(
    rows: list[dict[str, Any]], found: list[list["Passage"]], k: int, results: Path | None, system: str
) -> None:
    """Print the recall of gold passages in what was found, and write it as JSON, if there is a file for it."""
    from rich.console import Console
    from rich.table import Table

    from dro_trl.atomic_write import write_json
    from dro_trl.wording import counted

    judged = [
        (row["gold_ids"], [passage["id"] for passage in hits])
        for row, hits in zip(rows, found, strict=True)
        if row.get("gold_ids")
    ]
    figures: dict[str, float] = {
        f"recall@{cutoff}": sum(recall(gold, ranked, cutoff) for gold, ranked in judged) / len(judged)
        for cutoff in CUTOFFS
        if cutoff <= k
    }
    typer.echo(f"Gold passages are known of {len(judged):,} of {counted(len(rows), 'question')}.")
    table = Table("system", *figures, "n")
    table.add_row(system, *(f"{value:.3f}" for value in figures.values()), str(len(judged)))
    Console().print(table)
    if results is not None:
        write_json(results, {"systems": {system: {**figures, "n": len(judged)}}, "comparisons": []})
        typer.echo(f"wrote {results}")
