"""Natural Questions as open-domain QA uses it: DPR's JSON and CSV files, and NQ-open's JSON Lines."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion, answer_list
from dro_trl.data.formats.converting import text_id
from dro_trl.data.schema import check_list, check_text
from dro_trl.files.text_rows import read_cells, read_json


def read(path: Path) -> Iterator[tuple[int, object]]:
    """Read `biencoder-nq-*.json`, `nq-*.qa.csv` (told by `.csv`) or NQ-open's `*.jsonl`.

    Yields:
        As `SourceFormat.read`.
    """
    return _read_qa_csv(path) if path.name.removesuffix(".gz").endswith(".csv") else read_json(path)


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a row with `question` and `answers` (NQ-open: `answer`); all of `positive_ctxs` are gold.

    DPR's passages are those of its `psgs_w100.tsv`, by their ids there.

    Raises:
        ValueError: A field is missing or of another form.
    """
    field = "answers" if "answers" in row else "answer"
    return SourceQuestion(
        question=check_text(row.get("question"), "question"),
        answers=answer_list(row.get(field), field),
        gold_ids=_positive_ids(row) if "positive_ctxs" in row else [],
        gold_field="positive_ctxs",
    )


def _positive_ids(row: Mapping[str, Any]) -> list[str]:
    expected = "a list of objects with passage_id"
    contexts = check_list(row["positive_ctxs"], "positive_ctxs", expected)
    ids = []
    for number, context in enumerate(contexts):
        where = f"positive_ctxs[{number}]"
        if not isinstance(context, Mapping):
            raise ValueError(f"field '{where}': found {context!r:.60}; expected an object with passage_id")
        # Some of DPR's files, TriviaQA's among them, call it psg_id.
        ids.append(text_id(context.get("passage_id", context.get("psg_id")), f"{where}.passage_id"))
    return ids


def _read_qa_csv(path: Path) -> Iterator[tuple[int, object]]:
    """Read lines of a question and, after a tab, its answers as a Python list."""
    for number, cells in read_cells(path, "\t"):
        try:
            question, answers = cells
            yield number, {"question": question, "answers": ast.literal_eval(answers)}
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            expected = "a question, a tab, and a list such as ['Paris', 'City of Paris']"
            yield number, ValueError(f"found {cells!r:.80}; expected {expected}")


FORMAT = SourceFormat(read, convert)
