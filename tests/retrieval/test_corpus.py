"""What is read from a corpus, and every complaint about one."""

import json
import re

import pytest

from dro_trl.retrieval.corpus import read_corpus

GOOD = {"id": "1", "title": "", "text": "x"}


def test_reads_file_and_passages_alike(tmp_path):
    passages = [{"id": "1", "title": "Gdańsk 😀", "text": 'a "b"\nc', "url": "left out"}, {**GOOD, "id": "2"}]
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n".join(json.dumps(passage) for passage in passages))
    expected = [{"id": "1", "title": "Gdańsk 😀", "text": 'a "b"\nc'}, {"id": "2", "title": "", "text": "x"}]
    assert list(read_corpus(file)) == list(read_corpus(str(file))) == list(read_corpus(passages)) == expected


@pytest.mark.parametrize(
    ("second_line", "complaint"),
    [
        ("{", "not JSON (Expecting property name"),
        ("", "not JSON"),
        ('["id"]', "found a JSON list, need an object"),
        ('{"title": "", "text": "x"}', "field 'id' is missing; a passage has id, title, text"),
        ('{"id": "2", "text": "x"}', "field 'title' is missing"),
        ('{"id": "2", "title": ""}', "field 'text' is missing"),
        ('{"id": 2, "title": "", "text": "x"}', "field 'id': found 2 (int), need a string"),
        ('{"id": "2", "title": null, "text": "x"}', "field 'title': found None (NoneType), need a string"),
        ('{"id": "2", "title": "", "text": " "}', "field 'text' is empty; only 'title' may be"),
        ('{"id": "", "title": "", "text": "x"}', "field 'id' is empty"),
        (json.dumps(GOOD), "field 'id': '1' is that of {file}:1 too; ids must be unique"),
    ],
)
def test_faults_name_file_line_and_field(tmp_path, second_line, complaint):
    file = tmp_path / "corpus.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{second_line}\n")
    expected = f"{file}:2: {complaint.replace('{file}', str(file))}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        list(read_corpus(file))


def test_undecodable_bytes(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(b'{"id": "1", "title": "", "text": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"corpus\.jsonl:1: not JSON \('utf-8' codec"):
        list(read_corpus(file))


def test_faulty_passage_in_memory_is_named_by_its_number():
    with pytest.raises(ValueError, match="passage 1: field 'text' is missing"):
        list(read_corpus([GOOD, {"id": "2", "title": ""}]))


def test_empty_or_missing(tmp_path):
    file = tmp_path / "corpus.jsonl"
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file {file}")):
        list(read_corpus(file))
    file.touch()
    with pytest.raises(ValueError, match=re.escape(f"{file}: the corpus is empty")):
        list(read_corpus(file))
    with pytest.raises(ValueError, match="corpus: the corpus is empty"):
        list(read_corpus([]))
