"""The selector of a trained pair by itself: it chooses among passages, and ranks them as a reranker does."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from numbers import Real
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict, TypeVar, overload

import torch
from tqdm.auto import tqdm

from dro_trl.data.schema import check_text
from dro_trl.lm.devices import AUTO
from dro_trl.lm.fitting import check_fit, check_window, cut_passages, warn_of_special_tokens
from dro_trl.lm.tokens import Tokenizer
from dro_trl.models.opening import open_pair
from dro_trl.policies.base import SelectionPolicy, check_candidates, check_policy
from dro_trl.policies.sliding_windows import Scored, SlidingWindows, select_by_scores, select_by_windows
from dro_trl.types import Passage, Question

T = TypeVar("T")
Document = str | Mapping[str, Any]
"""A passage to rank: its text, or an object with `text` and, where there are, `title`, `score` and `id`."""


class RankedDocument(TypedDict):
    """A document's place in a ranking, as sentence-transformers' `CrossEncoder.rank` returns it."""

    corpus_id: int
    """Which of the documents it is, from 0."""
    score: float
    """In nats, never higher than that of the document before."""
    text: NotRequired[str]
    """Its text, where that was asked for."""


class Selector:
    """Chooses among a question's passages.

    Args:
        model: A causal LM, or an `AdapterView` of one.
        policy: How selections are read off it, with its tokenizer inside.
        tokenizer: Counts the tokens of passages: the generator's.
        max_passage_tokens: Passages are cut to this many tokens, as in training; not cut where None.
        window_size: How many passages are read at once, for lists longer than a prompt can hold; all of them where
            None. Windows move from the end of the list to its beginning, and the best of each move up.
        window_stride: By how many passages a window moves, at most `window_size` - K; half of `window_size` where
            None. Policies that score each passage alone select as if there were no windows.

    Raises:
        ValueError: If a window would leave out passages that were selected in the one before.

    Example:
        ```python
        selector = Selector.from_pretrained("runs/mine")
        selector.rank("Who discovered radium?", ["Oslo is in Norway.", "Marie Curie discovered it."], top_k=1)
        # [{"corpus_id": 1, "score": 2.31}]
        ```
    """

    def __init__(
        self,
        model: Any,
        policy: SelectionPolicy,
        tokenizer: Tokenizer,
        max_passage_tokens: int | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
    ) -> None:
        check_policy(policy)
        self.windows = SlidingWindows.make(window_size, window_stride, policy.num_selected)
        self.model = model.eval()
        self.policy = policy
        self.tokenizer = tokenizer
        self.max_passage_tokens = max_passage_tokens

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = AUTO,
        policy: SelectionPolicy | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load the selector of what `DROTrainer` saved; its generator is not read, and may be missing.

        Args:
            folder: Holds `selector/` and `dro_config.json`, and of `generator/` at least the tokenizer; or the name
                of such a repository on a hub.
            device: As in `RAGPipeline.from_pretrained`, as are the others.
            policy: Needed where the pair was trained with a policy object instead of the option `policy`.
            window_size: As in `Selector`, as is `window_stride`.
            window_stride: By how many passages a window moves.
            revision: Branch, tag or commit of the repository.
            **model_kwargs: For `from_pretrained` of the model.

        Raises:
            FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
            ValueError: As in `RAGPipeline.from_pretrained`.
        """
        opened = open_pair(folder, revision, device, policy, None, model_kwargs, roles=("selector",))
        cut = opened.config["max_passage_tokens"]
        counted = opened.tokenizers["generator"]
        return cls(opened.models["selector"], opened.policy, counted, cut, window_size, window_stride)

    @overload
    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 8,
        show_progress_bar: bool = False,
    ) -> list[RankedDocument]: ...

    @overload
    def rank(
        self,
        query: list[str],
        documents: Sequence[Sequence[Document]],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 8,
        show_progress_bar: bool = False,
    ) -> list[list[RankedDocument]]: ...

    def rank(
        self,
        query: str | list[str],
        documents: Any,
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 8,
        show_progress_bar: bool = False,
    ) -> Any:
        """Rank documents by how useful they are for a query, as sentence-transformers' `CrossEncoder.rank` does.

        A policy that writes selections is asked for `top_k` passages, one after the other; the others score all that
        there are. Policies that see several passages at once read them in the order given, which in training was the
        retriever's.

        Args:
            query: The question, or a list of questions.
            documents: Its passages, or a list of passages for each question: texts, or objects such as `Passage`s
                with `text` and, where there are, `title` and `score`, the retriever's.
            top_k: How many are wanted; all where None.
            return_documents: Whether to return the texts as well.
            batch_size: Questions, or windows of them, in a batch; in float32 the result does not depend on it.
            show_progress_bar: Whether to show a bar, where there are several batches.

        Returns:
            For each question the best of its documents, best first. The score is the policy's item score; of one that
            writes selections, the log-probability of the selection up to there.

        Raises:
            ValueError: If a question or a text is empty; if the pair weighs the retriever's scores and a document has
                none; or if windows cannot find so many.
        """
        one = isinstance(query, str)
        queries = [query] if isinstance(query, str) else query
        lists = [documents] if one else documents
        if len(queries) != len(lists):
            raise ValueError(f"{len(queries)} queries and {len(lists)} lists of documents; give a list for each query")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k}; give 1 or more, or None for all")
        where = ["documents"] if one else [f"documents[{i}]" for i in range(len(lists))]
        rows = [self.question(*given) for given in zip(queries, lists, where, strict=True)]
        found: list[list[RankedDocument]] = [[] for _ in rows]
        sizes = [min(top_k or len(row["candidates"]), len(row["candidates"])) for row in rows]
        for size in sorted(set(sizes) - {0}):
            alike = [i for i, other in enumerate(sizes) if other == size]
            chooser = self.choosing(size, max(len(rows[i]["candidates"]) for i in alike))
            chosen = chooser.select(chooser.prepare([rows[i] for i in alike]), batch_size, show_progress_bar)
            for i, (selection, scores) in zip(alike, chosen, strict=True):
                falling = accumulate(scores) if self.policy.writes else scores
                found[i] = [RankedDocument(corpus_id=z, score=s) for z, s in zip(selection, falling, strict=True)]
                for ranked in found[i] if return_documents else ():
                    ranked["text"] = rows[i]["candidates"][ranked["corpus_id"]]["text"]
        return found[0] if one else found

    def question(self, query: str, documents: Sequence[Document], where: str = "documents") -> Question:
        """Return a question with its passages as candidates, as `rank` takes them.

        Args:
            query: The question.
            documents: The passages.
            where: What to call them in an error.

        Raises:
            ValueError: Names what is empty, of another type, or lacks a score that counts.
        """
        if isinstance(documents, (str, Mapping)):
            raise ValueError(f"{where} is one document; give a list of them")
        check_text(query, "query")
        candidates = []
        for i, document in enumerate(documents):
            given = {"text": document} if isinstance(document, str) else document
            if not isinstance(given, Mapping):
                raise ValueError(f"{where}[{i}]: found {given!r:.60}; expected text, or an object with text")
            score = given.get("score")
            if score is None and self.policy.reads_scores:
                raise ValueError(
                    f"{where}[{i}] has no score, and this pair weighs the retriever's (retriever_prior); give each "
                    'document as {"text": …, "score": …} with the score that it was retrieved with'
                )
            if score is not None and not (isinstance(score, Real) and math.isfinite(score)):
                raise ValueError(f"{where}[{i}].score: found {score!r:.60}; expected a finite number")
            text = check_text(given.get("text"), f"{where}[{i}].text")
            title = check_text(given.get("title") or "", f"{where}[{i}].title", may_be_empty=True)
            candidates.append(Passage(id=str(given.get("id", i)), title=title, text=text, score=float(score or 0)))
        return Question(question=query, answers=[], candidates=candidates)

    def choosing(self, num_selected: int, num_candidates: int) -> Self:
        """Return a selector on the same model that selects another number of passages.

        Args:
            num_selected: K.
            num_candidates: N of the longest list that it is for.

        Raises:
            ValueError: If windows over so many candidates cannot find so many.
        """
        found = copy.copy(self)
        if num_selected != self.policy.num_selected:
            found.policy = copy.copy(self.policy)
            found.policy.num_selected = num_selected
        if self.windows is not None and num_candidates <= self.windows.size:
            found.windows = None
        if found.windows is not None and not self.policy.scores_alone:
            size, stride = found.windows.size, found.windows.stride
            if num_selected > size - stride:
                raise ValueError(
                    f"{num_selected} of {num_candidates} passages are to be ranked, and windows of window_size={size} "
                    f"with window_stride={stride} find the best {size - stride}; set top_k to at most that, or give "
                    "larger windows"
                )
        return found

    def prepare(self, rows: Sequence[Question]) -> Sequence[Question]:
        """Return the rows with their passages cut as in training.

        Raises:
            ValueError: As `check`.
        """
        self.check(rows)
        return self.cut(rows)

    def check(self, rows: Sequence[Question]) -> None:
        """Refuse rows that cannot be read.

        Raises:
            ValueError: If a row has fewer than K candidates, or a prompt more tokens than the model can read.
        """
        check_candidates(rows, self.policy.num_selected)
        warn_of_special_tokens(rows, "questions", self.tokenizer)
        model = self.model if self.windows is None else None  # Which reads less of a row than all of it.
        check_fit(rows, "questions", model, None, self.policy, None, lambda row: self.cut([row])[0])

    def cut(self, rows: Sequence[Question]) -> Sequence[Question]:
        """Return the rows with their passages cut as in training, whether they can be read or not."""
        if self.max_passage_tokens is None:
            return rows
        return cut_passages(rows, self.tokenizer, self.max_passage_tokens)[0]

    @torch.no_grad()
    def select(self, rows: Sequence[Question], batch_size: int = 8, progress: bool = True) -> list[Scored]:
        """Return the preferred selection for each row, with a score for each passage in it.

        Args:
            rows: As `prepare` returns them.
            batch_size: Questions, or windows of them, in a batch; in float32 the result does not depend on it.
            progress: Whether to show a bar, where there are several batches.
        """
        in_batches = partial(self._in_batches, batch_size=batch_size, progress=progress)
        if self.windows is None:
            return in_batches(self._best, rows)
        if self.policy.scores_alone:
            return select_by_scores(partial(in_batches, self._own_scores), rows, self.windows, self.policy)
        return select_by_windows(partial(in_batches, self._best), rows, self.windows)

    def _in_batches(
        self,
        read: Callable[[Sequence[Question]], Iterable[T]],
        rows: Sequence[Question],
        batch_size: int,
        progress: bool,
    ) -> list[T]:
        """Read rows in batches of like length, and return what was read off each in their order."""
        lengths = [sum(len(passage["text"]) for passage in row["candidates"]) for row in rows]
        by_length = sorted(range(len(rows)), key=lengths.__getitem__)
        starts = range(0, len(rows), batch_size)
        found: dict[int, T] = {}
        for start in tqdm(starts, desc="Selecting", disable=not progress or len(starts) <= 1):
            batch = by_length[start : start + batch_size]
            found.update(zip(batch, read([rows[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(rows))]

    def _encoded(self, rows: Sequence[Question], policy: SelectionPolicy) -> Any:
        inputs = policy.encode(rows)
        check_window(self.model, inputs)
        return inputs.to(next(self.model.parameters()).device)

    def _best(self, rows: Sequence[Question]) -> Iterable[Scored]:
        selections, scores = self.policy.best(self.model, self._encoded(rows, self.policy))
        return zip(selections.tolist(), scores.tolist(), strict=True)

    def _own_scores(self, rows: Sequence[Question]) -> Iterable[list[float]]:
        policy = copy.copy(self.policy)
        policy.num_selected = 1  # A window may hold fewer than are selected of the list.
        return policy.own_scores(self.model, self._encoded(rows, policy))
