"""Damaged corpora of every form are read as they stand, or refused with file and line."""

import json
import shutil

from hypothesis import strategies as st

from dro_trl.retrieval.corpus import FORMATS, open_corpus, read_corpus
from tests.fuzz.corpus_oracle import expected_of
from tests.fuzz.mutations import ODD, file_of, json_text, mutated
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt

WORDS = st.sampled_from(["Oslo", "São Paulo", "the town lies in the north", 'the "town"', "a, b", "東京", "it's"])
QUOTE = '"'
NAMES = ("id", "_id", "title", "text", "contents", "wikipedia_id", "metadata", "", "\ud800")


@st.composite
def passages(draw, form):
    found = []
    for number in range(draw(st.integers(1, 4))):
        title, text, name = draw(WORDS), draw(WORDS), draw(st.sampled_from([f"d{number}", number]))
        quoted = title.replace('"', '""')
        found.append(
            {
                "beir": {"_id": name, "title": draw(st.sampled_from([title, "", None])), "text": text, "metadata": {}},
                "contents": {"id": name, "contents": draw(st.sampled_from([text, f'"{quoted}"\n{text}']))},
                "kilt": {
                    "wikipedia_id": str(name),
                    "wikipedia_title": title,
                    "text": [f"{title}\n", "Section::::Life.\n", f"{text}\n"],
                },
            }.get(form, {"id": name, "title": title, "text": text})
        )
    return found


@st.composite
def tsv_text(draw, quoted):
    header = draw(st.permutations(["id", "text", "title"])) if draw(st.integers(0, 3)) else []
    table = [
        [f"d{number}", *(draw(WORDS) for _ in range(2 if header else 1))] for number in range(draw(st.integers(1, 4)))
    ]
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(table))
        at, odd = draw(st.integers(0, max(0, len(row) - 1))), draw(st.sampled_from([o for o in ODD if type(o) is str]))
        row[at : at + 1] = draw(st.sampled_from([[odd], [], [odd, odd], [*row[at : at + 1], odd]]))
    if quoted and header:
        table = [
            ['"' + cell.replace('"', '""') + '"' if draw(st.booleans()) else cell for cell in row] for row in table
        ]
    return "".join("\t".join(row) + "\n" for row in ([header] if header else []) + table)


@st.composite
def corpora(draw):
    """Draw files by their names, and the format that is named when they are read."""
    form = draw(st.sampled_from(FORMATS))
    named = draw(st.sampled_from([None, form]))
    if form.startswith("tsv"):
        return {"corpus.tsv": draw(file_of(draw(tsv_text(form == "tsv"))))}, named
    value = draw(mutated(passages(form), NAMES))
    if draw(st.integers(0, 4)) == 0:
        return {"corpus.json": draw(file_of(draw(json_text(value, indent=draw(st.sampled_from([None, 1]))))))}, named
    files = {"corpus.jsonl": draw(file_of("".join(draw(json_text(row)) + "\n" for row in value)))}
    if draw(st.integers(0, 4)) == 0:
        other = "".join(json.dumps(row).replace("d", "e") + "\n" for row in draw(passages(form)))
        files |= {draw(st.sampled_from(["a/b.jsonl", "z.json", ".hidden.jsonl", "README"])): other.encode()}
    return files, named


def check(folder, files, named):
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    path = folder if len(files) > 1 else folder / next(iter(files))
    read = [files[name] for name in sorted(files) if name[0] != "." and "." in name and files[name]] or [b""]
    opened, _ = attempt(lambda: open_corpus(path, named), path)
    form = opened.format if opened else named
    found = opened and attempt(lambda: [tuple(passage.values()) for passage in read_corpus(opened)], path)[0]
    assert found == (expected_of(read, form) if form else None)
    return RIGHT if found else REFUSED


def test_corpora(tmp_path, explore):
    explore(corpora(), lambda corpus: check(tmp_path / "corpus", *corpus), 500)
