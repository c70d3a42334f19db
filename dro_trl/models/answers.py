"""Answers of a generator: their log-likelihoods behind selected passages, and what it writes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dro_trl.lm import encoding, prompts
from dro_trl.lm.answer_passes import TokenBudget
from dro_trl.lm.endpoint import GeneratorEndpoint
from dro_trl.lm.generation import generate_answers
from dro_trl.lm.logps import reduce_answer_logps
from dro_trl.lm.modes import computes_alike
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.sharding import is_sharded
from dro_trl.lm.tokens import Tokenizer
from dro_trl.models.known_answers import KnownAnswers
from dro_trl.types import Question, Selection


class AnswerScorer:
    """Turns questions and selections into what the generator is scored on.

    Identical selections are scored once, and what the prompts of several begin with alike is read once.

    Args:
        tokenizer: The generator's tokenizer.
        all_aliases: Score every alias of the answer, not the first alone.
        texts: The words of the prompt.
        token_budget: As `DROConfig.scoring_token_budget`.
        known: What a generator that stays as it is has scored before, and is not asked again; None for one that is
            trained.
        endpoint: Where a server has the generator; it is asked in place of the model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        all_aliases: bool = False,
        texts: PromptTexts = DEFAULT,
        token_budget: int | None = None,
        known: KnownAnswers | None = None,
        endpoint: GeneratorEndpoint | None = None,
    ) -> None:
        self.known, self.endpoint = known, endpoint
        self.tokenizer = tokenizer
        self.all_aliases = all_aliases
        self.texts = texts
        self.budget = TokenBudget(token_budget)

    def logps(
        self, model: nn.Module, rows: Sequence[Question], selections: Tensor, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the token log-probabilities of each selection's answers and their mask, both (B, M, A, T).

        Args:
            model: The generator.
            rows: B questions.
            selections: (B, M, K).
            wanted: (B, M) bool, at least one in a row: the selections that are scored. Log-probabilities of the
                others are 0.
        """
        texts: list[str] = []
        answers: list[list[list[int]]] = []
        index: list[list[int]] = []
        flags = torch.ones(selections.shape[:2], dtype=torch.bool) if wanted is None else wanted
        for row, drawn, scored in zip(rows, selections.tolist(), flags.tolist(), strict=True):
            chosen = [selection for selection, is_scored in zip(drawn, scored, strict=True) if is_scored]
            distinct = {tuple(selection): len(texts) + i for i, selection in enumerate(_unique(chosen))}
            index.append([distinct.get(tuple(selection), len(texts)) for selection in drawn])
            alias_ids = self.alias_ids(row)
            for selection in distinct:
                texts.append(self.prompt(row, selection))
                answers.append(alias_ids)
        prompt_ids = encoding.encode_all(self.tokenizer, texts)
        score: Any = partial(self.budget.answer_logps, model, device=selections.device)
        if self.endpoint is not None:
            score = self.endpoint.answer_logps
        # Where weights are sharded every process has to make as many passes as the others, known or not.
        alike = self.endpoint is not None or not is_sharded(model) and computes_alike(model)
        known = self.known if alike else None
        found = score(prompt_ids, answers) if known is None else known.logps(score, prompt_ids, answers)
        logps, mask = (part.to(selections.device) for part in found)
        where = torch.tensor(index, device=logps.device)
        values = logps[where]
        return (values if wanted is None else values * wanted[..., None, None]), mask[where]

    def prompt(self, row: Question, selection: Sequence[int]) -> str:
        """Return the prompt with the selected passages, special tokens included."""
        passages = [row["candidates"][i] for i in selection]
        return encoding.render(self.tokenizer, prompts.generator_prompt(row["question"], passages, self.texts))

    def prompt_ids(self, row: Question, selection: Sequence[int]) -> list[int]:
        """Return the tokens of the prompt with the selected passages."""
        return encoding.encode(self.tokenizer, self.prompt(row, selection))

    def alias_ids(self, row: Question) -> list[list[int]]:
        """Return the tokens of each alias that is scored."""
        aliases = row["answers"] if self.all_aliases else row["answers"][:1]
        return [encoding.answer_ids(self.tokenizer, alias, self.texts) for alias in aliases]


def _unique(selections: list[Selection]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(map(tuple, selections)))


@torch.no_grad()
def score_answers(
    generator: Any,
    scorer: AnswerScorer,
    rows: Sequence[Question],
    selections: Sequence[Sequence[Selection]],
    batch_size: int,
    progress: bool = False,
) -> list[list[float]]:
    """Score selections as `answer_logps` does, by a generator alone.

    Args:
        generator: The generator.
        scorer: Of its tokenizer and prompts.
        rows: Questions with candidates.
        selections: For each row, any number of selections, all of equally many passages.
        batch_size: Prompts scored at once.
        progress: Whether to show a progress bar.
    """
    device = next(generator.parameters()).device
    flat = [(row, z) for row, drawn in zip(rows, selections, strict=True) for z in drawn]
    order = _scoring_order(rows, selections)
    found = [0.0] * len(flat)
    starts = range(0, len(flat), batch_size)
    for start in tqdm(starts, desc="Scoring answers", disable=not progress):
        batch = order[start : start + batch_size]
        # Each selection is a row of its own, of M = 1: questions differ in how many they have.
        chosen = torch.tensor([[flat[i][1]] for i in batch], device=device)
        logps, mask = scorer.logps(generator, [flat[i][0] for i in batch], chosen)
        values = reduce_answer_logps(logps, mask, "sum", "first")[:, 0].tolist()
        for i, value in zip(batch, values, strict=True):
            found[i] = value
    scores = iter(found)
    return [[next(scores) for _ in drawn] for drawn in selections]


def _scoring_order(rows: Sequence[Question], selections: Sequence[Sequence[Selection]]) -> list[int]:
    """The numbers of all selections, those of like length together.

    Selections of several passages may begin alike, and stay with the others of their question.
    """
    places: list[tuple[Any, ...]] = []
    for number, (row, drawn) in enumerate(zip(rows, selections, strict=True)):
        lengths = [sum(len(row["candidates"][i]["text"]) for i in z) for z in drawn]
        together = any(len(z) > 1 for z in drawn)
        places += [(max(lengths) if together else length, number, z) for length, z in zip(lengths, drawn, strict=True)]
    return sorted(range(len(places)), key=places.__getitem__)


def answer_selections(
    model: nn.Module | GeneratorEndpoint,
    tokenizer: Tokenizer,
    columns: dict[str, Any],
    texts: PromptTexts = DEFAULT,
    max_thinking_tokens: int = 0,
    max_new_tokens: int = 32,
) -> list[str]:
    """Answer from each selection, identical ones once.

    Args:
        model: The generator.
        tokenizer: Its tokenizer.
        columns: `question`, `candidates` and `selections`, one entry per selection.
        texts: The words of the prompt.
        max_thinking_tokens: As in `generate_answers`.
        max_new_tokens: Longest answer, in tokens.
    """
    read = [
        [passages[index] for index in selection]
        for selection, passages in zip(columns["selections"], columns["candidates"], strict=True)
    ]
    keys = [(q, *(p["id"] for p in passages)) for q, passages in zip(columns["question"], read, strict=True)]
    distinct = dict(zip(keys, read, strict=True))
    answers = generate_answers(
        model,
        tokenizer,
        [key[0] for key in distinct],
        list(distinct.values()),
        max_new_tokens,
        texts=texts,
        max_thinking_tokens=max_thinking_tokens,
    )
    by_key = dict(zip(distinct, answers, strict=True))
    return [by_key[key] for key in keys]
