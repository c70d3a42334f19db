"""The benchmark of retrieval at Wikipedia's size: what it writes and compares, and all of it on few passages."""

import json
import sys

import pytest
import wikipedia_size


def test_passages_do_not_depend_on_who_writes_them(monkeypatch):
    monkeypatch.setattr(wikipedia_size, "BLOCK", 10)
    whole = list(wikipedia_size.blocks(range(3), 25, 5, 0))
    assert list(wikipedia_size.blocks(range(1, 3), 25, 5, 0)) == whole[1:]
    passages = [json.loads(line) for lines, _ in whole for line in lines.splitlines()]
    assert [passage["id"] for passage in passages] == [str(number) for number in range(25)]
    questions = [json.loads(line) for _, lines in whole for line in lines.splitlines()]
    assert [question["id"] for question in questions] == ["0", "5", "10", "15", "20"]
    for question in questions:
        words = question["question"].split()
        assert 4 <= len(words) <= 12
        assert set(words) <= set(passages[int(question["id"])]["contents"].split())


def test_differences_are_counted_by_kind(tmp_path):
    hits = [["a", 2.0], ["b", 1.0]]
    other = [hits, hits[::-1], [["a", 2.0], ["b", 1.5]], [["a", 2.0], ["c", 1.0]]]
    for name, found in (("one", [hits] * 4), ("two", other)):
        (tmp_path / f"asked_{name}").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in found)
        (tmp_path / f"asked_{name}" / "found_0.jsonl").write_text(lines)
    expected = {"questions": 4, "other_passages": 1, "other_order": 2, "other_scores": 3, "most": 0.5}
    assert wikipedia_size.compare(tmp_path, "one", "two") == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_results_do_not_depend_on_threads_segments_or_merging(tmp_path, monkeypatch):
    sizes = ["--num_passages", "30000", "--num_questions", "200"]
    monkeypatch.setattr(sys, "argv", ["wikipedia_size.py", *sizes, "--folder", str(tmp_path)])
    wikipedia_size.main()
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["dro-trl index"]["passages"] == found["Pyserini's indexer"]["passages"] == 30_000
    for name in ("one thread against two", "its segments against ours", "one segment against ours"):
        assert found[name] == {"questions": 20, "other_passages": 0, "other_order": 0, "other_scores": 0, "most": 0.0}
    assert wikipedia_size.sizes(tmp_path / "theirs")["segments"] == 1
