"""Plackett-Luce over item scores: one forward pass of the prompt gives every selection's probability."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dro_trl.lm.attention import blocks_of
from dro_trl.lm.logps import kept_logits
from dro_trl.lm.packing import SharedPromptBatch
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
from dro_trl.policies.item_scores import ItemScore, ItemScores, ScoringInputs
from dro_trl.policies.randomness import gumbel_noise
from dro_trl.policies.score_weights import ScoreWeights
from dro_trl.policies.stochastic_beams import Step, draw_distinct, repeated
from dro_trl.types import Question

Proposal = Literal["policy", "every_passage", "without_replacement"]


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
    sizes = (scores > float("-inf")).sum(-1).tolist()
    noise = gumbel_noise(sizes, (num_selections, scores.shape[-1]), generators)
    noisy = scores.detach().double()[:, None, :] + noise.to(scores.device)
    return noisy.topk(num_selected, dim=-1).indices


def plackett_luce_step(scores: Tensor) -> Step:
    """Return the log-probabilities of each next choice as `draw_distinct` asks for them.

    Args:
        scores: (B, N) item scores, -inf where a row has fewer than N items.
    """
    scores = scores.detach().double().cpu()

    def step(prefixes: Tensor) -> Tensor:
        left = scores[:, None].expand(-1, prefixes.shape[1], -1).scatter(-1, prefixes, float("-inf"))
        return left.log_softmax(-1)

    return step


def every_item(num_items: Sequence[int], num_selections: int) -> tuple[Tensor, Tensor]:
    """Take every item of each row alike, as a selection of one; the first ones once more where M is no multiple of N.

    Importance weights `p(z) r(z) / q(z)` are then the posterior itself, not an estimate: the sum goes over all z.

    Args:
        num_items: N of each of B rows.
        num_selections: M, at least N.

    Returns:
        Selections, (B, M, 1) int64, and log q(z), the logarithm of the share of the M that are z, (B, M) float32.

    Raises:
        ValueError: If a row has more items than M.
    """
    if max(num_items) > num_selections:
        raise ValueError(
            f"proposal='every_passage' with num_selections={num_selections} and a question of {max(num_items)} "
            f"candidates: set num_selections to {max(num_items)}, or retrieve fewer"
        )
    order, counts = repeated(num_items, num_selections)
    return order[..., None], (counts / num_selections).log()


class PlackettLucePolicy(SelectionPolicy):
    """Draws K passages without replacement, in proportion to the exponential of their item scores.

    Args:
        tokenizer: The selector's fast tokenizer.
        num_selected: K, the number of passages in a selection.
        item_score: Where an item's score comes from. `"pointwise"`: the logit of " yes" minus that of " no" after the
            passage, which sees the question and itself, so that scores do not depend on the candidates' order.
            `"passage_end"`: the same with the passages before it in view as well. `"query_likelihood"`:
            log p(question | passage), which ranks well before any training (Sachan et al., 2022), at the cost of
            the question's tokens, and of logits there, once a passage. `"identifier"`: the logits of single-letter
            identifiers at the end of a listwise prompt (FIRST, Reddy et al., 2024), for at most 52 candidates.
        retriever_prior: Weight of the retriever's own score, standardised within the row, added to each item score.
        score_temperature: What the model's score is divided by before the prior is added. At 1 the first choice under
            `"query_likelihood"` follows p(passage | question), which is often near certain.
        answer_confidence: Weight of the selector's confidence in an answer, added to each item score: minus the
            entropy, in nats, of the token that it would begin the answer with after the passage and the question. With
            `"query_likelihood"`, which reads both, and costs a few tokens more then; not read where None.
        learn_weights: Whether `score_temperature` (as its inverse), `retriever_prior` and `answer_confidence` are
            where training starts, at a rate of their own (`policy_learning_rate`), and not where it stays.
        proposal: What selections are drawn from for training. `"policy"`: from the policy itself. `"every_passage"`,
            for M >= N: nothing is drawn, each passage is a selection of its own whatever K, so that DRO's gradient is
            that of K = 1, exactly (as in RAG-Sequence, Lewis et al., 2020). K are selected afterwards. For
            `loss_type` `"dro"`, `"replug"` and `"emdr2"` without entropy and KL terms: what else there is estimates
            something from draws, and is refused. `"without_replacement"`: from the
            policy, no selection twice, weighed accordingly; M is then the number of distinct selections.
        texts: The words of the prompts; `yes` and `no` stand for " yes" and " no".
    """

    state_pooling = "mean"
    score_weights: ScoreWeights

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_selected: int = 5,
        item_score: ItemScore = "pointwise",
        retriever_prior: float = 0.0,
        score_temperature: float = 1.0,
        answer_confidence: float | None = None,
        learn_weights: bool = False,
        proposal: Proposal = "policy",
        texts: PromptTexts = DEFAULT,
    ) -> None:
        if score_temperature == 0:
            raise ValueError("score_temperature=0 divides the scores by nothing; 1 leaves them as they are")
        if answer_confidence is not None and item_score != "query_likelihood":
            raise ValueError(
                f"answer_confidence={answer_confidence} and item_score={item_score!r}: only 'query_likelihood' reads "
                "the question after each passage; set that, or leave answer_confidence out"
            )
        if proposal not in get_args(Proposal):
            raise ValueError(f"proposal={proposal!r} is unknown; use one of {str(get_args(Proposal))[1:-1]}")
        self.proposal = proposal
        self.tokenizer = tokenizer
        self.texts = texts
        self.num_selected = num_selected
        self.item_score = item_score
        self.scores = ItemScores(tokenizer, item_score, texts, reads_answer=answer_confidence is not None)
        self.score_weights = ScoreWeights(score_temperature, retriever_prior, answer_confidence, learn_weights)

    @property
    def scores_alone(self) -> bool:
        """Whether an item's score, but for the retriever's prior, does not depend on the other candidates."""
        return self.item_score in ("pointwise", "query_likelihood")

    def encode(self, rows: Sequence[Question]) -> ScoringInputs:
        """Encode the prompt of each row; see `SelectionPolicy.encode`.

        Raises:
            ValueError: If a row has fewer than K candidates, or more than there are identifiers.
        """
        check_candidates(rows, self.num_selected)
        return self.scores.inputs(rows, [self.scores.encode(row) for row in rows])

    def questions_of(self, inputs: ScoringInputs) -> Tensor:
        """Return the question that each row is of; see `SelectionPolicy.questions_of`."""
        return inputs.questions

    def packed(self, inputs: ScoringInputs, selections: Tensor) -> SharedPromptBatch:
        """Return what the selector reads, whatever is selected."""
        return inputs.batch

    @classmethod
    def stated_reading(cls, stated: StatedReading, item_score: ItemScore = "pointwise", **kwargs: Any) -> Reading:
        """Return what the selector reads for an `item_score`; see `SelectionPolicy.stated_reading`."""
        n = stated.num_candidates
        if item_score == "query_likelihood":
            return Reading(stated.passage + stated.asked, n * stated.asked, n)
        blocks = blocks_of([stated.question], [[stated.passage] * n]) if item_score == "pointwise" else None
        return Reading(n * stated.passage + stated.question, 1 if item_score == "identifier" else n, 1, blocks)

    def own_scores(self, model: nn.Module, inputs: ScoringInputs) -> list[list[float]]:
        """Return the item scores without the retriever's prior; see `SelectionPolicy.own_scores`."""
        scores = self.item_scores(model, replace(inputs, prior=torch.zeros_like(inputs.prior)))
        return [row[:size] for row, size in zip(scores.tolist(), inputs.sizes, strict=True)]

    def item_scores(self, model: nn.Module, inputs: ScoringInputs) -> Tensor:
        """Return the item scores in float32, (B, N), -inf where a row has fewer candidates. One forward pass."""
        parts = self.scores.read(kept_logits(model, inputs.batch), inputs.batch, inputs.item_mask)
        scores: Tensor = self.score_weights([parts[0], inputs.prior, *parts[1:]])
        return scores.masked_fill(~inputs.item_mask, float("-inf"))

    def sample(
        self,
        model: nn.Module,
        inputs: ScoringInputs,
        num_selections: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
    ) -> SelectionSample:
        """Draw selections by Gumbel top-K or without replacement, or take every passage; see `SelectionPolicy.sample`.

        Raises:
            ValueError: If every passage is to be taken, and there are more of them than selections.
        """
        scores = self.item_scores(model, inputs)
        if self.proposal == "every_passage":
            selections, shares = (part.to(scores.device) for part in every_item(inputs.sizes, num_selections))
            logps, entropies = plackett_luce_logps(scores, selections)
            return SelectionSample(logps, entropies.mean(-1), selections, shares)
        tempered, shape = scores.detach() / temperature, (self.num_selected, num_selections)
        if self.proposal == "without_replacement":
            drawn = draw_distinct(plackett_luce_step(tempered), inputs.sizes, *shape, generators)
            logps, entropies = plackett_luce_logps(scores, drawn.selections.to(scores.device))
            return drawn.sample(logps, entropies.mean(-1))
        selections = gumbel_top_k(tempered, *shape, generators)
        logps, entropies = plackett_luce_logps(scores, selections)
        behavior_logps, _ = plackett_luce_logps(tempered, selections)
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
