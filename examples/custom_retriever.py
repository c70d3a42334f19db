"""Retrievers of one's own: a dense one (`pip install '.[dense]'`), and a hybrid of it and BM25.

python examples/custom_retriever.py --model "$(dro-trl gemma)" --encoder path/to/a/sentence-transformers/model
"""

import argparse
from collections import Counter
from collections.abc import Sequence

import faiss
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from dro_trl import DROConfig, DROTrainer, FictionalEncyclopedia, Passage, PyseriniRetriever, Retriever


class DenseRetriever(Retriever):
    """Finds the passages whose embeddings have the largest inner product with the question's."""

    def __init__(self, corpus: Sequence[dict[str, str]], encoder: str) -> None:
        self.corpus, self.encoder = corpus, SentenceTransformer(encoder)
        vectors = self.encoder.encode([f"{p['title']} {p['text']}" for p in corpus], normalize_embeddings=True)
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)

    def retrieve(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        asked = self.encoder.encode(list(questions), normalize_embeddings=True)
        hits = zip(*self.index.search(asked, min(k, len(self.corpus))), strict=True)
        return [[{**self.corpus[i], "score": float(s)} for s, i in zip(*hit, strict=True)] for hit in hits]


class ReciprocalRankFusion(Retriever):
    """Adds up 1 / (60 + rank) over several retrievers (Cormack et al., 2009)."""

    def __init__(self, *retrievers: Retriever) -> None:
        self.retrievers = retrievers

    def retrieve(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        lists = [retriever.retrieve(questions, max(k, 100)) for retriever in self.retrievers]
        return [self.fuse(ranked, k) for ranked in zip(*lists, strict=True)]

    def fuse(self, ranked: Sequence[list[Passage]], k: int) -> list[Passage]:
        passages = {passage["id"]: passage for found in ranked for passage in found}
        scores = Counter()
        for found in ranked:
            scores.update({passage["id"]: 1 / (60 + rank) for rank, passage in enumerate(found, start=1)})
        return [{**passages[id], "score": score} for id, score in scores.most_common(k)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--encoder", required=True)
    options, world = parser.parse_args(), FictionalEncyclopedia.generate(seed=0, num_train=160, num_eval=1)
    args = DROConfig("custom_retriever", num_candidates=8, num_selected=2, max_steps=40, report_to="none")
    with PyseriniRetriever.build(world.corpus, "index", overwrite=True) as bm25:
        hybrid = ReciprocalRankFusion(bm25, DenseRetriever(world.corpus, options.encoder))
        trainer = DROTrainer(options.model, None, args, Dataset.from_list(world.train), retriever=hybrid)
    trainer.train()
