"""`dro-trl index` and `dro-trl retrieve`, as a shell runs them."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import pytrec_eval
import typer
from typer.testing import CliRunner

from dro_trl.cli import index, prepare, retrieve
from dro_trl.retrieval.gold import AnswerMatch, mark_answers

CORPUS = [
    {"id": "a", "title": "Radium", "text": "Marie found radium"},
    {"id": "b", "title": "Polonium", "text": "Marie found polonium near Paris"},
    {"id": "c", "title": "Paris", "text": "Paris lies north"},
]
ROWS = [
    {"question": "radium", "gold_ids": ["a"], "note": {"kept": "é"}},
    {"question": "Marie polonium", "gold_ids": ["a", "b"]},
    {"question": "Paris", "gold_ids": None},
    {"question": "of the", "gold_ids": ["c"]},
]

app = typer.Typer()
app.command("index")(index.main)
app.command("retrieve")(retrieve.main)
app.command("prepare")(prepare.main)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    result = run("index", "--corpus", write_jsonl(folder / "corpus.jsonl", CORPUS), "--index_dir", folder / "index")
    assert result.exit_code == 0, result.output
    assert re.search(r"indexed 3 passages in \d+\.\d s", result.output)
    return folder / "index"


def test_index_overwrites_only_when_told(tmp_path, index_dir):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", CORPUS[:1])
    before = sorted(path.name for path in index_dir.iterdir())
    result = run("index", "--corpus", corpus, "--index_dir", index_dir)
    assert isinstance(result.exception, FileExistsError)
    assert sorted(path.name for path in index_dir.iterdir()) == before
    assert run("index", "--corpus", corpus, "--index_dir", tmp_path / "i").exit_code == 0
    result = run("index", "--corpus", corpus, "--index_dir", tmp_path / "i", "--overwrite", "--threads", "1")
    assert "indexed 1 passage " in result.output


def test_retrieve_adds_candidates_and_measures_recall(tmp_path, index_dir):
    rows, output = write_jsonl(tmp_path / "questions.jsonl", ROWS), tmp_path / "out" / "out.jsonl"
    result = run("retrieve", "--index_dir", index_dir, "--input", rows, "--output", output, "-k", 5)
    assert result.exit_code == 0, result.output
    written = read_jsonl(output)
    assert [{field: row[field] for field in row if field != "candidates"} for row in written] == ROWS
    assert [[passage["id"] for passage in row["candidates"]] for row in written] == [["a"], ["b", "a"], ["c", "b"], []]
    assert written[0]["candidates"][0].keys() == {"id", "title", "text", "score"}
    # Three rows have gold: recall@1 is (1 + 1/2 + 0) / 3, recall@5 (1 + 1 + 0) / 3; 20 lies beyond k.
    expected = {"recall@1": 0.5, "recall@5": 2 / 3, "n": 3}
    results = json.loads((tmp_path / "out" / "out.jsonl.results.json").read_text())
    assert results == {"systems": {"bm25": expected}, "comparisons": []}
    assert "0.500" in result.output
    assert "nothing was found for 1 of 4 questions" in result.output
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.jsonl", "out.jsonl.results.json"]


def test_candidates_that_hold_an_answer_are_gold_where_no_passage_is_named(tmp_path, index_dir):
    rows = [
        {"question": "Marie radium", "answers": ["no such thing"], "gold_ids": ["a"]},
        {"question": "Paris", "answers": ["nowhere", "PARIS"]},
        {"question": "radium", "answers": ["nobody"], "gold_ids": None},
        {"question": "radium"},
    ]
    output = tmp_path / "out.jsonl"
    command = ("--input", write_jsonl(tmp_path / "questions.jsonl", rows), "--output", output, "--answer_as_gold")
    result = run("retrieve", "--index_dir", index_dir, *command)
    assert result.exit_code == 0, result.output
    written = read_jsonl(output)
    holding = [p["id"] for p in written[1]["candidates"] if "paris" in p["text"].lower()]
    assert holding
    assert [row.get("gold_ids", "none") for row in written] == [["a"], holding, [], "none"]
    assert "1 questions without gold passages have candidates that hold an answer" in result.output
    assert json.loads((tmp_path / "out.jsonl.results.json").read_text())["systems"]["bm25"]["n"] == 2


@pytest.mark.parametrize(("match", "gold"), [("dpr", ["text"]), ("extended", ["title", "text", "curly"])])
def test_dprs_rule_reads_texts_and_the_extended_one_titles_too(match, gold):
    passages = [
        {"id": "title", "title": "O'Brien's", "text": "A novel."},
        {"id": "text", "title": "", "text": "By O'Brien."},
        {"id": "curly", "title": "", "text": "By O\u2019Brien."},
        {"id": "across", "title": "O", "text": "'Brien"},
    ]
    row = {"candidates": passages, "answers": ["O'Brien"]}
    assert mark_answers(row, AnswerMatch(match))
    assert row["gold_ids"] == gold


def test_how_answers_are_judged_is_of_no_use_alone(tmp_path, index_dir):
    rows = write_jsonl(tmp_path / "q.jsonl", [{"question": "radium"}])
    command = ("--index_dir", index_dir, "--input", rows, "--output", tmp_path / "o", "--answer_match", "extended")
    result = run("retrieve", *command)
    assert "--answer_match extended says how --answer_as_gold judges candidates" in str(result.exception)
    assert not (tmp_path / "o").exists()


def test_gold_passages_that_were_missed_are_added(tmp_path, index_dir):
    """In place of the last that are not gold; the recall that is reported stays BM25's."""
    rows = [
        {"question": "Marie radium", "gold_ids": ["c", "a", "c"]},
        {"question": "Paris", "gold_ids": ["a", "b"]},
        {"question": "of the", "gold_ids": ["b"]},
        {"question": "radium", "gold_ids": None},
    ]
    output = tmp_path / "out.jsonl"
    command = ("--input", write_jsonl(tmp_path / "questions.jsonl", rows), "--output", output, "-k", 2, "--add_gold")
    result = run("retrieve", "--index_dir", index_dir, *command)
    assert result.exit_code == 0, result.output
    written = [row["candidates"] for row in read_jsonl(output)]
    assert [[passage["id"] for passage in candidates] for candidates in written] == [
        ["a", "c"],
        ["b", "a"],
        ["b"],
        ["a"],
    ]
    assert {**written[0][1], "score": None} == {**CORPUS[2], "score": None}
    assert [passage["score"] for passage in written[1]] == [written[1][0]["score"]] * 2 != [0, 0]
    assert "added 3 gold passages that were not found; use these candidates for training alone" in result.output
    # BM25 finds "a" and "b" for the first, "c" and "b" for the second, nothing for the third.
    recall = json.loads((tmp_path / "out.jsonl.results.json").read_text())["systems"]["bm25"]
    assert recall == {"recall@1": pytest.approx(1 / 6), "n": 3}

    write_jsonl(tmp_path / "questions.jsonl", [{"question": "Paris", "gold_ids": ["z"]}])
    result = run("retrieve", "--index_dir", index_dir, *command)
    assert "holds no passage 'z' (1 of 1 are missing)" in str(result.exception)


def test_retrieve_without_gold_reports_no_recall(tmp_path, index_dir):
    rows = write_jsonl(tmp_path / "questions.jsonl", [{"question": "Paris"}])
    options = ("--k1", 0, "--b", 0, "--threads", 1, "--num_candidates", 1)
    result = run("retrieve", "--index_dir", index_dir, "--input", rows, "--output", tmp_path / "out.jsonl", *options)
    assert result.exit_code == 0, result.output
    # With k1 = 0 a term counts once however often it occurs: "b" and "c" tie, in order of id.
    assert read_jsonl(tmp_path / "out.jsonl")[0]["candidates"][0]["id"] == "b"
    assert "recall" not in result.output
    assert not (tmp_path / "out.jsonl.results.json").exists()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({}, "questions.jsonl:2: field 'question': found None, need a non-empty string"),
        ({"question": " "}, "questions.jsonl:2: field 'question': found ' '"),
        ({"question": "x", "candidates": []}, "questions.jsonl:2: field 'candidates' is there already"),
        (
            {"question": "x", "gold_ids": [0.5]},
            "questions.jsonl:2: field 'gold_ids': found [0.5], need a list of strings",
        ),
    ],
)
def test_bad_rows(tmp_path, index_dir, row, complaint):
    rows = write_jsonl(tmp_path / "questions.jsonl", [{"question": "x"}, row])
    result = run("retrieve", "--index_dir", index_dir, "--input", rows, "--output", tmp_path / "out.jsonl")
    assert isinstance(result.exception, ValueError)
    assert complaint in str(result.exception)
    assert not (tmp_path / "out.jsonl").exists()


def test_no_rows(tmp_path, index_dir):
    rows = write_jsonl(tmp_path / "questions.jsonl", [])
    result = run("retrieve", "--index_dir", index_dir, "--input", rows, "--output", tmp_path / "out.jsonl")
    assert "no rows; at least one question is needed" in str(result.exception)


@pytest.mark.parametrize("source", [(), ("--index_dir", "i", "--prebuilt", "p")])
def test_one_source_is_needed(tmp_path, source):
    rows = write_jsonl(tmp_path / "questions.jsonl", ROWS)
    result = run("retrieve", *source, "--input", rows, "--output", tmp_path / "out.jsonl")
    assert "give one of --index_dir" in str(result.exception)


def test_unknown_prebuilt(tmp_path):
    rows = write_jsonl(tmp_path / "questions.jsonl", ROWS)
    result = run("retrieve", "--prebuilt", "wikipedia-dpr-100", "--input", rows, "--output", tmp_path / "out.jsonl")
    assert "wikipedia-dpr-100w" in str(result.exception)


def test_importing_the_commands_costs_nothing():
    source = (
        "import sys; import dro_trl.cli.index, dro_trl.cli.retrieve; "
        "print(sorted({'torch', 'datasets', 'pyserini', 'numpy', 'rich.table'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("option", [(), ("--format", "beir")])
def test_index_says_the_format_and_what_it_left_out(tmp_path, option):
    documents = [{"_id": "a", "title": "Radium", "text": ""}, {"_id": "b", "title": "", "text": ""}]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents)
    result = run("index", "--corpus", corpus, "--index_dir", tmp_path / "index", *option)
    assert result.exit_code == 0, result.output
    assert f"reading {corpus} as beir" + ("\n" if option else ", by its first line") in result.output
    assert "documents of a title alone, which is read as their text: 1" in result.output
    assert "empty documents left out: 1" in result.output
    assert "indexed 1 passage " in result.output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_index_command_leaves_no_index(tmp_path, how):
    """SIGTERM clears up at once; what SIGKILL leaves in the middle is hidden, and the next build removes it."""
    text = "marie found radium " * 30
    rows = ({"id": str(number), "title": "", "text": f"{text}{number}"} for number in range(200_000))
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    folder = tmp_path / "indexes"
    folder.mkdir()
    command = [sys.executable, "-m", "dro_trl", "index", "--corpus", str(corpus), "--index_dir", str(folder / "index")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".index.*.partial/*.fd*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(timeout=30) in (-how, 128 + how)
    process.stderr.close()
    left = [path.name for path in folder.iterdir()]
    assert sorted(name.rpartition(".")[2] for name in left) == (["lock", "partial"] if how == signal.SIGKILL else [])
    assert all(name.startswith(".index.") for name in left)

    small = write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    assert run("index", "--corpus", small, "--index_dir", folder / "index").exit_code == 0
    assert [path.name for path in folder.iterdir()] == ["index"]


def test_a_run_file_gives_the_same_candidates_back(tmp_path, index_dir):
    """Through the index or the corpus; the recall is the run's."""
    rows = write_jsonl(tmp_path / "questions.jsonl", [{"id": f"q{n}", **row} for n, row in enumerate(ROWS)])
    run_file, corpus = tmp_path / "bm25.txt", write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    common = ("retrieve", "--input", rows, "-k", 5)
    result = run(*common, "--index_dir", index_dir, "--output", tmp_path / "0.jsonl", "--output_run", run_file)
    assert result.exit_code == 0, result.output
    assert f"wrote {run_file}: 5 lines" in result.output
    for number, source in enumerate([("--index_dir", index_dir), ("--corpus", corpus)], start=1):
        output = tmp_path / f"{number}.jsonl"
        result = run(*common, *source, "--from_run", run_file, "--output", output)
        assert result.exit_code == 0, result.output
        assert read_jsonl(output) == read_jsonl(tmp_path / "0.jsonl")
        results = json.loads((tmp_path / f"{number}.jsonl.results.json").read_text())
        assert results["systems"] == {"bm25.txt": {"recall@1": 0.5, "recall@5": 2 / 3, "n": 3}}
    result = run(*common, "--corpus", corpus, "--output", tmp_path / "x.jsonl")
    assert "is for the passages of --from_run; build an index" in str(result.exception)


def test_passages_that_lucene_ties_at_high_scores_keep_their_order_in_other_tools(tmp_path):
    words = " ".join(f"word{number}" for number in range(60))
    corpus = [{"id": id, "title": "", "text": words} for id in "bac"]
    corpus += [{"id": f"other{number}", "title": "", "text": f"filler{number}"} for number in range(40)]
    assert (
        run("index", "--corpus", write_jsonl(tmp_path / "c.jsonl", corpus), "--index_dir", tmp_path / "i").exit_code
        == 0
    )
    rows = write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "question": words}])
    command = (
        "--index_dir",
        tmp_path / "i",
        "--input",
        rows,
        "--output",
        tmp_path / "o",
        "--output_run",
        tmp_path / "run",
    )
    result = run("retrieve", *command)
    assert result.exit_code == 0, result.output
    candidates = read_jsonl(tmp_path / "o")[0]["candidates"]
    assert candidates[1]["score"] == candidates[2]["score"] > 16
    with (tmp_path / "run").open() as file:
        found = pytrec_eval.parse_run(file)
    gold = {"q": {candidates[1]["id"]: 1}}
    assert pytrec_eval.RelevanceEvaluator(gold, {"recip_rank"}).evaluate(found)["q"]["recip_rank"] == 0.5


@pytest.mark.parametrize("how", ["excluded_ids", "--exclude_own", "neither"])
def test_a_question_that_is_a_document_is_left_out_of_its_own_hits(tmp_path, index_dir, how):
    """Of "Marie found radium" the index finds "a", which is it, and "b"; the run file is of the same hits."""
    own = {"excluded_ids": ["a", "of another corpus"]} if how == "excluded_ids" else {}
    rows = [{"id": "a", "question": "Marie found radium", "gold_ids": ["b"], **own}, {"id": "q", "question": "radium"}]
    run_file, output = tmp_path / "run", tmp_path / "o"
    command = ("--input", write_jsonl(tmp_path / "q.jsonl", rows), "--output", output, "-k", 1)
    flags = ["--exclude_own"] if how == "--exclude_own" else []
    result = run("retrieve", "--index_dir", index_dir, *command, "--output_run", run_file, *flags)
    assert result.exit_code == 0, result.output
    first = "a" if how == "neither" else "b"
    assert [[passage["id"] for passage in row["candidates"]] for row in read_jsonl(output)] == [[first], ["a"]]
    recall = json.loads((tmp_path / "o.results.json").read_text())["systems"]["bm25"]["recall@1"]
    assert recall == float(how != "neither")
    assert [line.split()[2] for line in run_file.read_text().splitlines()] == [first, "a"]
    assert ("1 of 2 questions found a passage that was left out" in result.output) == (how != "neither")
    if how != "neither":  # from a run file of another tool likewise
        run_file.write_text("a Q0 a 1 2 t\na Q0 b 2 1 t\nq Q0 a 1 2 t\n")
        assert run("retrieve", "--index_dir", index_dir, *command, "--from_run", run_file, *flags).exit_code == 0
        assert [[passage["id"] for passage in row["candidates"]] for row in read_jsonl(output)] == [["b"], ["a"]]


def test_beirs_folder_from_prepare_to_recall(tmp_path):
    """Queries that are documents, as in ArguAna; nothing has to be said about it."""
    texts = ["Zoos should be closed since animals suffer.", "Zoos protect animals.", "Taxes should be lowered."]
    corpus = [{"_id": number, "title": None, "text": text} for number, text in enumerate(texts)]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_bytes(b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\n0\t1\t2.0\r\n")
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": 0, "text": texts[0]}])
    collection = tmp_path / "collection"
    collection.mkdir()
    write_jsonl(collection / "docs00.jsonl", corpus[:2])
    (collection / "docs01.json").write_text(json.dumps(corpus[2:], indent=1))
    rows, output = tmp_path / "rows.jsonl", tmp_path / "o"
    for command in (
        ("prepare", "--format", "beir", "--input", tmp_path, "--corpus", collection, "--output", rows),
        ("index", "--corpus", collection, "--index_dir", tmp_path / "index"),
        ("retrieve", "--index_dir", tmp_path / "index", "--input", rows, "--output", output, "-k", 1),
    ):
        result = run(*command)
        assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "o.results.json").read_text())["systems"]["bm25"]["recall@1"] == 1.0


def test_rows_without_an_id_have_their_number_in_a_run_file(tmp_path, index_dir):
    rows, run_file = write_jsonl(tmp_path / "questions.jsonl", ROWS), tmp_path / "run"
    result = run(
        "retrieve", "--input", rows, "--index_dir", index_dir, "--output", tmp_path / "o", "--output_run", run_file
    )
    assert result.exit_code == 0, result.output
    assert [line.split()[:4] for line in run_file.read_text().splitlines()][:2] == [
        ["1", "Q0", "a", "1"],
        ["2", "Q0", "b", "1"],
    ]


@pytest.mark.parametrize("option", ["--output_run", "--from_run"])
@pytest.mark.parametrize(
    ("ids", "message"),
    [(["a", "a"], "two questions have the id 'a'"), (["a b", "c"], "query id 'a b' .* holds white space")],
)
def test_ids_that_a_run_cannot_hold_are_told_before_anything_is_done(tmp_path, option, ids, message):
    """There is neither an index nor a run: both are opened later."""
    rows = write_jsonl(tmp_path / "q.jsonl", [{"id": id, "question": "radium"} for id in ids])
    options = ["--index_dir", tmp_path / "none", option, tmp_path / "run"]
    result = run("retrieve", "--input", rows, "--output", tmp_path / "out.jsonl", *options)
    assert isinstance(result.exception, ValueError)
    assert re.search(message, str(result.exception))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": "Marie"}, "field 'answers': found 'Marie', need a list of strings, or null"),
        ({"answers": [1]}, "field 'answers': found [1], need a list"),
        ({"gold_ids": "a"}, "field 'gold_ids': found 'a', need a list"),
        ({"question": "radium \ud83d"}, "found \\ud83d, half of a surrogate pair"),
        ({"note": "\ud83d"}, "found \\ud83d, half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_told_before_anything_is_done(tmp_path, changes, message):
    rows = write_jsonl(tmp_path / "q.jsonl", [ROWS[0], {"question": "radium", **changes}])
    options = ["--index_dir", tmp_path / "none", "--answer_as_gold"]
    result = run("retrieve", "--input", rows, "--output", tmp_path / "out.jsonl", *options)
    assert f"{rows}:2: " in str(result.exception)
    assert message in str(result.exception)


def test_null_and_numbers_as_ids(tmp_path, index_dir):
    """A null is no id: the row's number stands for it."""
    rows = [{"id": None, "question": "radium", "gold_ids": ["a"]}, {"id": 7, "question": "Paris"}]
    options = [
        "--input",
        write_jsonl(tmp_path / "q.jsonl", rows),
        "--index_dir",
        index_dir,
        "--output_run",
        tmp_path / "run",
    ]
    assert run("retrieve", *options, "--output", tmp_path / "out.jsonl").exit_code == 0
    assert {line.split()[0] for line in (tmp_path / "run").read_text().splitlines()} == {"1", "7"}


def test_an_id_that_is_too_long_for_lucene_is_told_with_its_row(tmp_path):
    longest = "é" * 16_383
    corpus = [*CORPUS[:1], {**CORPUS[1], "id": longest}]
    rows = write_jsonl(tmp_path / "c.jsonl", corpus)
    assert run("index", "--corpus", rows, "--index_dir", tmp_path / "index").exit_code == 0
    write_jsonl(rows, [*corpus, {**CORPUS[2], "id": longest + "a"}])
    result = run("index", "--corpus", rows, "--index_dir", tmp_path / "other")
    assert re.search(
        rf"{rows}:3: field 'id': 'é+… has 32,767 bytes in UTF-8; Lucene takes 32,766", str(result.exception)
    )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("size", [2_000, 200_000])
def test_a_file_that_cannot_grow_is_named_and_nothing_is_left(tmp_path, index_dir, size):
    """As on a full disk; the limit of a file's size stands in for one."""
    rows = [{"question": f"Marie radium {number}"} for number in range(3_000)]
    command = ["retrieve", "--input", str(write_jsonl(tmp_path / "q.jsonl", rows)), "--index_dir", str(index_dir)]
    command += ["--output", str(tmp_path / "out" / "o.jsonl")]
    source = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "import dro_trl.retrieval.adding as a; a._SECONDS_BETWEEN_RECORDS = 0; from dro_trl.cli.app import app; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); app(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", source, *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    kept = r"the first [\d,]+ are kept beside it, and the same command goes on from there"
    what = "nothing is left of it" if size == 2_000 else kept
    assert re.fullmatch(rf"error: {tmp_path}/out/o\.jsonl: File too large; {what}\n", done.stderr)
    left = sorted(path.name for path in tmp_path.glob("out/*"))
    assert left == ([] if size == 2_000 else [".o.jsonl.unfinished", ".o.jsonl.unfinished.json"])
    result = run(*command)
    assert ("going on after " in result.output) == (size != 2_000)
    assert len(read_jsonl(tmp_path / "out" / "o.jsonl")) == 3_000


def test_an_index_that_does_not_fit_the_disk_is_told_in_one_line(tmp_path):
    rows = ({"id": str(n), "title": "", "text": f"word{n} other{n} third{n} " * 40} for n in range(15_000))
    command = ["index", "--corpus", str(write_jsonl(tmp_path / "c.jsonl", rows)), "--index_dir", str(tmp_path / "i")]
    source = (
        "import resource, signal, sys; from dro_trl.cli.app import app; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); app(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", source, *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'i'}: File too large; nothing is left of the new index\n"
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_heap_that_is_too_small_is_told_in_one_line(tmp_path, monkeypatch):
    """Java holds all hits of a question with their texts, 18 MB."""
    rows = ({"id": str(n), "title": "", "text": f"word {n} " + "filler " * 850} for n in range(3_000))
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    assert run("index", "--corpus", corpus, "--index_dir", tmp_path / "i").exit_code == 0
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "word"}])
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx16m")
    result = run(
        "retrieve", "--input", questions, "--index_dir", tmp_path / "i", "--output", tmp_path / "o", "-k", 3_000
    )
    assert re.fullmatch(
        r"Java's heap \(\d+ MiB\) is too small for 'search'; give it more with the environment variable "
        "JAVA_TOOL_OPTIONS, such as JAVA_TOOL_OPTIONS=-Xmx8g",
        str(result.exception),
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".o", "o"))]
