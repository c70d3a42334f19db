"""A dense retriever and its fusion with BM25, on a tiny encoder with random weights."""

import runpy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from dro_trl import FictionalEncyclopedia, Retriever
from tests.examples.conftest import EXAMPLES
from tests.helpers.tiny_models import tiny_tokenizer

pytest.importorskip("faiss", reason="needs the extra: pip install 'dro-trl[dense]'")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `dense`")


@pytest.fixture
def encoder(tmp_path):
    """The folder of a BERT that pools by the mean."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer()), initializer_range=1.0, **size)).save_pretrained(
        tmp_path / "e"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "e")
    return str(tmp_path / "e")


@pytest.fixture(scope="module")
def classes():
    return runpy.run_path(str(EXAMPLES / "custom_retriever.py"))


def test_dense(classes, encoder):
    """The order is that of the cosine of the embeddings; a text finds itself."""
    world = FictionalEncyclopedia.generate(seed=0, num_train=8, num_eval=1)
    dense = classes["DenseRetriever"](world.corpus, encoder)
    assert isinstance(dense, Retriever)
    texts = [f"{p['title']} {p['text']}" for p in world.corpus]
    embed = sentence_transformers.SentenceTransformer(encoder).encode
    vectors, asked = (np.array([v / np.linalg.norm(v) for v in embed(t)]) for t in (texts, ["Who is it?", texts[3]]))
    found = dense.retrieve(["Who is it?", texts[3]], 5)
    for hits, vector in zip(found, asked, strict=True):
        cosines = vectors @ vector
        assert [hit["score"] for hit in hits] == pytest.approx(sorted(cosines.tolist())[:-6:-1], abs=1e-5)
        assert set(hits[0]) == {"id", "title", "text", "score"}
    assert found[1][0]["id"] == world.corpus[3]["id"]
    assert len(dense.retrieve(["Who?"], 10_000)[0]) == len(texts)


class Fixed(Retriever):
    """Returns the same passages for every question."""

    def __init__(self, *ids):
        self.hits = [{"id": id, "title": "", "text": id, "score": 0.0} for id in ids]

    def retrieve(self, questions, k):
        return [self.hits[:k] for _ in questions]


def test_reciprocal_rank_fusion(classes):
    """b: 1/62 + 1/61, a: 1/61 + 1/63, c: 1/62, d: 1/63."""
    hybrid = classes["ReciprocalRankFusion"](Fixed("a", "b", "d"), Fixed("b", "c", "a"))
    (found,) = hybrid.retrieve(["Who?"], 3)
    assert [hit["id"] for hit in found] == ["b", "a", "c"]
    assert [hit["score"] for hit in found] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62])


def test_the_example(run_example, encoder, monkeypatch):
    """With 8 questions in place of 160."""
    generate = FictionalEncyclopedia.generate
    monkeypatch.setattr(FictionalEncyclopedia, "generate", lambda **kwargs: generate(**{**kwargs, "num_train": 8}))
    names = run_example("custom_retriever.py", "--encoder", encoder, dataset=False, max_steps=1)
    (trainer,) = names["trainers"]
    assert trainer.state.global_step == 1
    row = trainer.train_dataset[0]
    assert len(row["candidates"]) == 8
    assert all(0 < passage["score"] <= 2 / 61 for passage in row["candidates"])
