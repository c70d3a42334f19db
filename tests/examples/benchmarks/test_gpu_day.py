"""The day on a GPU goes on where it stopped, no part's failure is another's, and cheap parts run on a CPU."""

import json
import sys

import gpu_day
import pytest


def part(name, program, output=None):
    return gpu_day.Part(name, (sys.executable, "-c", program), output)


def test_a_failure_stops_nothing_and_is_tried_again(tmp_path):
    results, flag = tmp_path / "day.jsonl", tmp_path / "flag"
    written = tmp_path / "found.json"
    parts = [
        part("slow", "import time; print('begun', flush=True); time.sleep(60)"),
        part("fails", f"import pathlib, sys; sys.exit(0 if pathlib.Path({str(flag)!r}).exists() else 3)"),
        part("writes nothing", "", tmp_path / "none.json"),
        part("writes", f"import pathlib; pathlib.Path({str(written)!r}).write_text('[1]')", written),
    ]
    assert not gpu_day.run_all(parts, results, {"device": "a"}, limit=2)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["ok"] for line in lines] == [False, False, False, True]
    assert [line["exit_code"] for line in lines[:2]] == ["time limit", 3]
    assert lines[0]["said"] == "begun\n"
    assert lines[3]["found"] == [1]
    flag.touch()
    assert gpu_day.run_all([parts[1], parts[3]], results, {"device": "a"}, limit=2)
    names = [json.loads(line)["part"] for line in results.read_text().splitlines()]
    assert names[4:] == ["fails"]
    assert gpu_day.run_all([parts[3]], results, {"device": "another"}, limit=2)
    assert len(results.read_text().splitlines()) == 6


def test_every_test_for_a_gpu_is_in_a_part():
    from tests.integration import test_gpu

    words = [word for part in gpu_day.TESTS for word in part.split(" or ")]
    named = [name for name in vars(test_gpu) if name.startswith("test_")]
    assert all(any(word in name for word in words) for name in named)


@pytest.mark.slow
def test_the_cheap_parts_rehearse(tmp_path):
    gpu_day.write_start(tmp_path / "sharded")
    parts = [p for p in gpu_day.all_parts(tmp_path, rehearse=True) if p.name.startswith(("profile", "sharded"))]
    assert len(parts) == 4
    assert gpu_day.run_all(parts, tmp_path / "day.jsonl", {}, limit=600)
