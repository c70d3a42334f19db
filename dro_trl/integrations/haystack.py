"""A trained selector as Haystack's ranker: `pip install 'dro-trl[haystack]'`."""

from dataclasses import replace

from haystack import Document, component

from dro_trl.selector import Selector


@component
class DROReranker:
    """Keeps the documents that a selector chooses, best first, with its score in place of the retriever's.

    Args:
        model: Folder of the pair, or its name on a hub.
        top_k: How many to keep; as many as the pair was trained to select where None.
        device: Where the model goes, as in `Selector.from_pretrained`.
        revision: Branch, tag or commit of the repository.
        trust_remote_code: Whether to run code that the pair names.
        title_meta_field: Where in a document's `meta` titles are; documents without one have none.
    """

    def __init__(
        self,
        model: str,
        top_k: int | None = None,
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        title_meta_field: str = "title",
    ) -> None:
        # Under the names of the arguments, by which Haystack writes a pipeline as YAML.
        self.model, self.top_k = str(model), top_k
        self.device, self.revision, self.trust_remote_code = device, revision, trust_remote_code
        self.title_meta_field = title_meta_field
        self._selector: Selector | None = None

    def warm_up(self) -> None:
        """Load the selector; the pipeline calls this, and so does the first `run`."""
        if self._selector is None:
            self._selector = Selector.from_pretrained(
                self.model, self.device, revision=self.revision, trust_remote_code=self.trust_remote_code
            )

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Return the best of the documents.

        Args:
            query: The question.
            documents: Texts; one without `content` is refused.
            top_k: In place of that of the component.

        Raises:
            ValueError: As `Selector.rank`.
        """
        self.warm_up()
        assert self._selector is not None
        titles = [str(document.meta.get(self.title_meta_field) or "") for document in documents]
        given = [
            {"text": document.content, "title": title, "score": document.score}
            for document, title in zip(documents, titles, strict=True)
        ]
        ranked = self._selector.rank(query, given, top_k or self.top_k or self._selector.policy.num_selected)
        return {"documents": [replace(documents[one["corpus_id"]], score=one["score"]) for one in ranked]}
