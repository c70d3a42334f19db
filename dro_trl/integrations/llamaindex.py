"""A trained selector as LlamaIndex's node postprocessor: `pip install 'dro-trl[llamaindex]'`."""

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from dro_trl.selector import Selector


class DROReranker(BaseNodePostprocessor):
    """Keeps the nodes that a selector chooses, best first, with its score in place of the retriever's.

    Args:
        selector: The selector.
        top_n: How many to keep; as many as the pair was trained to select where None.
        title_key: Where in a node's metadata titles are; nodes without one have none.
    """

    selector: Selector = Field(exclude=True)
    top_n: int | None = None
    title_key: str = "title"

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows the class."""
        return "DROReranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("nodes are ranked for a question; give query_str or query_bundle")
        given = [
            {
                "text": node.node.get_content(MetadataMode.NONE),
                "title": str(node.metadata.get(self.title_key) or ""),
                "score": node.score,
            }
            for node in nodes
        ]
        ranked = self.selector.rank(query_bundle.query_str, given, self.top_n or self.selector.policy.num_selected)
        return [NodeWithScore(node=nodes[one["corpus_id"]].node, score=one["score"]) for one in ranked]
