"""Damaged run files and judgements are read as they stand, or refused with the line."""

import math
import re

from hypothesis import strategies as st

from dro_trl.data.formats import beir
from dro_trl.retrieval.trec_run import read_run
from tests.fuzz.mutations import ODD, file_of
from tests.fuzz.oracles import lines_of
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt

IDS = st.sampled_from(["q1", "q2", "7", "d1", "d2", "d3", "ü", "a-b", "11:3"])
SCORES = st.sampled_from(["1.5", "2", "-0.25", "1e-3", "0", "16.000001", "+3", "1."])
CELLS = st.sampled_from([str(odd) for odd in ODD if not isinstance(odd, int) or odd < 10**300] + ["inf", "1,5", "-"])


@st.composite
def lines(draw, of_row, joint, heading=""):
    """Draw a file of rows, the cells of at most two of which are not what they should be."""
    rows = [list(of_row(draw)) for _ in range(draw(st.integers(1, 6)))]
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(rows))
        at = draw(st.integers(0, max(0, len(row) - 1)))
        how = draw(st.sampled_from(["odd", "odd", "lost", "more", "beside"]))
        if how == "lost":
            del row[at : at + 1]
        elif how == "more":
            row.insert(at, draw(CELLS))
        elif row:
            row[at] = draw(CELLS) if how == "odd" else row[at] + draw(CELLS)
    return draw(
        file_of(heading + "".join(joint.join(row) + draw(st.sampled_from(["\n"] * 9 + [" \n"])) for row in rows))
    )


def run_row(draw):
    return draw(IDS), "Q0", draw(IDS), str(draw(st.integers(1, 9))), draw(SCORES), "tag"


def qrels_row(draw):
    return draw(IDS), draw(IDS), draw(st.sampled_from(["0", "1", "2", "2.0", "-1"]))


def is_number(text):
    return bool(re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text)) and math.isfinite(
        float(text)
    )


def columns(line):
    """Return what stands between the white space that programs in C know."""
    return [cell for cell in re.split(r"[ \t\n\r\f\v]+", line) if cell]


def run_of(content):
    found = {}
    for _, line in lines_of(content):
        if isinstance(line, ValueError):
            raise line
        if cells := columns(line):
            if len(cells) != 6 or not is_number(cells[4]) or cells[2] in found.setdefault(cells[0], {}):
                raise ValueError(line)
            found[cells[0]][cells[2]] = float(cells[4])
    return {query: sorted(scores.items(), key=lambda item: -item[1]) for query, scores in found.items()}


def relevant_of(content):
    found = {}
    for number, line in lines_of(content):
        if isinstance(line, ValueError):
            raise line
        cells = line.split("\t") if "\t" in line else columns(line)
        if not "".join(cells).strip() and "\t" not in line or (number == 1 and cells[0] == "query-id"):
            continue
        query, document, grade = cells if len(cells) != 4 else [cells[0], *cells[2:]]
        if not query or not document or not is_number(grade.strip(" ")):
            raise ValueError(line)
        judged = found.setdefault(query, {})
        if judged.setdefault(document, float(grade) > 0) != (float(grade) > 0):
            raise ValueError("judged twice")
    return {query: [one for one, relevant in judged.items() if relevant] for query, judged in found.items()}


def check(path, content, read, oracle):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        expected = oracle(content)
    except ValueError:
        expected = None
    found, _ = attempt(lambda: read(path), path)
    assert found == expected
    return REFUSED if found is None else RIGHT


def test_run_files(tmp_path, explore):
    runs = st.sampled_from([" ", "\t", "  "]).flatmap(lambda joint: lines(run_row, joint))
    explore(runs, lambda content: check(tmp_path / "run.trec", content, read_run, run_of), 300)


def test_judgements(tmp_path, explore):
    forms = st.sampled_from([("\t", "query-id\tcorpus-id\tscore\n"), ("\t", ""), (" ", "")])
    files = forms.flatmap(lambda form: lines(qrels_row, *form))
    path = tmp_path / "qrels" / "test.tsv"
    explore(files, lambda content: check(path, content, beir._read_qrels, relevant_of), 300)
