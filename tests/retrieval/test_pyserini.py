"""BM25 by real Lucene: scores worked by hand, what is stored, and every error."""

import importlib.util
import json
import os
import re
import shutil
from math import log
from pathlib import Path

import pytest

from dro_trl.retrieval.base import Retriever
from dro_trl.retrieval.corpus import parse_stored
from dro_trl.retrieval.jvm import JavaError, JavaProcess
from dro_trl.retrieval.pyserini import PyseriniRetriever

PASSAGE = {"id": "1", "title": "One", "text": "first passage"}


def bm25(df: int, tf: int, length: int, *, k1: float = 0.9, b: float = 0.4) -> float:
    """One term's score in the shared index: 4 passages of 4, 6, 4 and 2 terms, hence 4 on average."""
    return log(1 + (4 - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / 4))


def scores(retriever: PyseriniRetriever, question: str, k: int = 10) -> dict[str, float]:
    return {passage["id"]: passage["score"] for passage in retriever.retrieve([question], k)[0]}


class TestKnownAnswers:
    r"""The passages' terms, title and text together (conftest.py).

    a: radium mari found radium; b: polonium mari found polonium near pari; c: pari pari li north; d: north wind.
    "north" is in 2 of 4 (idf = ln(1 + 2.5/2.5) = ln 2), c and d hold it once: 1/(1+0.9) ln 2 = 0.3648 in c of average
    length, 1/(1 + 0.9 (0.6 + 0.4/2)) ln 2 = 0.4030 in the shorter d.
    """

    def test_terms(self, retriever):
        assert retriever.analyze(["Paris\nParis lies north", "The wind"]) == [
            ["pari", "pari", "li", "north"],
            ["wind"],
        ]

    def test_one_term(self, retriever):
        assert scores(retriever, "north") == pytest.approx({"d": 0.4030, "c": 0.3648}, abs=1e-4)
        assert scores(retriever, "north") == pytest.approx({"d": bm25(2, 1, 2), "c": bm25(2, 1, 4)}, abs=1e-4)
        assert list(scores(retriever, "north")) == ["d", "c"]

    def test_terms_add_up_and_titles_count(self, retriever):
        expected = {"c": bm25(2, 2, 4) + bm25(2, 1, 4), "d": bm25(2, 1, 2), "b": bm25(2, 1, 6)}
        found = scores(retriever, "Is Paris north?")
        assert found == pytest.approx(expected, abs=1e-4)
        assert list(found) == ["c", "d", "b"]

    def test_term_asked_twice_counts_twice(self, retriever):
        assert scores(retriever, "radium radium") == pytest.approx({"a": 2 * bm25(1, 2, 4)}, abs=1e-4)

    def test_k1_and_b(self, index):
        with PyseriniRetriever(index, k1=2.0, b=1.0) as other:
            expected = {"d": bm25(2, 1, 2, k1=2, b=1), "c": bm25(2, 1, 4, k1=2, b=1)}
            assert scores(other, "north") == pytest.approx(expected, abs=1e-4)

    def test_ties_are_in_order_of_id(self, tmp_path):
        twins = [{"id": id, "title": "", "text": "same words"} for id in ("z", "m", "a", "q")]
        with PyseriniRetriever.build(twins, tmp_path / "index", threads=4) as tied:
            assert list(scores(tied, "words")) == ["a", "m", "q", "z"]


class TestRetrieve:
    def test_is_a_retriever(self, retriever):
        assert isinstance(retriever, Retriever)

    def test_order_and_depth(self, retriever):
        found = retriever.retrieve(["radium", "north", "polonium"], k=1)
        assert [[passage["id"] for passage in passages] for passages in found] == [["a"], ["d"], ["b"]]
        assert len(retriever.retrieve(["Paris north"], k=100)[0]) == 3
        assert retriever.retrieve([], k=3) == []

    def test_fields(self, retriever):
        [[passage]] = retriever.retrieve(["radium"], k=1)
        assert passage == {"id": "a", "title": "Radium", "text": "Marie found radium", "score": passage["score"]}

    def test_question_of_stopwords_finds_nothing(self, retriever):
        assert retriever.retrieve(["is it the", "wind"], k=1)[0] == []

    def test_thousands_of_words(self, retriever):
        long = " ".join(f"word{number}" for number in range(3_000))
        assert scores(retriever, f"{long} radium") == pytest.approx({"a": bm25(1, 2, 4)}, abs=1e-4)

    def test_more_questions_than_one_request_holds(self, retriever):
        found = retriever.retrieve(["radium", "wind"] * 400, k=1)
        assert [passages[0]["id"] for passages in found] == ["a", "d"] * 400

    @pytest.mark.parametrize("k", [0, -3])
    def test_k(self, retriever, k):
        with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
            retriever.retrieve(["radium"], k)

    @pytest.mark.parametrize("question", ["", " \n", None, 3])
    def test_bad_question(self, retriever, question):
        with pytest.raises(ValueError, match=re.escape(f"question 1 is {question!r}; a non-empty string is needed")):
            retriever.retrieve(["radium", question], 1)

    def test_string_for_a_list(self, retriever):
        with pytest.raises(TypeError, match=re.escape("got the string 'radium'; pass ['radium']")):
            retriever.retrieve("radium", 1)


class TestBuild:
    def test_what_goes_in_comes_out(self, tmp_path):
        passages = [
            {"id": "x/1 é", "title": "Smile 😀 𝔘", "text": 'tab\t "quoted" \\ café\u2028東京 nul\0 end '},
            {"id": "2", "title": "", "text": "\nfirst line empty 😀"},
            {"id": "3", "title": '"Heroes"\nalbum', "text": '"Title"\nlike the prebuilt 😀'},
        ]
        with PyseriniRetriever.build(iter(passages), tmp_path / "deep" / "index") as retriever:
            found = retriever.retrieve(["smile 東京 empty prebuilt 😀"], 10)[0]
        stripped = [{field: passage[field] for field in ("id", "title", "text")} for passage in found]
        assert sorted(stripped, key=lambda passage: passage["id"]) == sorted(passages, key=lambda p: p["id"])

    def test_metadata(self, index):
        metadata = json.loads((index / "dro_trl_index.json").read_text())
        assert metadata["passages"] == 4
        assert metadata["seconds"] > 0

    def test_refuses_to_overwrite_unless_told(self, tmp_path):
        folder = tmp_path / "index"
        folder.mkdir()
        PyseriniRetriever.build([PASSAGE], folder).close()  # an empty folder is no loss
        with pytest.raises(FileExistsError, match=re.escape(f"{folder} holds an index; pass overwrite=True")):
            PyseriniRetriever.build([PASSAGE], folder)
        with PyseriniRetriever.build([{**PASSAGE, "id": "new"}], folder, overwrite=True) as rebuilt:
            assert list(scores(rebuilt, "first")) == ["new"]
        assert [path.name for path in tmp_path.iterdir()] == ["index"]

    def test_never_overwrites_what_is_no_index(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        for overwrite in (False, True):  # It is not advised to overwrite what is refused then.
            with pytest.raises(FileExistsError, match=r"holds thesis\.tex, which this command does not write"):
                PyseriniRetriever.build([PASSAGE], tmp_path, overwrite=overwrite)
        with pytest.raises(FileExistsError, match=r"thesis\.tex is a file"):
            PyseriniRetriever.build([PASSAGE], tmp_path / "thesis.tex", overwrite=True)

    @pytest.mark.parametrize("name", ["corpus.jsonl", "_notes.txt", "sub/_0.si"])
    def test_an_index_with_anything_else_beside_it_is_left_alone(self, tmp_path, name):
        folder = tmp_path / "index"
        PyseriniRetriever.build([PASSAGE], folder).close()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({**PASSAGE, "id": "2"}))
        with pytest.raises(FileExistsError, match=f"holds {name}, which this command does not write"):
            PyseriniRetriever.build(folder / name, folder, overwrite=True)
        assert (folder / name).exists()
        with PyseriniRetriever(folder) as kept:
            assert list(scores(kept, "first")) == ["1"]

    def test_failure_leaves_the_old_index_and_nothing_else(self, tmp_path):
        folder = tmp_path / "index"
        PyseriniRetriever.build([PASSAGE], folder).close()
        with pytest.raises(ValueError, match="passage 1: field 'id': '1' is that of passage 0 too"):
            PyseriniRetriever.build([PASSAGE, PASSAGE], folder, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["index"]
        with PyseriniRetriever(folder) as kept:
            assert list(scores(kept, "first")) == ["1"]

    def test_interrupted_build_leaves_nothing(self, tmp_path):
        def passages():
            for number in range(1_500):
                yield {**PASSAGE, "id": str(number)}
            assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".partial"]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            PyseriniRetriever.build(passages(), tmp_path / "index")
        assert list(tmp_path.iterdir()) == []

    def test_fingerprint_follows_content_and_options(self, index, retriever, tmp_path):
        with (
            PyseriniRetriever.build([PASSAGE], tmp_path / "1") as first,
            PyseriniRetriever.build([PASSAGE], tmp_path / "2", threads=1) as same,
            PyseriniRetriever(index, k1=1.2) as other_k1,
            PyseriniRetriever(index, b=0.5) as other_b,
        ):
            assert first.fingerprint == same.fingerprint
            assert len({opened.fingerprint for opened in (first, other_k1, other_b, retriever)}) == 4

    def test_fingerprint_of_a_foreign_index(self, index, tmp_path):
        copies = [shutil.copytree(index, tmp_path / name) for name in "ab"]
        for copy in copies:
            (copy / "dro_trl_index.json").unlink()
        with PyseriniRetriever(copies[0]) as one, PyseriniRetriever(copies[1]) as same:
            assert one.fingerprint == same.fingerprint
            assert list(scores(one, "wind")) == ["d"]


class TestOpen:
    def test_missing_folder(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=rf"no index folder {tmp_path}/none; build one with `dro-trl index"
        ):
            PyseriniRetriever(tmp_path / "none")

    def test_folder_without_an_index(self, tmp_path):
        with pytest.raises(ValueError, match=rf"{tmp_path} holds no Lucene index"):
            PyseriniRetriever(tmp_path)

    @pytest.mark.parametrize("damaged", ["segments_1", "_0.fdt", "_0.si"])
    def test_truncated(self, index, tmp_path, damaged):
        copy = shutil.copytree(index, tmp_path / "index")
        (copy / damaged).write_bytes((copy / damaged).read_bytes()[:20])
        with pytest.raises(ValueError, match=rf"{copy} holds a Lucene index that is corrupt .*CorruptIndexException"):
            PyseriniRetriever(copy)

    def test_a_changed_byte_is_found_in_any_file_and_whole_files_are_read_once(self, index, tmp_path):
        with PyseriniRetriever(shutil.copytree(index, tmp_path / "whole")) as first:
            assert first.seconds_of_checksums > 0
        with PyseriniRetriever(tmp_path / "whole") as second:
            assert second.seconds_of_checksums is None
        changed = tmp_path / "changed"
        shutil.copytree(tmp_path / "whole", changed)
        files = [path for path in changed.iterdir() if path.name.startswith(("_", "segments"))]
        assert len(files) > 5
        with JavaProcess() as java:
            java.request("verify", index_dir=str(changed))
            for path in files:
                content = path.read_bytes()
                path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
                with pytest.raises(JavaError, match=f"(?s)CorruptIndexException.*{path.name}"):
                    java.request("verify", index_dir=str(changed))
                path.write_bytes(content)
            java.request("verify", index_dir=str(changed))
        stored = max(files, key=lambda path: path.suffix == ".fdt")
        content = stored.read_bytes()
        stored.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        os.utime(stored, (1, 1))
        with pytest.raises(ValueError, match=rf"{changed} holds a Lucene index that is corrupt .*{stored.name}"):
            PyseriniRetriever(changed)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"k1": -1}, "k1 must be a number >= 0, got -1"),
            ({"k1": float("nan")}, "k1 must be a number >= 0, got nan"),
            ({"b": 1.5}, "b must be between 0 and 1, got 1.5"),
            ({"threads": 0}, "threads must be at least 1, got 0"),
        ],
    )
    def test_options(self, index, options, complaint):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            PyseriniRetriever(index, **options)

    def test_closed(self, index):
        with PyseriniRetriever(index) as retriever:
            pass
        with pytest.raises(RuntimeError, match="this retriever is closed"):
            retriever.retrieve(["radium"], 1)


class TestPrebuilt:
    def test_unknown_name(self):
        with pytest.raises(
            ValueError, match="unknown prebuilt index 'wikipedia-dpr-100v'; .* are wikipedia-dpr-100w,"
        ):
            PyseriniRetriever.from_prebuilt("wikipedia-dpr-100v")

    def test_opens_what_is_downloaded_already(self, tmp_path, monkeypatch):
        """An index in the place and form of `wikipedia-dpr-100w`, as if downloaded before."""
        package = importlib.util.find_spec("pyserini")
        source = (Path(package.origin).parent / "prebuilt_index_info.py").read_text()
        entry = source[source.index('"wikipedia-dpr-100w": {') :]
        name = re.search(r'"filename": "(.+)\.tar\.gz"', entry)[1]
        md5 = re.search(r'"md5": "(.+)"', entry)[1]
        folder = tmp_path / "indexes" / f"{name}.{md5}"
        document = {"id": "7", "contents": '"Aaron Burr"\nBurr was the third vice president.'}
        with JavaProcess() as java:
            java.request("create", index_dir=str(folder), threads=1)
            java.request("add", documents=[json.dumps(document)])
            assert java.request("commit", index_dir=str(folder)) == 1
        monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
        with PyseriniRetriever.from_prebuilt("wikipedia-dpr-100w", k1=1.0) as retriever:
            [[passage]] = retriever.retrieve(["third president"], 5)
            assert (retriever.index, retriever.k1) == (folder, 1.0)
        assert passage["title"] == "Aaron Burr"
        assert passage["text"] == "Burr was the third vice president."


class TestParseStored:
    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ({"id": "1", "title": "T", "contents": "T\nbody\nmore"}, ("T", "body\nmore")),
            ({"id": "1", "title": "", "contents": "\nbody"}, ("", "body")),
            ({"id": "1", "contents": '"Aaron"\nAaron is "old".\nYes'}, ("Aaron", 'Aaron is "old".\nYes')),
            ({"id": "1", "contents": '""Heroes" (album)"\nbody'}, ('"Heroes" (album)', "body")),
            ({"id": "1", "contents": '"""Heroes"" (album)"\nbody'}, ('"Heroes" (album)', "body")),
            ({"_id": "1", "title": "T", "text": "body", "metadata": {}}, ("T", "body")),
            ({"id": "1", "contents": 'no title, "quotes" inside\nline'}, ("", 'no title, "quotes" inside\nline')),
        ],
    )
    def test_forms(self, stored, expected):
        assert parse_stored(json.dumps(stored)) == expected

    @pytest.mark.parametrize(
        ("raw", "complaint"),
        [
            (None, "the index does not store its texts"),
            ("<DOC>", "the stored document cannot be read .malformed JSON.*: '<DOC>'"),
            ('{"id": "1"}', "there is no field 'contents' or 'text'"),
            ("[1]", "found list, need an object"),
        ],
    )
    def test_errors(self, raw, complaint):
        with pytest.raises(ValueError, match=complaint):
            parse_stored(raw)
