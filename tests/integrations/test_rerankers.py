"""The selector in the place of other libraries' rerankers, with the libraries themselves where they are installed."""

import asyncio
import json

import pytest

from dro_trl import PlackettLucePolicy, Selector
from dro_trl.integrations import rankllm
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import make_trainer, save_start

[ROW] = tiny_questions(6)
QUESTION, PASSAGES = ROW["question"], ROW["candidates"]


def make_selector(**options):
    tokenizer = tiny_tokenizer()
    return Selector(tiny_model("llama", tokenizer), PlackettLucePolicy(tokenizer, 2, **options), tokenizer)


def expected(selector, top_k):
    """Return the text and the score of each passage that the selector ranks first."""
    found = selector.rank(QUESTION, PASSAGES, top_k, return_documents=True)
    return [(one["text"], pytest.approx(one["score"], abs=1e-5)) for one in found]


@pytest.mark.parametrize(("top_n", "number"), [(None, 2), (4, 4), (99, 6)])
def test_langchain(top_n, number):
    langchain = pytest.importorskip("langchain_core.documents", reason="the extra `langchain` is not installed")
    from dro_trl.integrations.langchain import DROReranker

    selector = make_selector(retriever_prior=1.0)
    documents = [
        langchain.Document(p["text"], metadata={"title": p["title"], "score": p["score"], "id": p["id"]})
        for p in PASSAGES
    ]
    reranker = DROReranker(selector=selector, top_n=top_n)
    found = reranker.compress_documents(documents, QUESTION)
    assert [(d.page_content, d.metadata["relevance_score"]) for d in found] == expected(selector, number)
    assert all(d.metadata["id"] for d in found)
    assert not any("relevance_score" in d.metadata for d in documents)  # Those given are as they were.
    assert asyncio.run(reranker.acompress_documents(documents, QUESTION)) == found
    assert reranker.compress_documents([], QUESTION) == []
    with pytest.raises(ValueError, match=r"documents\[0\] has no score, and this pair weighs the retriever's"):
        reranker.compress_documents([langchain.Document("no score")], QUESTION)


@pytest.mark.parametrize(("top_n", "number"), [(None, 2), (4, 4)])
def test_llamaindex(top_n, number):
    schema = pytest.importorskip("llama_index.core.schema", reason="the extra `llamaindex` is not installed")
    from dro_trl.integrations.llamaindex import DROReranker

    selector = make_selector(retriever_prior=1.0)
    nodes = [
        schema.NodeWithScore(node=schema.TextNode(text=p["text"], metadata={"title": p["title"]}), score=p["score"])
        for p in PASSAGES
    ]
    reranker = DROReranker(selector=selector, top_n=top_n)
    found = reranker.postprocess_nodes(nodes, query_str=QUESTION)
    assert [(n.text, n.score) for n in found] == expected(selector, number)
    assert [n.score for n in nodes] == [p["score"] for p in PASSAGES]
    assert asyncio.run(reranker.apostprocess_nodes(nodes, query_str=QUESTION)) == found
    with pytest.raises(ValueError, match="give query_str or query_bundle"):
        reranker.postprocess_nodes(nodes)


def test_haystack(tmp_path):
    haystack = pytest.importorskip("haystack", reason="the extra `haystack` is not installed")
    from dro_trl.integrations.haystack import DROReranker

    make_trainer(tmp_path / "pair", model=save_start(tmp_path / "start")).save_model()
    pipeline = haystack.Pipeline()
    pipeline.add_component("ranker", DROReranker(str(tmp_path / "pair"), device="cpu"))
    documents = [haystack.Document(content=p["text"], meta={"title": p["title"]}, score=p["score"]) for p in PASSAGES]
    selector = Selector.from_pretrained(tmp_path / "pair", device="cpu")
    again = haystack.Pipeline.loads(pipeline.dumps(), allowed_modules=[DROReranker.__module__])  # As YAML, and back.
    for made in (pipeline, again):
        for given, number in (({}, 2), ({"top_k": 4}, 4)):
            result = made.run({"ranker": {"query": QUESTION, "documents": documents, **given}})
            found = result["ranker"]["documents"]
            assert [(d.content, d.score) for d in found] == expected(selector, number)
            assert {d.id for d in found} <= {d.id for d in documents}
    with pytest.raises(Exception, match=r"documents\[0\].text': found nothing; expected text"):
        pipeline.run({"ranker": {"query": QUESTION, "documents": [haystack.Document(meta={"title": "no text"})]}})


def requests():
    """Return two requests of RankLLM as JSON, with the texts where its tools leave them."""
    keys = ["text", "contents", "segment", "passage", "body", "content"]
    candidates = [
        {"docid": p["id"], "score": p["score"], "doc": {key: p["text"], "title": p["title"]}}
        for p, key in zip(PASSAGES, keys, strict=True)
    ]
    return [
        {"query": {"text": QUESTION, "qid": 7}, "candidates": candidates},
        {"query": {"text": "Who?", "qid": "b"}, "candidates": candidates[:1]},
    ]


def test_rankllm_json():
    selector, given = make_selector(retriever_prior=1.0), requests()
    whole = selector.rank(QUESTION, PASSAGES)
    first, second = rankllm.rerank(selector, given)
    assert [c["docid"] for c in first["candidates"]] == [PASSAGES[one["corpus_id"]]["id"] for one in whole]
    assert [c["score"] for c in first["candidates"]] == pytest.approx([one["score"] for one in whole], abs=1e-4)
    assert (first["query"], len(second["candidates"])) == (given[0]["query"], 1)
    assert given == requests()  # Those given are as they were.
    assert [len(one["candidates"]) for one in rankllm.rerank(selector, given, top_k=3)] == [3, 1]
    del given[1]["candidates"][0]["doc"]["text"]
    with pytest.raises(ValueError, match=r"requests\[0\]: the document of candidate '0-0' has none of text, segment"):
        rankllm.rerank(selector, given)


def test_rankllm_objects(tmp_path):
    data = pytest.importorskip("rank_llm.data", reason="rank-llm is not installed")
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests()))
    selector = make_selector(retriever_prior=1.0)
    found = rankllm.rerank(selector, data.read_requests_from_file(str(path)))
    assert isinstance(found[0], data.Request)
    data.DataWriter(found).write_in_jsonl_format(str(tmp_path / "out.jsonl"))
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == rankllm.rerank(selector, requests())
