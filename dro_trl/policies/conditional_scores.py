"""Choices by scores that see what was chosen: each next passage is scored behind the question and those before it.

`p(z_k = i | x, z_<k)` is a softmax over the candidates that are left, of scores that are read as `PlackettLucePolicy`
reads them, with the chosen passages before each candidate. The first choice is that policy's. A selection of K takes K
passes, in each of which a distinct beginning is read once, with all candidates that may follow behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dro_trl.lm.attention import blocks_of
from dro_trl.lm.logps import kept_logits
from dro_trl.lm.packing import SharedPromptBatch, pack
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.tokens import Tokenizer
from dro_trl.policies.base import (
    Reading,
    SelectionLogps,
    SelectionPolicy,
    SelectionSample,
    StatedReading,
    check_candidates,
)
from dro_trl.policies.item_scores import EncodedRow, ItemScores, ScoringInputs
from dro_trl.policies.randomness import gumbel_noise
from dro_trl.policies.score_weights import ScoreWeights
from dro_trl.policies.stochastic_beams import draw_distinct
from dro_trl.types import Question

ConditionalScore = Literal["pointwise", "query_likelihood"]
Proposal = Literal["policy", "without_replacement"]
Beginning = tuple[int, ...]
"""The passages that were chosen so far."""


@dataclass
class ConditionalInputs:
    """Encoded questions: what is read before anything is chosen, and the pieces of what is read afterwards."""

    first: ScoringInputs
    rows: list[EncodedRow]
    chosen: list[list[list[int]]]
    """For each candidate of each question, the tokens that stand for it once it was chosen."""
    longest: int
    """Tokens of the longest prompt with the longest candidates behind it that may be chosen."""

    def to(self, device: torch.device) -> "ConditionalInputs":
        """Return the inputs for another device."""
        return ConditionalInputs(self.first.to(device), self.rows, self.chosen, self.longest)


class ConditionalScoresPolicy(SelectionPolicy):
    """Chooses K passages one after the other, each by a score that sees the question and the passages chosen before.

    Args:
        tokenizer: The selector's fast tokenizer.
        num_selected: K, the number of passages in a selection.
        item_score: What a score is read off, as in `PlackettLucePolicy`. `"pointwise"`: the logit of " yes" minus that
            of " no" after the passage, behind the question and the chosen passages. `"query_likelihood"`:
            log p(question | chosen passages, passage), which sees how passages depend on each other before any
            training.
        retriever_prior: As in `PlackettLucePolicy`.
        score_temperature: As in `PlackettLucePolicy`.
        learn_weights: As in `PlackettLucePolicy`.
        link_weight: Weight of a passage's link to the chosen ones: how much likelier these make its beginning, as a
            rule its title, log p(beginning | question, chosen passages) - log p(beginning | question), in nats, read
            in the same pass. What a passage speaks of it makes likely, in a language model without any training. With
            `"pointwise"`; not read where None.
        link_tokens: The tokens of a beginning.
        shortlist_size: How many of the candidates that are left are read again behind what was chosen: those with the
            best first scores. The others stay in the choice with their first scores, so that every selection has a
            probability, and log-probabilities are exact. All of them where None.
        proposal: As in `PlackettLucePolicy`, but for `"every_passage"`.
        texts: The words of the prompts.

    Raises:
        ValueError: If an argument is out of range, or the tokenizer has no token for what is read.
    """

    state_pooling = "mean"
    score_weights: ScoreWeights

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_selected: int = 5,
        item_score: ConditionalScore = "pointwise",
        retriever_prior: float = 0.0,
        score_temperature: float = 1.0,
        learn_weights: bool = False,
        link_weight: float | None = 1.0,
        link_tokens: int = 3,
        shortlist_size: int | None = None,
        proposal: Proposal = "policy",
        texts: PromptTexts = DEFAULT,
    ) -> None:
        if item_score not in get_args(ConditionalScore):
            raise ValueError(
                f"item_score={item_score!r} cannot be read behind chosen passages; use one of "
                f"{str(get_args(ConditionalScore))[1:-1]}, or PlackettLucePolicy"
            )
        if link_weight is not None and item_score != "pointwise":
            raise ValueError(
                f"link_weight={link_weight} and item_score={item_score!r}: links are read behind the question, as "
                "'pointwise' scores are; set item_score to that, or link_weight to None"
            )
        if link_tokens < 1:
            raise ValueError(f"link_tokens={link_tokens} must be at least 1; set link_weight to None to read no links")
        if proposal not in get_args(Proposal):
            raise ValueError(f"proposal={proposal!r} is unknown; use one of {str(get_args(Proposal))[1:-1]}")
        if shortlist_size is not None and shortlist_size < 1:
            raise ValueError(f"shortlist_size={shortlist_size} must be at least 1, or None for all candidates")
        self.tokenizer = tokenizer
        self.texts = texts
        self.num_selected = num_selected
        self.item_score = item_score
        self.shortlist_size = shortlist_size
        self.proposal = proposal
        self.scores = ItemScores(tokenizer, item_score, texts, link_tokens=0 if link_weight is None else link_tokens)
        self.score_weights = ScoreWeights(score_temperature, retriever_prior, None, learn_weights, link_weight)

    def encode(self, rows: Sequence[Question]) -> ConditionalInputs:
        """Encode the pieces of each row's prompts; see `SelectionPolicy.encode`.

        Raises:
            ValueError: If a row has fewer than K candidates.
        """
        check_candidates(rows, self.num_selected)
        encoded = [self.scores.encode(row) for row in rows]
        chosen = [self.scores.chosen(*pair) for pair in zip(rows, encoded, strict=True)]
        longest = max(
            len(row.shared) + sum(nlargest(self.num_selected - 1, map(len, before))) + max(map(len, row.continuations))
            for row, before in zip(encoded, chosen, strict=True)
        )
        return ConditionalInputs(self.scores.inputs(rows, encoded), encoded, chosen, longest)

    def questions_of(self, inputs: ConditionalInputs) -> Tensor | None:
        """Return the question that each row of the first pass is of; see `SelectionPolicy.questions_of`."""
        return inputs.first.questions

    def packed(self, inputs: ConditionalInputs, selections: Tensor) -> SharedPromptBatch:
        """Return all that the selector reads, of a shortlist as many candidates as are read: the first of them."""
        rows = selections.tolist()
        beginnings = [list(dict.fromkeys(tuple(z[:k]) for z in row for k in range(self.num_selected))) for row in rows]
        order = -torch.arange(inputs.first.item_mask.shape[1]).expand(len(rows), -1)
        return self.behind(inputs, beginnings, order)[0]

    @classmethod
    def stated_reading(
        cls,
        stated: StatedReading,
        item_score: ConditionalScore = "pointwise",
        link_weight: float | None = 1.0,
        link_tokens: int = 3,
        shortlist_size: int | None = None,
        **kwargs: Any,
    ) -> Reading:
        """Return what is read where all selections begin differently; see `SelectionPolicy.stated_reading`."""
        n = stated.num_candidates
        asked = stated.asked if item_score == "query_likelihood" else 0
        head = 0 if asked else stated.question
        prompts, rests = [head], [[stated.passage + asked] * n]
        for k in range(1, stated.num_selected):
            read = min(n - k, shortlist_size or n)
            for _ in range(stated.num_selections):
                prompts.append(head + k * stated.passage)
                rests.append([stated.passage + asked] * read)
        count = sum(map(len, rests))
        tokens = sum(prompts) + count * (stated.passage + asked)
        kept = count * max(asked, 1)
        if link_weight is not None:  # The first token of all that may follow is told by one position.
            kept += len(prompts) + count * (link_tokens - 1)
        return Reading(tokens, kept, 1, blocks_of(prompts, rests))

    def sample(
        self,
        model: nn.Module,
        inputs: ConditionalInputs,
        num_selections: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
    ) -> SelectionSample:
        """Draw selections choice by choice, with or without replacement; see `SelectionPolicy.sample`."""
        scores, sizes = _ChoiceScores(self, model, inputs), inputs.first.sizes
        if self.proposal == "without_replacement":

            def step(prefixes: Tensor) -> Tensor:
                with torch.set_grad_enabled(with_gradient):
                    found = scores.behind(prefixes.to(scores.device))
                return (found.detach().double() / temperature).log_softmax(-1)

            with_gradient = torch.is_grad_enabled()
            drawn = draw_distinct(step, sizes, self.num_selected, num_selections, generators)
            selections = drawn.selections.to(scores.device)
            scored = choice_logps(scores.along(selections), selections)
            return drawn.sample(scored.logps, scored.entropy)
        selections = torch.zeros(len(sizes), num_selections, 0, dtype=torch.int64, device=scores.device)
        for _ in range(self.num_selected):
            found = scores.behind(selections).detach().double() / temperature
            noise = gumbel_noise(sizes, (num_selections, found.shape[-1]), generators)
            selections = torch.cat([selections, (found + noise.to(found.device)).argmax(-1, keepdim=True)], dim=-1)
        table = scores.along(selections)
        scored, behavior = choice_logps(table, selections), choice_logps(table.detach() / temperature, selections)
        return SelectionSample(scored.logps, scored.entropy, selections, behavior.logps)

    def logps(self, model: nn.Module, inputs: ConditionalInputs, selections: Tensor) -> SelectionLogps:
        """Return the log-probabilities of given selections; see `SelectionPolicy.logps`."""
        return choice_logps(_ChoiceScores(self, model, inputs).along(selections), selections)

    @torch.no_grad()
    def best(self, model: nn.Module, inputs: ConditionalInputs) -> tuple[Tensor, Tensor]:
        """Return the likeliest passage of each choice, and the log-probabilities of the choices, both (B, K)."""
        scores, found = _ChoiceScores(self, model, inputs), []
        selections = torch.zeros(len(inputs.rows), 1, 0, dtype=torch.int64, device=scores.device)
        for _ in range(self.num_selected):
            top = scores.behind(selections)[:, 0].log_softmax(-1).max(-1)
            found.append(top.values)
            selections = torch.cat([selections, top.indices[:, None, None]], dim=-1)
        return selections[:, 0], torch.stack(found, dim=-1)

    def behind(
        self, inputs: ConditionalInputs, beginnings: Sequence[Sequence[Beginning]], first: Tensor
    ) -> tuple[SharedPromptBatch, Tensor]:
        """Return what is read behind beginnings of selections, and which candidates are, (beginnings, N) bool.

        Args:
            inputs: B encoded questions.
            beginnings: Those of each question.
            first: (B, N) the first scores.
        """
        prompts: list[list[int]] = []
        continuations: list[list[list[int]]] = []
        scored: list[list[list[bool]]] = []
        read = torch.zeros(sum(map(len, beginnings)), first.shape[1], dtype=torch.bool)
        orders = first.argsort(dim=-1, descending=True, stable=True).tolist()
        for row, chosen, order, taken in zip(inputs.rows, inputs.chosen, orders, beginnings, strict=True):
            for beginning in taken:
                left = [i for i in order if i < len(row.continuations) and i not in beginning]
                items = sorted(left[: self.shortlist_size] if beginning else left)
                read[len(prompts), items] = True
                prompts.append([*row.shared, *(token for i in beginning for token in chosen[i])])
                continuations.append([row.continuations[i] for i in items])
                scored.append([row.scored[i] for i in items])
        device = inputs.first.item_mask.device
        return pack(prompts, continuations, scored).to(device), read.to(device)


class _ChoiceScores:
    """The scores of each choice of B questions, each distinct beginning of a selection read once."""

    def __init__(self, policy: ConditionalScoresPolicy, model: nn.Module, inputs: ConditionalInputs) -> None:
        self._policy, self._model, self._inputs = policy, model, inputs
        mask = inputs.first.item_mask
        self.device = mask.device
        self._alone: list[Tensor] = []
        """Where links are read: how likely each passage's beginning is behind the question alone, (B, N)."""
        first, (_, *self._alone) = self._weighed(inputs.first.batch, mask, torch.arange(len(mask), device=mask.device))
        self._first = first.masked_fill(~mask, float("-inf"))
        self._places: list[dict[tuple[int, Beginning], int]] = [{(b, ()): b for b in range(len(first))}]
        self._scores = [self._first]

    def _weighed(self, batch: SharedPromptBatch, read: Tensor, of_row: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scores of what is read, behind beginnings of selections of the rows `of_row`, and their parts."""
        parts = self._policy.scores.read(kept_logits(self._model, batch), batch, read)
        links = [found - alone[of_row] for found, alone in zip(parts[1:], self._alone or parts[1:], strict=True)]
        weighed: Tensor = self._policy.score_weights([parts[0], self._inputs.first.prior[of_row], *links])
        return weighed, parts

    def behind(self, chosen: Tensor) -> Tensor:
        """Return the scores of the next choice behind (B, M, k) chosen passages, (B, M, N), -inf where taken.

        The first that asks for a choice has all beginnings read that are asked for, in one forward pass.
        """
        rows, k = chosen.tolist(), chosen.shape[-1]
        if k == len(self._scores):
            self._read([list(dict.fromkeys(map(tuple, row))) for row in rows])
        places = [[self._places[k][b, tuple(taken)] for taken in row] for b, row in enumerate(rows)]
        found = self._scores[k][torch.tensor(places, device=self.device)]
        return found.scatter(-1, chosen, float("-inf"))

    def _read(self, beginnings: list[list[Beginning]]) -> None:
        of_row = torch.tensor([b for b, row in enumerate(beginnings) for _ in row], device=self.device)
        batch, read = self._policy.behind(self._inputs, beginnings, self._first.detach())
        weighed, _ = self._weighed(batch, read, of_row)
        self._places.append(
            {(b, z): at for at, (b, z) in enumerate((b, z) for b, row in enumerate(beginnings) for z in row)}
        )
        self._scores.append(torch.where(read, weighed, self._first[of_row]))

    def along(self, selections: Tensor) -> Tensor:
        """Return the scores at each choice of (B, M, K) selections, (B, M, K, N)."""
        return torch.stack([self.behind(selections[..., :k]) for k in range(selections.shape[-1])], dim=-2)


def choice_logps(scores: Tensor, selections: Tensor) -> SelectionLogps:
    """Return log p(z) = sum_k log softmax(scores of choice k)[z_k], and the mean over M of the summed entropies.

    Args:
        scores: (B, M, K, N) in nats, -inf where a candidate is taken or not there.
        selections: (B, M, K) int64.
    """
    log_probs = scores.log_softmax(-1)
    logps = log_probs.gather(-1, selections[..., None])[..., 0].sum(-1)
    possible = log_probs.masked_fill(log_probs == float("-inf"), 0.0)
    return SelectionLogps(logps, -(log_probs.exp() * possible).sum((-1, -2)).mean(-1))
