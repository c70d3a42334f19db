"""TRL's own trainers on the same task: a selector that writes `[3] > [1]` freely, by `GRPOTrainer` or `RLOOTrainer`.

`trl_dataset` gives them our rows with the prompt of `AutoregressivePolicy`, and `SelectionReward` makes a reward of
ours one of theirs. The other way round, a reward written for TRL is one of ours as it is; one that expects messages in
place of texts goes through `conversational`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from dro_trl.lm import encoding, prompts
from dro_trl.lm.answer_passes import pad_answers
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.tokens import Tokenizer, line_tokens
from dro_trl.lm.turns import set_turns
from dro_trl.models.answers import AnswerScorer, answer_selections
from dro_trl.models.loading import Start
from dro_trl.policies.autoregressive import AutoregressivePolicy
from dro_trl.retrieval.base import Retriever
from dro_trl.rewards.calls import RewardFunc, call_reward, names_parameter, reward_name
from dro_trl.trainer.building import load_tokenizers
from dro_trl.trainer.dataset import prepare_dataset
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.types import Question, Selection


def trl_dataset(
    dataset: Dataset,
    args: DROConfig,
    tokenizer: Tokenizer,
    generator_tokenizer: Tokenizer | None = None,
    retriever: Retriever | None = None,
    training: bool = True,
) -> Dataset:
    """Return the rows that `DROTrainer` would train on, with a column `prompt` for TRL's trainers.

    Args:
        dataset: Rows as in `DROTrainer`.
        args: Options; those on the data count (`num_selected`, `shuffle_candidates`, `prompt_texts`, …).
        tokenizer: The selector's.
        generator_tokenizer: The generator's, which counts `max_passage_tokens`; the selector's where None.
        retriever: Finds candidates for a dataset that has none.
        training: Whether the rows are to be trained on, or to evaluate.

    Raises:
        ValueError: If a row is faulty, or the tokenizer cannot be given a prompt that is a text.
    """
    named = Start(tokenizer.name_or_path, tokenizer.name_or_path)
    tokenizer = load_tokenizers({"selector": named}, args, tokenizer)["selector"]
    rows = prepare_dataset(dataset, "dataset", retriever, generator_tokenizer or tokenizer, args, training)
    assert rows is not None
    policy = AutoregressivePolicy(tokenizer, args.num_selected, args.texts)
    return rows.add_column(
        "prompt", [_tokenized_alike(tokenizer, policy.prompt(row)) for row in rows.with_format(None)]
    )


def _tokenized_alike(tokenizer: Tokenizer, prompt: str) -> str:
    """The text of which TRL's call of the tokenizer, which may begin every text anew, makes the policy's tokens."""
    if marked := line_tokens(tokenizer).marked_in(prompt):
        raise ValueError(
            f"the special token {marked[0]!r} stands in the text of a question or passage, where TRL's trainers would "
            "read it as one; take it out of the row"
        )
    expected = encoding.encode(tokenizer, prompt)
    for text in (prompt, prompt.removeprefix(tokenizer.bos_token or "")):
        if tokenizer(text)["input_ids"] == expected:
            return text
    raise ValueError(
        f"{type(tokenizer).__name__} adds special tokens of its own to a prompt, so that TRL's trainers would not "
        f"read what AutoregressivePolicy reads: {tokenizer(prompt)['input_ids'][:3]}… in place of {expected[:3]}…; "
        "give a tokenizer that adds none (add_bos_token=False)"
    )


class SelectionReward:
    """A reward of selections as a reward function of TRL's trainers.

    A completion's first line is read as a selection. It is malformed where it names no passage, one that is not there,
    or another number of them than K; the share of those is logged as `malformed/<reward>` (TRL's `log_metric`) and
    counted in `num_malformed` of `num_completions`.

    Args:
        reward_func: A reward as `DROTrainer` takes it.
        num_selected: K, the number of passages in a selection.
        malformed_reward: What a malformed completion is rewarded with, before TRL's `reward_weights`: below anything
            the reward can return, or writing nonsense pays. A log-likelihood has no lower bound; -100 is far below
            most.
        generator: For rewards that name `answer_logps` or `generated_answers`: the model that answers, whole on each
            process. It is not trained.
        generator_tokenizer: Its tokenizer.
        batch_size: Answers scored together; no reward depends on it.
        texts: The words of the generator's prompt.
        args: Options that say whether and how the generator's chat template is applied, and how long it thinks before
            it answers; `chat="auto"` decides, and it does not think, where None.

    Raises:
        ValueError: If the reward needs a generator and there is none, or it has no template that `args` ask for.
    """

    def __init__(
        self,
        reward_func: RewardFunc,
        *,
        num_selected: int,
        malformed_reward: float,
        generator: Any = None,
        generator_tokenizer: Tokenizer | None = None,
        batch_size: int = 16,
        texts: PromptTexts = DEFAULT,
        args: DROConfig | None = None,
    ) -> None:
        self.reward_func, self.num_selected, self.malformed_reward = reward_func, num_selected, malformed_reward
        self.__name__ = reward_name(reward_func)
        self._needs = {name for name in ("answer_logps", "generated_answers") if names_parameter(reward_func, name)}
        if self._needs and (generator is None or generator_tokenizer is None):
            raise ValueError(
                f"reward function {self.__name__} names {' and '.join(sorted(self._needs))}; give SelectionReward the "
                "generator and generator_tokenizer that they come from"
            )
        self.generator: nn.Module | None = generator.eval() if generator is not None else None
        self.max_thinking_tokens = 0
        if args is not None and generator_tokenizer is not None:
            kwargs: Any = args.chat_template_kwargs
            generator_tokenizer = set_turns(
                generator_tokenizer, args.chat, kwargs, args.chat_template_path, generator, "generator"
            )
            self.max_thinking_tokens = args.max_thinking_tokens
        self.tokenizer = generator_tokenizer
        self.batch_size, self.texts = batch_size, texts
        self.num_completions = self.num_malformed = 0

    def __call__(
        self,
        completions: Sequence[Any],
        question: list[str],
        candidates: list[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return one reward for each completion, with the arguments of TRL's reward functions."""
        found = [self._selection(text, len(passages)) for text, passages in zip(completions, candidates, strict=True)]
        kept = [index for index, selection in enumerate(found) if selection is not None]
        malformed = len(found) - len(kept)
        self.num_completions += len(found)
        self.num_malformed += malformed
        if log_metric is not None:
            log_metric(f"malformed/{self.__name__}", malformed / len(found))
        rewards: list[float | None] = [self.malformed_reward] * len(found)
        if not kept:
            return rewards
        # TRL's `log_extra` is left out, since it takes values for malformed completions too.
        given = {name: value for name, value in columns.items() if name != "log_extra"}
        given.update(question=question, candidates=candidates, selections=found)
        given = {n: [v[i] for i in kept] if isinstance(v, list) else v for n, v in given.items()}
        given["prompts"] = given["question"]
        given["completions"] = [prompts.format_selection(selection) for selection in given["selections"]]
        given["log_metric"] = log_metric or (lambda name, value: None)
        if "answer_logps" in self._needs:
            given["answer_logps"], given["answer_mask"] = self._answer_logps(given)
        if "generated_answers" in self._needs:
            assert self.generator is not None
            given["generated_answers"] = answer_selections(
                self.generator, self.tokenizer, given, self.texts, self.max_thinking_tokens
            )
        for index, value in zip(kept, call_reward(self.reward_func, given).tolist(), strict=True):
            rewards[index] = None if value != value else value  # NaN: the reward does not apply.
        return rewards

    def _selection(self, completion: Any, num_candidates: int) -> Selection | None:
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        try:
            selection = prompts.parse_selection(prompts.clean_answer(text), num_candidates)
        except ValueError:
            return None
        return selection if len(selection) == self.num_selected else None

    @torch.no_grad()
    def _answer_logps(self, columns: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The log-probabilities of the answers' tokens and their mask, (R, A, T); equal selections are scored once."""
        assert self.generator is not None
        all_aliases = getattr(self.reward_func, "aliases", "first") != "first"
        scorer = AnswerScorer(self.tokenizer, all_aliases, self.texts)
        names = ("question", "answers", "candidates")
        distinct: dict[tuple[str, ...], tuple[int, Question, Selection]] = {}
        index = []
        for *values, selection in zip(*(columns[name] for name in names), columns["selections"], strict=True):
            row = Question(**dict(zip(names, values, strict=True)))  # type: ignore[typeddict-item]
            key = (row["question"], *row["answers"], *(row["candidates"][i]["id"] for i in selection))
            index.append(distinct.setdefault(key, (len(distinct), row, selection))[0])
        device = next(self.generator.parameters()).device
        parts = []
        for start in range(0, len(distinct), self.batch_size):
            _, rows, drawn = zip(*list(distinct.values())[start : start + self.batch_size], strict=True)
            parts.append(scorer.logps(self.generator, rows, torch.tensor(drawn, device=device)[:, None]))
        shape = (max(logps.shape[2] for logps, _ in parts), max(logps.shape[3] for logps, _ in parts))
        logps, mask = (
            torch.cat([pad_answers(part[:, 0], shape) for part in both]) for both in zip(*parts, strict=True)
        )
        return logps[index], mask[index]


def conversational(reward_func: RewardFunc) -> RewardFunc:
    """Return a reward for `DROTrainer` from one that expects TRL's conversational format, as `trl.rewards` do.

    Each prompt becomes a list of one message of the user's, each completion a list of one of the assistant's.
    """

    @functools.wraps(reward_func)
    def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> Any:
        return reward_func(
            prompts=[[{"role": "user", "content": text}] for text in prompts],
            completions=[[{"role": "assistant", "content": text}] for text in completions],
            **columns,
        )

    return reward
