"""The selector of a trained pair as a reranker."""

import inspect
import json
import shutil

import pytest
import torch

from dro_trl import AutoregressivePolicy, PlackettLucePolicy, RAGPipeline, Selector
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import LORA, make_trainer, save_start

ROWS = tiny_questions(4, 9, 6, 4, 1)
POLICIES = {
    "pointwise": lambda t: PlackettLucePolicy(t, 2),
    "query_likelihood": lambda t: PlackettLucePolicy(t, 2, "query_likelihood"),
    "identifier": lambda t: PlackettLucePolicy(t, 2, "identifier"),
    "passage_end": lambda t: PlackettLucePolicy(t, 2, "passage_end"),
    "prior": lambda t: PlackettLucePolicy(t, 2, retriever_prior=3.0),
    "autoregressive": lambda t: AutoregressivePolicy(t, 2),
}


def make_selector(kind="pointwise", **options):
    tokenizer = tiny_tokenizer()
    return Selector(tiny_model("llama", tokenizer), POLICIES[kind](tokenizer), tokenizer, **options)


def texts_of(row):
    return [passage["text"] for passage in row["candidates"]]


@pytest.mark.parametrize("kind", POLICIES)
def test_ranking_is_what_the_policy_prefers_of_so_many(kind):
    selector = make_selector(kind)
    for row in ROWS:
        number = len(row["candidates"])
        for top_k in {1, 2, number, None}:
            policy = POLICIES[kind](tiny_tokenizer())
            policy.num_selected = min(top_k or number, number)
            with torch.no_grad():
                selections, scores = policy.best(selector.model, policy.encode([row]))
            found = selector.rank(row["question"], row["candidates"], top_k=top_k)
            assert [one["corpus_id"] for one in found] == selections[0].tolist()
            expected = scores[0].cumsum(0) if kind == "autoregressive" else scores[0]
            assert [one["score"] for one in found] == pytest.approx(expected.tolist(), abs=1e-5)
            assert all(a["score"] >= b["score"] for a, b in zip(found, found[1:], strict=False))
    assert selector.policy.num_selected == 2  # The pair's own K is as it was.


@pytest.mark.parametrize("kind", ["pointwise", "autoregressive"])
def test_several_queries_are_ranked_as_each_alone(kind):
    selector = make_selector(kind, max_passage_tokens=7)
    questions, lists = [row["question"] for row in ROWS], [row["candidates"] for row in ROWS]
    for top_k, batch_size in ((None, 8), (3, 2)):
        together = selector.rank(questions, lists, top_k, return_documents=True, batch_size=batch_size)
        assert [len(found) for found in together] == [min(top_k or 9, len(found)) for found in lists]
        for question, documents, found in zip(questions, lists, together, strict=True):
            alone = selector.rank(question, documents, top_k)
            assert [one["corpus_id"] for one in found] == [one["corpus_id"] for one in alone]
            assert [one["score"] for one in found] == pytest.approx([one["score"] for one in alone], abs=1e-4)
            assert [one["text"] for one in found] == [documents[one["corpus_id"]]["text"] for one in found]
    assert selector.rank([], []) == []
    assert selector.rank("Who?", []) == []
    assert selector.rank(["Who?", "Why?"], [[], ["Because."]])[0] == []


def test_texts_objects_and_passages_are_documents():
    selector = make_selector()
    row = ROWS[1]
    plain = selector.rank(row["question"], texts_of(row))
    assert plain == selector.rank(row["question"], tuple({"text": text, "id": 7} for text in texts_of(row)))
    untitled = [{**passage, "title": "", "score": torch.pi} for passage in row["candidates"]]
    assert plain == selector.rank(row["question"], untitled)
    titled = [{"text": passage["text"], "title": passage["title"] or None} for passage in row["candidates"]]
    assert selector.rank(row["question"], titled) == selector.rank(row["question"], row["candidates"]) != plain


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("one text", r"documents is one document; give a list"),
        ({"text": "one"}, r"documents is one document; give a list"),
        (["fine", " "], r"field 'documents\[1\].text': found empty text"),
        (["fine", None], r"documents\[1\]: found None; expected text, or an object with text"),
        (["fine", {"contents": "one"}], r"field 'documents\[1\].text': found nothing; expected text"),
        ([{"text": "one", "title": 3}], r"field 'documents\[0\].title': found 3; expected text"),
        ([{"text": "one", "score": "3"}], r"documents\[0\].score: found '3'; expected a finite number"),
        ([{"text": "one", "score": float("nan")}], r"documents\[0\].score: found nan"),
    ],
)
def test_what_cannot_be_ranked_is_named(documents, message):
    with pytest.raises(ValueError, match=message):
        make_selector().rank("Who?", documents)


def test_arguments_that_do_not_go_together_are_told():
    selector = make_selector()
    with pytest.raises(ValueError, match="2 queries and 1 lists of documents"):
        selector.rank(["Who?", "Why?"], [["one"]])
    with pytest.raises(ValueError, match="top_k=0; give 1 or more"):
        selector.rank("Who?", ["one"], top_k=0)
    with pytest.raises(ValueError, match="field 'query': found empty text"):
        selector.rank(" ", ["one"])
    with pytest.raises(ValueError, match=r"documents\[1\]\[0\].text': found empty text"):
        selector.rank(["Who?", "Why?"], [["one"], [""]])


def test_scores_must_be_given_where_they_count():
    with pytest.raises(ValueError, match=r"documents\[0\] has no score, and this pair weighs the retriever's"):
        make_selector("prior").rank("Who?", ["one", "two"])
    for kind in ("pointwise", "autoregressive"):
        assert len(make_selector(kind).rank("Who?", ["one", {"text": "two", "score": 3}])) == 2


def test_windows_rank_as_far_as_they_can():
    row = ROWS[1]
    whole = make_selector("prior").rank(row["question"], row["candidates"])
    found = make_selector("prior", window_size=4, window_stride=1).rank(row["question"], row["candidates"])
    assert [one["corpus_id"] for one in found] == [one["corpus_id"] for one in whole]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in whole], abs=1e-4)
    listwise = make_selector("autoregressive", window_size=5, window_stride=2)
    three = listwise.rank(row["question"], row["candidates"], top_k=3)
    assert len({one["corpus_id"] for one in three}) == 3
    with pytest.raises(ValueError, match="9 of 9 passages are to be ranked, .* window_stride=2 find the best 3"):
        listwise.rank(row["question"], row["candidates"])
    assert len(listwise.rank(row["question"], row["candidates"][:5])) == 5  # One window holds them all.


@pytest.fixture(scope="module", params=[False, True], ids=["two adapters", "shared base"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    options = {"shared_base": request.param, "peft_config": LORA, "learning_rate": 1e-2, "max_passage_tokens": 6}
    trainer = make_trainer(folder / "out", model=save_start(folder / "start"), **options)
    trainer.train()
    trainer.save_model()
    return folder / "out"


def test_a_pairs_selector_is_loaded_without_its_generator(pair, tmp_path):
    pipeline = RAGPipeline.from_pretrained(pair, dtype="float32")
    shutil.copytree(pair, tmp_path / "pair")
    config = json.loads((tmp_path / "pair" / "selector" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(pair.parent / "start")
    (tmp_path / "pair" / "selector" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "pair" / "generator" / "adapter_model.safetensors").unlink()
    selector = Selector.from_pretrained(tmp_path / "pair", dtype="float32")
    rows = ROWS[:4]
    for row, (selection, scores) in zip(rows, pipeline.select(pipeline.prepare(rows)), strict=True):
        found = selector.rank(row["question"], row["candidates"], top_k=2)
        assert [one["corpus_id"] for one in found] == selection
        assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-4)


def test_the_call_is_that_of_a_cross_encoder():
    cross_encoder = pytest.importorskip("sentence_transformers", reason="the extra `dense` is not installed")
    theirs = inspect.signature(cross_encoder.CrossEncoder.rank).parameters
    ours = inspect.signature(Selector.rank).parameters
    assert ours.keys() <= theirs.keys()
    assert list(ours)[:5] == list(theirs)[:5]
