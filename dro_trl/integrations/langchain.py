"""A trained selector as LangChain's document compressor: `pip install 'dro-trl[langchain]'`."""

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from dro_trl.selector import Selector


class DROReranker(BaseDocumentCompressor):
    """Keeps the documents that a selector chooses, best first, with its score as `relevance_score` in their metadata.

    Args:
        selector: The selector.
        top_n: How many to keep; as many as the pair was trained to select where None.
        title_key: Where in the metadata titles are; documents without one have none.
        score_key: Where the retriever's scores are, which some pairs need.
    """

    selector: Selector
    top_n: int | None = None
    title_key: str = "title"
    score_key: str = "score"
    model_config = ConfigDict(arbitrary_types_allowed=True)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best of the documents, copied; arguments as in LangChain.

        Raises:
            ValueError: As `Selector.rank`.
        """
        given = [
            {
                "text": document.page_content,
                "title": str(document.metadata.get(self.title_key) or ""),
                "score": document.metadata.get(self.score_key),
            }
            for document in documents
        ]
        ranked = self.selector.rank(query, given, self.top_n or self.selector.policy.num_selected)
        kept = [(documents[one["corpus_id"]], one["score"]) for one in ranked]
        return [doc.model_copy(update={"metadata": {**doc.metadata, "relevance_score": score}}) for doc, score in kept]
