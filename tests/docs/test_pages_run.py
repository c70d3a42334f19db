"""Every command, program and recipe of a page, run in order in a folder that holds what the page assumes."""

import pytest
from datasets import load_dataset

from dro_trl.data.formats import hub
from dro_trl.retrieval.pyserini import PyseriniRetriever
from tests.docs.inputs import Inputs, lucene_index, prebuilt_folder, provide_repository
from tests.docs.pages import PAGES, code_of, commands_of
from tests.docs.running import (
    NOT_RUN,
    RECIPES,
    WITH_MORE,
    JavaPool,
    Snippets,
    environment,
    shrink_the_encyclopedia,
    spare_processes,
)

LANGUAGES = {"", "bash", "bibtex", "python", "text", "yaml"}
QUICKSTART = ["quickstart/data/train.top8.jsonl", "quickstart/data/eval.top8.jsonl"]
FOR_A_RUN = ["Qwen/Qwen2.5-0.5B"]
ASSUMED = {
    "README.md": ["corpus.jsonl", "train.jsonl", "dev.jsonl", "models/gemma-3-270m"] + QUICKSTART + FOR_A_RUN,
    "comparing.md": ["train.top20.jsonl", "dev.top20.jsonl", "models/gemma-3-270m"],
    "datasets.md": ["CORPUS", "FILE", "psgs_w100.tsv.gz", "corpus.jsonl", "other.run.txt"],
    "distributed.md": ["RECIPE.yaml", "models/mine", "data/train.top20.jsonl", "runs/mine"],
    "evaluation.md": ["runs/mine", "runs/wikimultihop", "dev.jsonl"]
    + [f"dev.{name}.jsonl" for name in ("top20", "top100", "hops.top20")],
    "extending.md": ["RECIPE.yaml", "models/mine", "data/train.top20.jsonl"],
    "method.md": ["RECIPE.yaml", "models/mine", "data/train.top20.jsonl", *QUICKSTART[:1]],
    "performance.md": ["models/gemma-3-270m", *QUICKSTART],
    "reranking.md": ["runs/mine", "other.run.txt", "dev.jsonl", "corpus.jsonl", "requests.jsonl"],
    "recipes.md": ["Qwen/Qwen2.5-0.5B", "models/mine", "data/train.top20.jsonl", *QUICKSTART],
    "results.md": [
        *[
            "wiki_pool_corpus.jsonl",
            "hotpotqa_dev_sample.jsonl",
            "nq_train_800_top5.jsonl",
            "nq.heldout.jsonl",
            "nq.dev.jsonl",
        ],
        *["nq_open_dev.jsonl", "dev60.top20.jsonl", "models/gemma-3-270m"],
        *[f"data/{name}.top20.jsonl" for name in ("train", "dev", "mh.answers")],
        *[f"data/{name}.jsonl" for name in ("train.bm25", "train.mixed.top10", "nq.more.top10", "nq.train.top10")],
    ],
    "trackers.md": ["RECIPE.yaml", "models/mine", "data/train.top20.jsonl", "dev.top20.jsonl"],
    "retrieval.md": ["corpus.jsonl", "train.jsonl", "runs/mine"],
    "run.md": ["models/gemma-3-270m", "data/corpus.jsonl", *FOR_A_RUN]
    + [f"data/{name}.jsonl" for name in ("hotpotqa_train", "hotpotqa_dev", "2wiki_train")],
    "serving.md": ["runs/mine", "dev.jsonl", "corpus.jsonl"],
    "warmup.md": ["models/mine", "models/other", "data/train.top20.jsonl", *QUICKSTART],
}
"""Files and folders that a page names, and that no command on it makes before."""

SHOWN = {page: [code for code in code_of(page) if not code.inline] for page in PAGES}
WITH_SNIPPETS = [
    page for page, shown in SHOWN.items() if any(c.language in ("python", "yaml") or commands_of(c) for c in shown)
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    made = Inputs(tmp_path_factory.mktemp("inputs"))
    made.provide("models/gemma-3-270m", made.folder / "cache")  # Where `dro-trl gemma` leaves the converted model.
    prebuilt = prebuilt_folder(made.folder, "wikipedia-dpr-100w")
    with pytest.MonkeyPatch.context() as patch:
        environment(patch, made.folder / "cache", made.folder)
        java = JavaPool(patch)
        spare_processes(patch)
        shrink_the_encyclopedia(patch)
        # A folder of files is what `load_dataset` takes in place of a name on the hub.
        patch.setattr(hub, "load_dataset", lambda name, *a, **k: load_dataset(str(made.made(name)), *a, **k))
        lucene_index(prebuilt)
        yield made
        java.close()


@pytest.fixture
def workspace(inputs, tmp_path, monkeypatch):
    """A function that goes to a folder with what a page assumes, and returns what runs its snippets."""

    def prepare(page):
        provide_repository(tmp_path)
        for path in ASSUMED.get(page.name, []):
            inputs.provide(path, tmp_path)
        monkeypatch.chdir(tmp_path)
        return Snippets(page, monkeypatch)

    return prepare


@pytest.mark.timeout(900)  # Several commands each; on an idle core a page takes half a minute at most.
@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: page.name)
def test_a_page_runs(page, workspace, capsys):
    snippets = workspace(page)
    try:
        for code in SHOWN[page]:
            snippets.run(code)
    finally:
        for value in snippets.names.values():
            if isinstance(value, PyseriniRetriever):
                value.close()
    if page.name == "retrieval.md":
        assert len(snippets.names["passages"]) == 5
    if page.name == "extending.md":
        given = {"candidates": [[{"text": "Oslo is in Norway"}, {"text": "Lima"}]] * 2, "answers": [["oslo"]] * 2}
        assert snippets.names["answer_in_selection"](selections=[[0], [1]], **given) == [1.0, 0.0]
    if page.name == "README.md":
        assert snippets.names["trainer"].state.global_step == 1
        asked = snippets.names["world"].eval[0]["question"]
        printed = capsys.readouterr().out
        assert "The curves: output/training.png\n" in printed
        assert f"\n{asked}\nAnswer: " in printed


def test_no_code_is_of_a_kind_that_nothing_runs():
    assert {code.language.partition(" ")[0] for shown in SHOWN.values() for code in shown} <= LANGUAGES
    assert sum(len(commands_of(code)) for shown in SHOWN.values() for code in shown) > 50


def test_every_exception_and_every_input_is_of_a_page():
    commands = {command for shown in SHOWN.values() for code in shown for command in commands_of(code)}
    assert commands >= NOT_RUN.keys() | WITH_MORE.keys()
    assert {page.name for page in WITH_SNIPPETS} >= ASSUMED.keys()
    assert {page.name for page, shown in SHOWN.items() if any(c.language == "yaml" for c in shown)} == RECIPES.keys()


def test_the_readmes_program_is_short():
    [program] = [code.text for code in SHOWN[PAGES[0]] if code.language == "python"]
    assert len(program.splitlines()) <= 25
