"""Running one converter on a file."""

import json
from types import SimpleNamespace

from dro_trl.data.formats.converting import prepare_questions
from dro_trl.data.schema import check_row
from dro_trl.retrieval.corpus import CorpusFile


def run(raw_rows, convert, **options):
    """Return the counts of `prepare_questions`, and as `rows` what it converted."""
    rows = []
    return SimpleNamespace(**vars(prepare_questions(raw_rows, convert, rows.append, **options)), rows=rows)


def prepare(source_format, path, corpus=None, **options):
    prepared = run(
        source_format.read(path),
        source_format.convert,
        source=str(path),
        corpus=None if corpus is None else CorpusFile(corpus),
        **options,
    )
    assert prepared.num_kept == len(prepared.rows)
    with_answers = [row for row in prepared.rows if "answers" in row]
    for row in with_answers:
        check_row(row, require_candidates=False)
    return prepared


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
