"""What is read from a corpus, in each public form, and every complaint about one."""

import csv
import gzip
import io
import json
import re

import pytest

from dro_trl.retrieval import corpus as corpus_module
from dro_trl.retrieval.corpus import CorpusFile, open_corpus, read_corpus

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
        ("{", "malformed JSON: Expecting property name"),
        ("{}", "field 'id' is missing"),
        ('["id"]', "found a JSON list, need an object"),
        ('{"title": "", "text": "x"}', "field 'id' is missing; a passage has id, title, text"),
        ('{"id": "2", "text": "x"}', "field 'title' is missing"),
        ('{"id": "2", "title": ""}', "field 'text' is missing"),
        ('{"id": 2.0, "title": "", "text": "x"}', "field 'id': found 2.0 (float), need a string"),
        ('{"id": true, "title": "", "text": "x"}', "field 'id': found True (bool), need a string"),
        ('{"id": 1, "title": "", "text": "x"}', "field 'id': '1' is that of {file}:1 too; ids must be unique"),
        ('{"id": "2", "title": "", "text": "x \\ud83d"}', "found \\ud83d, half of a surrogate pair"),
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
    with pytest.raises(ValueError, match=r"corpus\.jsonl:1: not UTF-8: 'utf-8' codec"):
        list(read_corpus(file))


def test_faulty_passage_in_memory_is_named_by_its_number():
    with pytest.raises(ValueError, match="passage 1: field 'text' is missing"):
        list(read_corpus([GOOD, {"id": "2", "title": ""}]))
    for field in GOOD:
        with pytest.raises(ValueError, match="passage 1: holds half of a surrogate pair"):
            list(read_corpus([GOOD, {**GOOD, "id": "2", field: "\ud83d"}]))


@pytest.mark.parametrize(("format", "num_rows"), [("tsv", None), ("tsv_unquoted", 4)])
def test_quotes_in_cells_are_an_error_or_plain_text_and_never_fewer_passages(tmp_path, format, num_rows):
    texts = ['"To be or not to be begins the speech.', "The river Po.", 'Once called Christiania"', "Lima"]
    file = tmp_path / "corpus.tsv"
    rows = "".join(f"{number}\t{text}\tTitle\n" for number, text in enumerate(texts))
    file.write_text("id\ttext\ttitle\n" + rows)
    if num_rows is None:
        with pytest.raises(ValueError, match=r"corpus\.tsv:2: not readable as TSV: .*--format tsv_unquoted"):
            list(read_corpus(CorpusFile(file, format)))
    else:
        assert [passage["text"] for passage in read_corpus(CorpusFile(file, format))] == texts


def test_empty_lines_a_byte_order_mark_and_numbers_as_ids(tmp_path):
    for name, content in {
        "jsonl": '{"id": 7, "title": "", "text": "x"}\r\n\r\n{"id": "8", "title": "", "text": "y"}\r\n\n',
        "beir": '{"_id": 7, "text": "x"}\r{"_id": "8", "text": "y"}\r',
        "tsv": "id\ttext\n7\tx\n\n8\ty\n",
        "ms marco": "\n7\tx\n\n8\ty\n",
    }.items():
        (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8", newline="")
        found = [(passage["id"], passage["text"]) for passage in read_corpus(tmp_path / name)]
        assert found == [("7", "x"), ("8", "y")], name


def test_empty_or_missing(tmp_path):
    file = tmp_path / "corpus.jsonl"
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file {file}")):
        list(read_corpus(file))
    file.touch()
    with pytest.raises(ValueError, match=re.escape(f"{file}: the corpus is empty")):
        list(read_corpus(file))
    with pytest.raises(ValueError, match="corpus: the corpus is empty"):
        list(read_corpus([]))


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def tsv(*rows):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue()


PAGE = {
    "_id": "290",
    "wikipedia_id": 290,
    "wikipedia_title": "A",
    "text": ["A\n", "A is a letter.\n", "Section::::History.\n", " \n", "BULLET::::- It is old.\n"],
    "anchors": [],
}
CONTENTS = {"id": 7, "contents": '"Aaron ""Burr"""\nBurr was.'}


@pytest.mark.parametrize(
    ("content", "format", "expected"),
    [
        (lines(GOOD), "jsonl", [("1", "", "x")]),
        (lines({**GOOD, "contents": "y"}), "jsonl", [("1", "", "x")]),
        (
            lines({"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "y", "metadata": {}}),
            "beir",
            [("d1", "T", "x"), ("d2", "", "y")],
        ),
        (
            lines(CONTENTS, {"id": "8", "contents": "no title"}),
            "contents",
            [("7", 'Aaron "Burr"', "Burr was."), ("8", "", "no title")],
        ),
        (lines(PAGE), "kilt", [("290:1", "A", "A is a letter."), ("290:4", "A", "BULLET::::- It is old.")]),
        (
            tsv(["id", "text", "title"], ["1", 'Aaron (or ; "Ahärôn")', '"Heroes"'], ["2", "plain", "T"]),
            "tsv",
            [("1", '"Heroes"', 'Aaron (or ; "Ahärôn")'), ("2", "T", "plain")],
        ),
        (tsv(["title", "id", "text"], ["T", "a", "two\nlines"]), "tsv", [("a", "T", "two\nlines")]),
        (tsv(["text", "id"], ["x", "a"]), "tsv", [("a", "", "x")]),
        ('0\t"Quoted" at the start\n1\tplain "\n', "tsv", [("0", "", '"Quoted" at the start'), ("1", "", 'plain "')]),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_public_formats_are_recognised_from_their_content(tmp_path, content, format, expected, compress):
    """Nothing is made of the name: neither the form nor that it is compressed."""
    file = tmp_path / "corpus"
    file.write_bytes(gzip.compress(content.encode()) if compress else content.encode())
    corpus = CorpusFile(file)
    assert corpus.format == format
    for _ in range(2):
        assert [tuple(passage.values()) for passage in read_corpus(corpus)] == expected
        assert corpus.bytes_read == corpus.num_bytes == file.stat().st_size
    assert list(CorpusFile(file, format)) == list(corpus)


def test_what_is_left_out_is_counted(tmp_path):
    (tmp_path / "kilt").write_text(lines(PAGE, {**PAGE, "wikipedia_id": "3"}))
    corpus = CorpusFile(tmp_path / "kilt")
    assert len(list(corpus)) == len(list(corpus)) == 4
    paragraphs = "paragraphs left out: "
    assert corpus.counts == {f"{paragraphs}{what}": 2 for what in ("the page's title", "headings", "empty")}

    documents = [{"_id": "1", "title": "Only a title", "text": ""}, {"_id": "2", "title": "", "text": " "}]
    (tmp_path / "beir").write_text(lines(*documents))
    corpus = CorpusFile(tmp_path / "beir")
    assert list(corpus) == [{"id": "1", "title": "", "text": "Only a title"}]
    assert corpus.counts == {
        "documents of a title alone, which is read as their text": 1,
        "empty documents left out": 1,
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("1\ta\tb\n", ":1: found 3 columns, none of them named id and text; put a first line that names them"),
        ("id\ttext\ttitle\n1\tx\n", ":2: found 2 columns, need 3: id, text, title"),
        ("id\ttext\n1\tx\n1\ty\n", ":3: field 'id': '1' is that of {file}:2 too; ids must be unique"),
        ('id\ttext\n1\t"x"y\n', ":2: not readable as TSV"),
        ("id\ttext\n1\t \n", ":2: field 'text' is empty"),
        (lines(PAGE, PAGE), ":2: field 'id': '290:1' is that of {file}:1 too"),
        (lines({**PAGE, "text": "x"}), ":1: need the strings wikipedia_id and wikipedia_title and the list text"),
        (lines({**PAGE, "text": ["A", 3]}), ":1: field 'text': found 3, need a list of strings"),
        (lines({"id": "1", "contents": 3}), ":1: field 'contents': found 3, need a string"),
        (lines({"_id": "1", "text": 3}), ":1: field 'text': found 3 (int), need a string"),
        (lines({"_id": None, "text": "x"}), ":1: field 'id': found None (NoneType), need a string"),
    ],
)
def test_faults_of_public_formats(tmp_path, content, complaint):
    file = tmp_path / "corpus"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{file}{complaint.replace('{file}', str(file))}")):
        list(read_corpus(file))


def test_damaged_files_are_named(tmp_path):
    file = tmp_path / "corpus.gz"
    rows = lines(*({**GOOD, "id": str(number)} for number in range(10_000)))
    file.write_bytes(gzip.compress(rows.encode())[:-100])
    with pytest.raises(ValueError, match=r"corpus\.gz: the compressed file is cut off or damaged"):
        list(read_corpus(file))
    for content in (b"id\ttext\n1\tcaf\xe9\n", b"caf\xe9\ttext\tid\n"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"corpus\.gz.*codec can't decode"):
            list(read_corpus(file))
    with pytest.raises(ValueError, match="unknown format 'csv'; expected one of jsonl, beir, contents, kilt, tsv"):
        CorpusFile(file, "csv")


@pytest.mark.parametrize("as_file", [True, False])
def test_a_repeated_id_is_found_however_far_away(tmp_path, as_file, monkeypatch):
    monkeypatch.setattr(corpus_module, "_IDS_AT_ONCE", 100)
    passages = [{**GOOD, "id": str(number)} for number in [*range(1_000), 250, *range(2_000, 2_500)]]
    (tmp_path / "corpus.jsonl").write_text(lines(*passages))
    first, second = (f"{tmp_path}/corpus.jsonl:251", f"{tmp_path}/corpus.jsonl:1001")
    if not as_file:
        first, second = "passage 250", "passage 1000"
    with pytest.raises(ValueError, match=re.escape(f"{second}: field 'id': '250' is that of {first} too")):
        list(read_corpus(tmp_path / "corpus.jsonl" if as_file else passages))
    with pytest.raises(ValueError, match="passage 1000: field 'id': '250' is that of an earlier passage too"):
        list(read_corpus(iter(passages)))


def test_different_ids_with_one_hash_are_no_fault(tmp_path, monkeypatch):
    """Every id gets the same hash: each is looked up in the file and found to be new."""
    monkeypatch.setattr("dro_trl.retrieval.seen_ids.hash", lambda id: 5, raising=False)
    passages = [{**GOOD, "id": str(number)} for number in range(20)]
    (tmp_path / "corpus.jsonl").write_text(lines(*passages))
    corpus = CorpusFile(tmp_path / "corpus.jsonl")
    assert list(read_corpus(corpus)) == list(read_corpus(passages)) == passages


def passages(*numbers):
    return [{"id": str(number), "title": "", "text": f"text {number}"} for number in numbers]


def lines_of(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_folder_is_read_as_one_corpus(tmp_path):
    """As Pyserini's collections are: lines, a list, one object over several lines or on one, packed or not."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.jsonl").write_bytes(lines_of(*passages(3, 4)))
    (tmp_path / "a.json").write_text(json.dumps(passages(1, 2), indent=1))
    (tmp_path / "deep" / "c.jsonl.gz").write_bytes(gzip.compress(lines_of(*passages(5))))
    (tmp_path / "deep" / "d.json").write_text("\ufeff" + json.dumps(passages(6)[0], indent=2), "utf-8")
    (tmp_path / "deep" / "e.json").write_text(json.dumps(passages(7)[0]))
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(json.dumps(passages(8)).encode()))
    for left_out in ("README.md", "g.jsonl", ".hidden.jsonl"):
        (tmp_path / left_out).write_text("no passage" if left_out != "g.jsonl" else "")
    corpus = open_corpus(tmp_path)
    assert corpus.format == "jsonl"
    for _ in range(2):
        assert [passage["id"] for passage in read_corpus(corpus)] == list("12345678")
        assert corpus.counts == {"files left out, empty or of other kinds": 2}
        assert corpus.bytes_read == corpus.num_bytes
    assert list(read_corpus(str(tmp_path))) == list(read_corpus(corpus))


def test_counts_of_a_folder_are_those_of_its_files(tmp_path):
    for name in "ab":
        rows = [{"_id": f"{name}1", "title": "T", "text": ""}, {"_id": f"{name}2", "text": ""}]
        (tmp_path / f"{name}.jsonl").write_bytes(lines_of(*rows))
    corpus = open_corpus(tmp_path)
    assert [passage["id"] for passage in corpus] == ["a1", "b1"]
    assert dict(corpus.counts) == {
        "documents of a title alone, which is read as their text": 2,
        "empty documents left out": 2,
    }


def test_an_id_in_two_files_of_a_folder(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines_of(*passages(1, 2)))
    (tmp_path / "b.jsonl").write_bytes(lines_of(*passages(3, 2)))
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path}/b.jsonl:2: field 'id': '2' is that of {tmp_path}/a.jsonl:2")
    ):
        list(read_corpus(tmp_path))


def test_folders_that_are_no_corpus(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{tmp_path}: no corpus; there is no file *.jsonl, *.json, *.tsv")
    ):
        open_corpus(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(lines_of(*passages(1)))
    (tmp_path / "pages.tsv").write_text("1\ttext\n")
    with pytest.raises(ValueError, match=r"corpus.jsonl looks like jsonl, .*pages.tsv like tsv; name the format"):
        open_corpus(tmp_path)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    with pytest.raises(
        ValueError, match="a folder of BEIR's, with queries beside the documents; give its corpus.jsonl"
    ):
        open_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file"):
        open_corpus(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("[1]", "a.json, element 1: found a JSON int"), ('[{"id": "1"', "a.json: not JSON"), ("{\n", "a.json: not JSON")],
)
def test_faults_of_a_json_list(tmp_path, content, complaint):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        list(read_corpus(tmp_path / "a.json"))


def test_beirs_numbers_and_nulls(tmp_path):
    rows = [{"_id": 10, "title": "Loire", "text": "a"}, {"_id": 20, "title": None, "text": "b"}]
    rows += [{"_id": 30, "title": "T", "text": None}]
    (tmp_path / "corpus.jsonl").write_bytes(lines_of(*rows))
    assert list(read_corpus(tmp_path / "corpus.jsonl")) == [
        {"id": "10", "title": "Loire", "text": "a"},
        {"id": "20", "title": "", "text": "b"},
        {"id": "30", "title": "", "text": "T"},
    ]
