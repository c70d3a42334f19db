"""Plackett-Luce over item scores: one forward pass of the prompt gives every selection's probability."""

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dro_trl import prompts
from dro_trl.policies.base import SelectionLogps, SelectionSample, check_candidates
from dro_trl.prompts import Tokenizer
from dro_trl.shared_prompt import PADDING, attention_mask
from dro_trl.types import Question

IDENTIFIERS = string.ascii_uppercase + string.ascii_lowercase


def plackett_luce_logps(scores: Tensor, selections: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(z) = sum_k (s_{z_k} - logsumexp of the scores not yet taken), and the summed step entropies.

    Args:
        scores: (B, N) item scores in nats, -inf where a row has fewer than N items.
        selections: (B, M, K) int64 distinct indices.

    Returns:
        Log-probabilities (B, M) and the entropies of the K choices along each selection, summed, (B, M), in nats.
    """
    steps = selections.shape[-1]
    chosen = nn.functional.one_hot(selections, scores.shape[-1]).bool()
    taken = torch.stack([chosen[..., :k, :].any(-2) for k in range(steps)], dim=-2)
    log_probs = scores[:, None, None, :].masked_fill(taken, float("-inf")).log_softmax(-1)
    logps = log_probs.gather(-1, selections[..., None])[..., 0].sum(-1)
    possible = log_probs.masked_fill(log_probs == float("-inf"), 0.0)
    return logps, -(log_probs.exp() * possible).sum((-1, -2))


def gumbel_top_k(
    scores: Tensor, num_selected: int, num_selections: int, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw selections without replacement: the K largest of `scores + Gumbel noise` (Kool et al., 2019).

    Args:
        scores: (B, N) item scores, -inf where a row has fewer than N items.
        num_selected: K.
        num_selections: M.
        generators: B random generators on the CPU, one a question, so that a draw does not depend on the batch.

    Returns:
        (B, M, K) int64.
    """
    uniform = torch.zeros(len(scores), num_selections, scores.shape[-1], dtype=torch.float64)
    sizes = (scores > float("-inf")).sum(-1).tolist()
    for row, size, generator in zip(uniform, sizes, generators, strict=True):
        # As many numbers as the row has items: the widest row of the batch must not change what the others draw.
        row[:, :size] = torch.rand(num_selections, size, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
    noisy = scores.detach().double()[:, None, :] + noise.to(scores.device)
    return noisy.topk(num_selected, dim=-1).indices


def _positions(segments: Tensor) -> Tensor:
    """Position ids of one row: those of segment 0, and for each other segment those that follow it."""
    index, head = torch.arange(len(segments)), int((segments == 0).sum())
    starts = torch.searchsorted(segments, segments)  # Of each token's own segment.
    return index - starts + head * (segments > 0)


@dataclass
class ScoringInputs:
    """Encoded prompts. B questions, L tokens, N items."""

    input_ids: Tensor
    """(B, L) int64, padded on the right."""
    position_ids: Tensor
    """(B, L) int64."""
    segments: Tensor
    """(B, L) int64: `PADDING`, 0 for what every passage sees, i + 1 for what passage i alone sees."""
    logits_to_keep: Tensor
    """(B, L) bool: where scores are read."""
    item_mask: Tensor
    """(B, N) bool: False where a row has fewer than N candidates."""
    prior: Tensor
    """(B, N) float32, added to the item scores."""

    def to(self, device: torch.device) -> "ScoringInputs":
        """Return the inputs on another device."""
        return ScoringInputs(**{name: value.to(device) for name, value in vars(self).items()})


class PlackettLucePolicy:
    """Draws K passages without replacement, in proportion to the exponential of their item scores.

    Args:
        tokenizer: The selector's fast tokenizer.
        num_selected: K, the number of passages in a selection.
        item_score: `"pointwise"` reads the logit of " yes" minus that of " no" after each passage, which sees the
            question and itself, so that scores do not depend on the candidates' order; `"passage_end"` reads it with
            the passages before it in view as well; `"identifier"` reads the logits of single-letter identifiers at
            the end of a listwise prompt (FIRST, Reddy et al., 2024), for at most 52 candidates.
        retriever_prior: Weight of the retriever's own score, standardised within the row, added to each item score.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_selected: int = 5,
        item_score: Literal["pointwise", "passage_end", "identifier"] = "pointwise",
        retriever_prior: float = 0.0,
    ) -> None:
        if item_score not in ("pointwise", "passage_end", "identifier"):
            raise ValueError(f"item_score={item_score!r} is unknown; use 'pointwise', 'passage_end' or 'identifier'")
        self.tokenizer = tokenizer
        self.num_selected = num_selected
        self.item_score = item_score
        self.retriever_prior = retriever_prior
        if item_score == "identifier":
            self.token_ids = torch.tensor([self._token(prompts.CHOICE, letter) for letter in IDENTIFIERS])
        else:
            self.token_ids = torch.tensor([self._token(prompts.USEFUL, text) for text in (" yes", " no")])

    def _token(self, stem: str, text: str) -> int:
        ids = prompts.continuation_ids(self.tokenizer, stem, text)
        if len(ids) != 1:
            raise ValueError(
                f"the tokenizer splits {text!r} after {stem!r} into {len(ids)} tokens, but item_score="
                f"{self.item_score!r} needs one; use AutoregressivePolicy with this tokenizer"
            )
        return ids[0]

    def encode(self, rows: Sequence[Question]) -> ScoringInputs:
        """Encode the prompt of each row; see `SelectionPolicy.encode`.

        Raises:
            ValueError: If a row has fewer than K candidates, or more than there are identifiers.
        """
        check_candidates(rows, self.num_selected)
        encoded = [
            self._encode_identifiers(row) if self.item_score == "identifier" else self._encode_passages(row)
            for row in rows
        ]
        input_ids = pad_sequence([torch.tensor(ids) for ids, _, _ in encoded], batch_first=True)
        logits_to_keep = torch.zeros_like(input_ids, dtype=torch.bool)
        for b, (_, _, scored) in enumerate(encoded):
            logits_to_keep[b, scored] = True
        segments = pad_sequence([segments for _, segments, _ in encoded], batch_first=True, padding_value=PADDING)
        sizes = torch.tensor([len(row["candidates"]) for row in rows])
        return ScoringInputs(
            input_ids,
            pad_sequence([_positions(segments) for _, segments, _ in encoded], batch_first=True),
            segments,
            logits_to_keep,
            item_mask=torch.arange(int(sizes.max())) < sizes[:, None],
            prior=pad_sequence([self._prior(row) for row in rows], batch_first=True),
        )

    def _encode_passages(self, row: Question) -> tuple[list[int], Tensor, list[int]]:
        """Token ids, their segments, and the tokens after which a score is read."""
        text, spans = prompts.scoring_prompt(row["question"], row["candidates"])
        rendered = prompts.render(self.tokenizer, text)
        shift = rendered.index(text)
        if self.item_score == "passage_end":
            ids, scored = prompts.encode_with_ends(self.tokenizer, rendered, [shift + end for _, end in spans])
            return ids, torch.zeros(len(ids), dtype=torch.int64), scored
        head = prompts.encode(self.tokenizer, rendered[: shift + spans[0][0]])
        pieces = [prompts.encode(self.tokenizer, text[start:end]) for start, end in spans]
        lengths = torch.tensor([len(head), *map(len, pieces)])
        segments = torch.arange(len(lengths)).repeat_interleave(lengths)
        return [*head, *itertools.chain(*pieces)], segments, (lengths.cumsum(0)[1:] - 1).tolist()

    def _encode_identifiers(self, row: Question) -> tuple[list[int], Tensor, list[int]]:
        candidates = row["candidates"]
        if len(candidates) > len(IDENTIFIERS):
            raise ValueError(
                f"question {row['question']!r} has {len(candidates)} candidates, but item_score='identifier' has "
                f"{len(IDENTIFIERS)} letters; use another item_score or fewer candidates"
            )
        text = prompts.ranking_prompt(row["question"], candidates, IDENTIFIERS[: len(candidates)])
        ids = prompts.encode(self.tokenizer, prompts.render(self.tokenizer, text, lead=prompts.CHOICE))
        return ids, torch.zeros(len(ids), dtype=torch.int64), [len(ids) - 1]

    def _prior(self, row: Question) -> Tensor:
        scores = torch.tensor([passage["score"] for passage in row["candidates"]], dtype=torch.float32)
        if self.retriever_prior == 0:
            return torch.zeros_like(scores)
        return self.retriever_prior * (scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-6)

    def item_scores(self, model: nn.Module, inputs: ScoringInputs) -> Tensor:
        """Return the item scores in float32, (B, N), -inf where a row has fewer candidates. One forward pass."""
        separate: dict[str, Any] = {}
        if inputs.segments.max() > 0:  # Otherwise plain causal attention: no mask, since padding comes last.
            segments, positions = inputs.segments, inputs.position_ids
            mask = attention_mask(model, segments, positions, segments, positions)
            separate = {"attention_mask": mask, "position_ids": positions}
        logits = model(
            input_ids=inputs.input_ids, logits_to_keep=inputs.logits_to_keep, use_cache=False, **separate
        ).logits.float()
        token_ids = self.token_ids.to(logits.device)
        scores = inputs.prior.new_full(inputs.item_mask.shape, float("-inf"))
        if self.item_score == "identifier":
            scores = torch.where(inputs.item_mask, logits[:, token_ids[: scores.shape[-1]]], scores)
        else:
            yes, no = logits[:, token_ids].unbind(-1)
            scores = scores.masked_scatter(inputs.item_mask, yes - no)
        return scores + inputs.prior

    def sample(
        self,
        model: nn.Module,
        inputs: ScoringInputs,
        num_selections: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
    ) -> SelectionSample:
        """Draw selections by Gumbel top-K; see `SelectionPolicy.sample`."""
        scores = self.item_scores(model, inputs)
        selections = gumbel_top_k(scores / temperature, self.num_selected, num_selections, generators)
        logps, entropies = plackett_luce_logps(scores, selections)
        behavior_logps, _ = plackett_luce_logps(scores.detach() / temperature, selections)
        return SelectionSample(logps, entropies.mean(-1), selections, behavior_logps)

    def logps(self, model: nn.Module, inputs: ScoringInputs, selections: Tensor) -> SelectionLogps:
        """Return the log-probabilities of given selections; see `SelectionPolicy.logps`."""
        logps, entropies = plackett_luce_logps(self.item_scores(model, inputs), selections)
        return SelectionLogps(logps, entropies.mean(-1))

    @torch.no_grad()
    def best(self, model: nn.Module, inputs: ScoringInputs) -> tuple[Tensor, Tensor]:
        """Return the K items of the highest scores, best first, and their scores, both (B, K)."""
        top = self.item_scores(model, inputs).topk(self.num_selected, dim=-1)
        return top.indices, top.values
