"""Using a trained pair: retrieve, select, answer."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from tqdm.auto import tqdm

from dro_trl.lm import prompts
from dro_trl.lm.devices import AUTO, choose_device, choose_dtype, describe
from dro_trl.lm.fitting import check_fit, check_window, cut_passages, warn_of_special_tokens
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.tokens import Tokenizer
from dro_trl.models import saving
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.files import check_model_files, check_tokenizer_files, one_line
from dro_trl.models.loading import check_loaded, load_model, load_shared, saved_tokenizers
from dro_trl.models.names import pair_folder, upload
from dro_trl.models.saving import CONFIG_NAME, MODELS, copy_pair, read_config, start_paths
from dro_trl.policies.base import SelectionPolicy, check_candidates, check_own, check_policy, load_policy
from dro_trl.policies.sliding_windows import Scored, SlidingWindows, select_by_scores, select_by_windows
from dro_trl.retrieval.base import Retriever, check_retriever
from dro_trl.types import Passage, Question, Selection

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class RAGOutput:
    """An answer and what it rests on."""

    question: str
    answer: str
    passages: list[Passage]
    """The selected passages, in the order in which the generator read them."""
    scores: list[float]
    """The selector's score of each: the item score (Plackett-Luce), or the log-probability of the choice."""


class RAGPipeline:
    """Retrieve, select, answer.

    Args:
        selector: The selector: a causal LM, or an `AdapterView` of one.
        generator: The generator, likewise.
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
        check_policy(policy)
        if retriever is not None:
            check_retriever(retriever)
        self.windows = SlidingWindows.make(window_size, window_stride, policy.num_selected)
        self.selector = selector.eval()
        self.generator = generator.eval()
        self.policy = policy
        self.tokenizer = tokenizer
        self.retriever = retriever
        self.num_candidates = num_candidates
        self.max_passage_tokens = max_passage_tokens
        self.texts = texts
        self.max_thinking_tokens = max_thinking_tokens
        self.folder: Path | None = None

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
            **model_kwargs: For `from_pretrained` of both models. `dtype` is `auto` unless given: bfloat16 where the
                device multiplies it by itself, else float32. `trust_remote_code` is for a policy of others as well.

        Raises:
            FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
            ValueError: If the pair was trained with a policy object, and none is given; if both a policy and K are; if
                it names a policy of others that is not trusted; if K, the windows and their stride do not go together;
                or if there is no such device or dtype.
        """
        folder = pair_folder(folder, revision)
        paths = {name: str(folder / name) for name in MODELS}
        asked = (window_size, window_stride, max_thinking_tokens)
        config = read_config(folder)
        for path in paths.values():
            check_model_files(Path(path))
        pipeline = cls._load(folder, config, paths, device, policy, num_selected, asked, model_kwargs)
        pipeline.retriever, pipeline.folder = retriever, folder
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
        folder = pair_folder(folder, revision)
        config = read_config(folder)
        config["learnt_policy_kwargs"] = config["start_policy_kwargs"]
        paths = start_paths(folder, config)
        asked = (window_size, window_stride, max_thinking_tokens)
        return cls._load(folder, config, paths, device, policy, num_selected, asked, model_kwargs)

    @classmethod
    def _load(
        cls,
        folder: Path,
        config: dict[str, Any],
        paths: dict[str, str],
        device: str | torch.device,
        policy: SelectionPolicy | None,
        num_selected: int | None,
        asked: tuple[int | None, int | None, int | None],
        model_kwargs: dict[str, Any],
    ) -> "RAGPipeline":
        if policy is None and config["policy"] is None:
            raise ValueError(f"{paths['selector']} was trained with a policy object; pass policy=… to load it")
        if policy is not None and num_selected is not None:
            raise ValueError(
                f"num_selected={num_selected} and a policy of num_selected={policy.num_selected}: give one of them"
            )
        trusted = bool(model_kwargs.get("trust_remote_code"))
        if policy is None and not trusted:
            check_own(config["policy"], folder / CONFIG_NAME)
        device = choose_device(device)
        model_kwargs = {**model_kwargs, "dtype": choose_dtype(model_kwargs.get("dtype", AUTO), device)}
        logger.info(f"{paths['selector']} and {paths['generator']} run {describe(device, model_kwargs['dtype'])}")
        for name in MODELS:
            check_tokenizer_files(folder / name, saved=True)
        models: dict[str, Any]
        if config.get("shared_base") and paths != config["start"]:
            models = load_shared(paths, device, model_kwargs)
        else:
            models = {name: load_model(path, model_kwargs).to(device) for name, path in paths.items()}  # type: ignore[arg-type]
        # Of a start as well: it reads what training read.
        tokenizers = saved_tokenizers(folder, config["turns"], trusted)
        for name, tokenizer in tokenizers.items():
            check_loaded(models[name], tokenizer, str(folder / name))
        texts = prompts.prompt_texts(config["prompt_texts"])
        if policy is None:
            kwargs = {**(config["policy_kwargs"] or {}), **(config["learnt_policy_kwargs"] or {})}
            with one_line(folder / CONFIG_NAME, f"a policy {config['policy']}"):
                policy = load_policy(
                    config["policy"], tokenizers["selector"], num_selected or config["num_selected"], kwargs, texts
                )
        return cls(
            models["selector"],
            models["generator"],
            policy,
            tokenizers["generator"],
            num_candidates=config["num_candidates"],
            max_passage_tokens=config["max_passage_tokens"],
            texts=texts,
            window_size=asked[0],
            window_stride=asked[1],
            max_thinking_tokens=(config["max_thinking_tokens"] or 0) if asked[2] is None else asked[2],
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

    def __call__(self, question: str) -> RAGOutput:
        """Answer one question.

        Raises:
            ValueError: If the pipeline has no retriever, or the question is empty.
        """
        if self.retriever is None:
            raise ValueError("answering a bare question needs a retriever; pass retriever=… to RAGPipeline")
        if not question.strip():
            raise ValueError("the question is empty; ask one")
        candidates = self.retriever.retrieve([question], self.num_candidates)[0]
        return self.predict([Question(question=question, answers=[], candidates=candidates)])[0]

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
            ValueError: If a row has fewer than K candidates, or a prompt more tokens than a model can read.
        """
        check_candidates(rows, self.policy.num_selected)
        if self.max_passage_tokens is not None:
            rows, _ = cut_passages(rows, self.tokenizer, self.max_passage_tokens)
        warn_of_special_tokens(rows, "questions", self.tokenizer)
        selector = self.selector if self.windows is None else None  # Which reads less of a row than all of it.
        scorer = AnswerScorer(self.tokenizer, texts=self.texts)
        check_fit(rows, "questions", selector, self.generator, self.policy, scorer)
        return rows

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

    @torch.no_grad()
    def select(self, rows: Sequence[Question], batch_size: int = 8, progress: bool = True) -> list[Scored]:
        """Return the selector's preferred selection for each row, with a score for each passage in it.

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

    def _encoded(self, rows: Sequence[Question]) -> Any:
        inputs = self.policy.encode(rows)
        check_window(self.selector, inputs)
        return inputs.to(next(self.selector.parameters()).device)

    def _best(self, rows: Sequence[Question]) -> Iterable[Scored]:
        selections, scores = self.policy.best(self.selector, self._encoded(rows))
        return zip(selections.tolist(), scores.tolist(), strict=True)

    def _own_scores(self, rows: Sequence[Question]) -> Iterable[list[float]]:
        return self.policy.own_scores(self.selector, self._encoded(rows))

    def _first(self, rows: Sequence[Question]) -> list[Scored]:
        k = self.policy.num_selected
        return [(list(range(k)), [passage["score"] for passage in row["candidates"][:k]]) for row in rows]
