"""Using a trained pair: retrieve, select, answer."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch

from dro_trl.lm.devices import AUTO
from dro_trl.lm.endpoint import GeneratorEndpoint
from dro_trl.lm.fitting import check_fit
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.prompts import DEFAULT, PromptTexts, passage_text
from dro_trl.lm.tokens import Tokenizer
from dro_trl.models import saving
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.names import upload
from dro_trl.models.opening import OpenedPair, open_pair
from dro_trl.models.saving import MODELS, copy_pair
from dro_trl.policies.base import SelectionPolicy
from dro_trl.policies.sliding_windows import Scored, SlidingWindows
from dro_trl.retrieval.base import Retriever, check_retriever
from dro_trl.selector import Selector
from dro_trl.types import Passage, Question, Selection


@dataclass
class RAGOutput:
    """An answer and what it rests on."""

    question: str
    answer: str
    passages: list[Passage]
    """The selected passages, in the order in which the generator read them."""
    scores: list[float]
    """The selector's score of each: the item score (Plackett-Luce), or the log-probability of the choice."""

    def __str__(self) -> str:
        """Return question, answer, and a line a passage with its score, to be read."""
        read = [f"  {score:6.2f}  {passage_text(p)}" for p, score in zip(self.passages, self.scores, strict=True)]
        return "\n".join([self.question, f"Answer: {self.answer}", *read])


class RAGPipeline:
    """Retrieve, select, answer.

    Args:
        selector: The selector: a causal LM, or an `AdapterView` of one.
        generator: The generator, likewise, or a `GeneratorEndpoint` that it is behind.
        policy: How selections are read off the selector, with its tokenizer inside.
        tokenizer: The generator's tokenizer.
        retriever: Finds candidates; needed for calls with bare questions only.
        num_candidates: N, how many it is asked for.
        max_passage_tokens: Passages are cut to this many tokens, as in training; not cut where None.
        texts: The words of the generator's prompt; the policy has its own.
        window_size: How many candidates the selector reads at once, for lists longer than its prompt can hold; all of
            them where None. Windows move from the end of the list to its beginning, and the best of each move up.
        window_stride: By how many candidates a window moves, at most `window_size` - K; half of `window_size` where
            None. Policies that score each passage alone select as if there were no windows.
        max_thinking_tokens: Longest thought, in tokens, that the generator writes before an answer; none where 0.

    Raises:
        ValueError: If a window would leave out candidates that were selected in the one before.
    """

    def __init__(
        self,
        selector: Any,
        generator: Any,
        policy: SelectionPolicy,
        tokenizer: Tokenizer,
        retriever: Retriever | None = None,
        num_candidates: int = 20,
        max_passage_tokens: int | None = None,
        texts: PromptTexts = DEFAULT,
        window_size: int | None = None,
        window_stride: int | None = None,
        max_thinking_tokens: int = 0,
    ) -> None:
        if retriever is not None:
            check_retriever(retriever)
        self.ranker = Selector(selector, policy, tokenizer, max_passage_tokens, window_size, window_stride)
        if isinstance(generator, GeneratorEndpoint) and max_thinking_tokens:
            raise ValueError(
                f"max_thinking_tokens={max_thinking_tokens} and generator_url={generator.url}: thoughts are "
                "written by local models alone; set it to 0"
            )
        self.generator = generator if isinstance(generator, GeneratorEndpoint) else generator.eval()
        self.tokenizer = tokenizer
        self.retriever = retriever
        self.num_candidates = num_candidates
        self.texts = texts
        self.max_thinking_tokens = max_thinking_tokens
        self.folder: Path | None = None

    @property
    def selector(self) -> Any:
        """The selector's model."""
        return self.ranker.model

    @property
    def policy(self) -> SelectionPolicy:
        """How selections are read off it."""
        return self.ranker.policy

    @property
    def windows(self) -> SlidingWindows | None:
        """The windows by which it selects."""
        return self.ranker.windows

    @property
    def max_passage_tokens(self) -> int | None:
        """To how many tokens passages are cut."""
        return self.ranker.max_passage_tokens

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        retriever: Retriever | None = None,
        num_candidates: int | None = None,
        device: str | torch.device = AUTO,
        policy: SelectionPolicy | None = None,
        num_selected: int | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
        revision: str | None = None,
        max_thinking_tokens: int | None = None,
        generator_url: str | None = None,
        generator_model: str | None = None,
        **model_kwargs: Any,
    ) -> "RAGPipeline":
        """Load what `DROTrainer` saved.

        Args:
            folder: Holds `selector/`, `generator/` and `dro_config.json`; or the name of such a repository on a hub.
            retriever: Finds candidates for bare questions.
            num_candidates: N; what the pair was trained with where None.
            device: Where the models go: `auto` (an accelerator where there is one), `cpu`, `cuda:1`, …
            policy: Needed where the pair was trained with a policy object instead of the option `policy`.
            num_selected: K; what the pair was trained with where None.
            window_size: As in `RAGPipeline`, as is `window_stride`.
            window_stride: By how many candidates a window moves.
            revision: Branch, tag or commit of the repository.
            max_thinking_tokens: As in `RAGPipeline`; what the pair was trained with where None.
            generator_url: Where a server has the generator, which is not loaded then: one of OpenAI's
                `/v1/completions`, such as `http://localhost:8000/v1`.
            generator_model: What the server calls it; the only model that it has where None.
            **model_kwargs: For `from_pretrained` of both models. `dtype` is `auto` unless given: bfloat16 where the
                device multiplies it by itself, else float32. `trust_remote_code` is for a policy of others as well.

        Raises:
            FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
            ValueError: If the pair was trained with a policy object, and none is given; if both a policy and K are; if
                it names a policy of others that is not trusted; if K, the windows and their stride do not go together;
                or if there is no such device or dtype.
        """
        endpoint = GeneratorEndpoint(generator_url, generator_model) if generator_url else None
        roles = MODELS if endpoint is None else ("selector",)
        opened = open_pair(folder, revision, device, policy, num_selected, model_kwargs, roles)
        if endpoint is not None:
            opened.models["generator"] = endpoint
        pipeline = cls._of(opened, window_size, window_stride, max_thinking_tokens)
        pipeline.retriever, pipeline.folder = retriever, opened.folder
        pipeline.num_candidates = num_candidates or pipeline.num_candidates
        return pipeline

    @classmethod
    def from_start(
        cls,
        folder: str | Path,
        device: str | torch.device = AUTO,
        policy: SelectionPolicy | None = None,
        num_selected: int | None = None,
        window_size: int | None = None,
        window_stride: int | None = None,
        revision: str | None = None,
        max_thinking_tokens: int | None = None,
        **model_kwargs: Any,
    ) -> "RAGPipeline":
        """Load the pair that a trained one started from, as a baseline; arguments as in `from_pretrained`.

        Raises:
            ValueError: If the run did not start from a name or folder.
            FileNotFoundError: If the folder is not there any more.
        """
        opened = open_pair(folder, revision, device, policy, num_selected, model_kwargs, start=True)
        return cls._of(opened, window_size, window_stride, max_thinking_tokens)

    @classmethod
    def from_trainer(cls, trainer: Any, retriever: Retriever | None = None) -> "RAGPipeline":
        """Use the pair that a trainer holds, which costs no memory and no loading; it is in evaluation mode then.

        Args:
            trainer: A `DROTrainer`, before or after training; under one process or DDP.
            retriever: Finds candidates for bare questions.
        """
        pair, args = trainer.accelerator.unwrap_model(trainer.model), trainer.args
        return cls(
            pair.selector,
            pair.generator,
            pair.policy,
            trainer.tokenizers["generator"],
            retriever,
            args.num_candidates,
            args.max_passage_tokens,
            args.texts,
            max_thinking_tokens=args.max_thinking_tokens or 0,
        )

    @classmethod
    def _of(
        cls, opened: OpenedPair, window_size: int | None, window_stride: int | None, max_thinking_tokens: int | None
    ) -> "RAGPipeline":
        config = opened.config
        return cls(
            opened.models["selector"],
            opened.models["generator"],
            opened.policy,
            opened.tokenizers["generator"],
            num_candidates=config["num_candidates"],
            max_passage_tokens=config["max_passage_tokens"],
            texts=opened.texts,
            window_size=window_size,
            window_stride=window_stride,
            max_thinking_tokens=(config["max_thinking_tokens"] or 0)
            if max_thinking_tokens is None
            else max_thinking_tokens,
        )

    def save_pretrained(self, folder: str | Path, include_base: bool = False) -> None:
        """Write the pair as it was loaded, so that `from_pretrained` loads it from there.

        Args:
            folder: Where it goes; a pair that is there is replaced.
            include_base: Whether to save the base of adapters with it, in `base/`.

        Raises:
            ValueError: If the pipeline was not loaded by `from_pretrained`.
        """
        if self.folder is None:
            raise ValueError(
                "only a pair that RAGPipeline.from_pretrained loaded can be saved; save the models instead"
            )
        if Path(folder).resolve() != self.folder.resolve():
            copy_pair(self.folder, Path(folder))
        if include_base:
            saving.include_base(Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a selector and a generator",
        include_base: bool = False,
    ) -> str:
        """Upload the pair to a hub, and return where it is.

        Args:
            repo_id: Name of the repository, made where there is none.
            private: As in `huggingface_hub.HfApi.create_repo`, as is `token`.
            token: For the hub.
            revision: Branch that it goes to.
            commit_message: Of the commit.
            include_base: As in `save_pretrained`.

        Raises:
            ValueError: If the pipeline was not loaded by `from_pretrained`.
        """
        with tempfile.TemporaryDirectory() as made:
            self.save_pretrained(made, include_base)
            return upload(
                Path(made), str(self.folder and self.folder.name), repo_id, private, token, revision, commit_message
            )

    @overload
    def __call__(self, question: str, batch_size: int = 8, max_new_tokens: int = 32) -> RAGOutput: ...

    @overload
    def __call__(self, question: list[str], batch_size: int = 8, max_new_tokens: int = 32) -> list[RAGOutput]: ...

    def __call__(
        self, question: str | list[str], batch_size: int = 8, max_new_tokens: int = 32
    ) -> RAGOutput | list[RAGOutput]:
        """Answer one question, or each of a list.

        Args:
            question: The question, or any number of them.
            batch_size: As in `predict`, as is `max_new_tokens`.
            max_new_tokens: Longest answer, in tokens.

        Returns:
            One output, or a list of one a question.

        Raises:
            ValueError: If the pipeline has no retriever, a question is empty, or too few passages are found for it.
        """
        if self.retriever is None:
            raise ValueError("answering a bare question needs a retriever; pass retriever=… to RAGPipeline")
        questions = [question] if isinstance(question, str) else question
        for number, asked in enumerate(questions, start=1):
            if not asked.strip():
                which = "the question" if isinstance(question, str) else f"question {number} of {len(questions)}"
                raise ValueError(f"{which} is empty; ask one")
        found = self.retriever.retrieve(questions, self.num_candidates)
        rows = [Question(question=q, answers=[], candidates=c) for q, c in zip(questions, found, strict=True)]
        outputs = self.predict(rows, batch_size=batch_size, max_new_tokens=max_new_tokens)
        return outputs[0] if isinstance(question, str) else outputs

    def predict(
        self,
        rows: Sequence[Question],
        order: Literal["selector", "retriever"] = "selector",
        batch_size: int = 8,
        max_new_tokens: int = 32,
    ) -> list[RAGOutput]:
        """Answer questions that have candidates.

        Args:
            rows: Questions with candidates; `answers` are not looked at.
            order: Whose K passages the generator reads: the selector's, or the first K of the retriever.
            batch_size: Questions in a batch; in float32 the result does not depend on it.
            max_new_tokens: Longest answer, in tokens.

        Returns:
            One output a row, in the order of the rows.

        Raises:
            ValueError: If a row has fewer than K candidates.
        """
        rows = self.prepare(rows)
        chosen = self.select(rows, batch_size) if order == "selector" else self._first(rows)
        answers = self.answer(rows, [z for z, _ in chosen], batch_size, max_new_tokens)
        return [
            RAGOutput(row["question"], answer, [row["candidates"][i] for i in z], scores)
            for row, answer, (z, scores) in zip(rows, answers, chosen, strict=True)
        ]

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
            ValueError: If a row has fewer than K candidates, or a prompt more tokens than a model can read.
        """
        self.ranker.check(rows)
        scorer = AnswerScorer(self.tokenizer, texts=self.texts)
        local = None if isinstance(self.generator, GeneratorEndpoint) else self.generator
        check_fit(rows, "questions", None, local, self.policy, scorer, lambda row: self.cut([row])[0])

    def cut(self, rows: Sequence[Question]) -> Sequence[Question]:
        """Return the rows with their passages cut as in training, whether they can be read or not."""
        return self.ranker.cut(rows)

    def answer(
        self, rows: Sequence[Question], selections: Sequence[Selection], batch_size: int = 8, max_new_tokens: int = 32
    ) -> list[str]:
        """Answer prepared rows from given selections, of any number of passages; arguments as in `predict`."""
        return generate_answers(
            self.generator,
            self.tokenizer,
            [row["question"] for row in rows],
            [[row["candidates"][i] for i in z] for row, z in zip(rows, selections, strict=True)],
            max_new_tokens=max_new_tokens,
            batch_size=2 * batch_size,
            texts=self.texts,
            max_thinking_tokens=self.max_thinking_tokens,
        )

    def select(self, rows: Sequence[Question], batch_size: int = 8, progress: bool = True) -> list[Scored]:
        """Return the selector's preferred selection for each row; see `Selector.select`."""
        return self.ranker.select(rows, batch_size, progress)

    def _first(self, rows: Sequence[Question]) -> list[Scored]:
        k = self.policy.num_selected
        return [(list(range(k)), [passage["score"] for passage in row["candidates"][:k]]) for row in rows]
