"""What the score of a passage is read off, and where the selector reads it."""

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dro_trl.lm import encoding, prompts
from dro_trl.lm.answer_passes import common_length
from dro_trl.lm.logps import chosen_logps
from dro_trl.lm.packing import SharedPromptBatch, pack
from dro_trl.lm.prompts import PromptTexts
from dro_trl.lm.tokens import Tokenizer
from dro_trl.types import Question

IDENTIFIERS = string.ascii_uppercase + string.ascii_lowercase
ANY_TOKEN = 0
"""Stands where a token is predicted but none is given."""

ItemScore = Literal["pointwise", "passage_end", "query_likelihood", "identifier"]


@dataclass
class EncodedRow:
    """A question and its candidates as `pack` takes them."""

    shared: list[int]
    """What all continuations begin with."""
    continuations: list[list[int]]
    """What is read of each candidate; of all of them, in one, where they see one another."""
    scored: list[list[bool]]
    """For each token of each continuation, whether its prediction is read."""
    label: list[int] = field(default_factory=list)
    """With what each candidate begins, where that stands at the end of `shared`."""


@dataclass
class ScoringInputs:
    """Encoded prompts. B questions, N items."""

    batch: SharedPromptBatch
    """What the selector reads; its targets are the tokens at which scores are read."""
    item_mask: Tensor
    """(B, N) bool: False where a row has fewer than N candidates."""
    prior: Tensor
    """(B, N) float32, the retriever's scores, standardised within each row."""

    @property
    def sizes(self) -> list[int]:
        """N of each row."""
        sizes: list[int] = self.item_mask.sum(-1).tolist()
        return sizes

    @property
    def questions(self) -> Tensor:
        """Which question each row that is read is of, (R,) int64."""
        every = torch.arange(len(self.item_mask), device=self.item_mask.device)
        whole = len(self.batch.input_ids) == len(every)
        return every if whole else every.repeat_interleave(self.item_mask.sum(-1))

    @property
    def longest(self) -> int:
        """Tokens from the beginning of a prompt to the end of its longest continuation."""
        return int(self.batch.position_ids.max()) + 1

    def to(self, device: torch.device) -> "ScoringInputs":
        """Return the inputs on another device."""
        return ScoringInputs(self.batch.to(device), self.item_mask.to(device), self.prior.to(device))


def standardised(row: Question) -> Tensor:
    """Return the retriever's scores of a row's candidates, of mean 0 and standard deviation 1, (N,) float32."""
    scores = torch.tensor([passage["score"] for passage in row["candidates"]], dtype=torch.float32)
    return (scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-6)


class ItemScores:
    """Encodes what the selector reads for the scores of a question's candidates, and reads them off its logits.

    Args:
        tokenizer: The selector's.
        item_score: See `PlackettLucePolicy`.
        texts: The words of the prompts.
        reads_answer: Whether the token after the question is read too, with `"query_likelihood"`.
        link_tokens: Of how many of a passage's first tokens the likelihood is read too, with `"pointwise"`.

    Raises:
        ValueError: If the kind of score is unknown, or the tokenizer has no token for what it reads.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        item_score: ItemScore,
        texts: PromptTexts,
        reads_answer: bool = False,
        link_tokens: int = 0,
    ) -> None:
        if item_score not in get_args(ItemScore):
            raise ValueError(f"item_score={item_score!r} is unknown; use one of {str(get_args(ItemScore))[1:-1]}")
        self.tokenizer = tokenizer
        self.item_score = item_score
        self.texts = texts
        self.reads_answer = reads_answer
        self.link_tokens = link_tokens
        if item_score == "identifier":
            self.token_ids = torch.tensor([self._token(texts.choice, letter) for letter in IDENTIFIERS])
        elif item_score != "query_likelihood":
            self.token_ids = torch.tensor([self._token(texts.useful, f" {word}") for word in (texts.yes, texts.no)])

    def _token(self, stem: str, text: str) -> int:
        ids = encoding.continuation_ids(self.tokenizer, stem, text)
        if len(ids) != 1:
            raise ValueError(
                f"the tokenizer splits {text!r} after {stem!r} into {len(ids)} tokens, but item_score="
                f"{self.item_score!r} needs one; use AutoregressivePolicy with this tokenizer"
            )
        return ids[0]

    def encode(self, row: Question) -> EncodedRow:
        """Encode a question with its candidates.

        Raises:
            ValueError: If it has more candidates than there are identifiers.
        """
        encode = {
            "pointwise": self._pointwise,
            "passage_end": self._passage_end,
            "query_likelihood": self._query_likelihood,
            "identifier": self._identifier,
        }[self.item_score]
        return encode(row)

    def inputs(self, rows: Sequence[Question], encoded: Sequence[EncodedRow]) -> ScoringInputs:
        """Put encoded questions into one batch."""
        batch = pack(
            [row.shared for row in encoded],
            [row.continuations for row in encoded],
            [row.scored for row in encoded],
            separate=self.item_score == "query_likelihood",  # Passages share a few words there, no question.
        )
        sizes = torch.tensor([len(row["candidates"]) for row in rows])
        item_mask = torch.arange(int(sizes.max())) < sizes[:, None]
        return ScoringInputs(batch, item_mask, pad_sequence([standardised(row) for row in rows], batch_first=True))

    def chosen(self, row: Question, encoded: EncodedRow) -> list[list[int]]:
        """Return the tokens that stand for each candidate before others, once it was chosen.

        With `"pointwise"` scores a chosen passage is one that the selector found useful; with `"query_likelihood"` one
        more passage above the question.
        """
        if self.item_score == "pointwise":
            (said,) = encoding.encode_all(self.tokenizer, [f" {self.texts.yes}\n"])
            return [[*ids[:-1], *said, *encoded.label] for ids in encoded.continuations]
        lines = [f" {prompts.passage_text(p)}\n{self.texts.passage}" for p in row["candidates"]]
        return encoding.encode_all(self.tokenizer, [encoding.plain(self.tokenizer, line) for line in lines])

    def _rendered(self, row: Question) -> tuple[str, list[tuple[int, int]]]:
        text, spans = prompts.scoring_prompt(row["question"], row["candidates"], self.texts)
        rendered, shift = encoding.render(self.tokenizer, text), encoding.text_start(self.tokenizer)
        return rendered, [(shift + start, shift + end) for start, end in spans]

    def _pointwise(self, row: Question) -> EncodedRow:
        text, spans = self._rendered(row)
        pieces = [text[: spans[0][0]], *(text[start:end] for start, end in spans)]
        shared, *passages = encoding.encode_all(self.tokenizer, pieces)
        if not self.link_tokens:
            return _scored_at_the_end(shared, passages)
        # What all passages begin with is read once, and tells the first token of each of them.
        label = encoding.encode(self.tokenizer, self.texts.passage)
        label = label[: common_length([label, *passages])]
        encoded = _scored_at_the_end([*shared, *label], [ids[len(label) :] for ids in passages])
        for flags in encoded.scored:
            count = min(self.link_tokens, len(flags) - 1)
            flags[:count] = [True] * count
        encoded.label = label
        return encoded

    def _passage_end(self, row: Question) -> EncodedRow:
        text, spans = self._rendered(row)
        ids, ends = encoding.encode_with_ends(self.tokenizer, text, [end for _, end in spans])
        scored = {end + 1 for end in ends}
        flags = [index in scored for index in range(1, len(ids) + 1)]
        return EncodedRow(ids[:1], [[*ids[1:], ANY_TOKEN]], [flags])

    def _query_likelihood(self, row: Question) -> EncodedRow:
        texts = [encoding.render(self.tokenizer, prompts.question_prompt(p, self.texts)) for p in row["candidates"]]
        head = encoding.text_start(self.tokenizer) + len(self.texts.passage)
        asked = encoding.question_ids(self.tokenizer, row["question"], self.texts)
        flags = [True] * len(asked)
        if self.reads_answer:
            ids = encoding.encode(self.tokenizer, f"\n{self.texts.answer}")
            asked, flags = [*asked, *ids, ANY_TOKEN], [*flags, *[False] * len(ids), True]
        shared, *stems = encoding.encode_all(self.tokenizer, [texts[0][:head], *(text[head:] for text in texts)])
        scored = [[False] * len(stem) + flags for stem in stems]
        return EncodedRow(shared, [[*stem, *asked] for stem in stems], scored)

    def _identifier(self, row: Question) -> EncodedRow:
        candidates = row["candidates"]
        if len(candidates) > len(IDENTIFIERS):
            raise ValueError(
                f"question {row['question']!r} has {len(candidates)} candidates, but item_score='identifier' has "
                f"{len(IDENTIFIERS)} letters; use another item_score or fewer candidates, or select by windows "
                "(window_size of RAGPipeline, `dro-trl evaluate` and `dro-trl ask`)"
            )
        text = prompts.ranking_prompt(row["question"], candidates, IDENTIFIERS[: len(candidates)], self.texts)
        ids = encoding.encode(self.tokenizer, encoding.render(self.tokenizer, text, lead=self.texts.choice))
        return _scored_at_the_end(ids[:1], [ids[1:]])

    def read(self, logits: Tensor, batch: SharedPromptBatch, read: Tensor) -> list[Tensor]:
        """Return the scores in float32, and the confidence or the first tokens' log-likelihood where that is read.

        Each is (R, N), 0 where a candidate is not read.

        Args:
            logits: (P, V) at the kept positions of the batch.
            batch: R encoded rows with up to N continuations, or one for all of their candidates.
            read: (R, N) bool, which candidates are read.
        """
        if self.item_score == "query_likelihood":
            found = _question_scores(logits, batch, self.reads_answer)
        else:
            token_ids = self.token_ids.to(batch.input_ids.device)
            asked = _last(batch.target_mask) if self.link_tokens else batch.target_mask
            chosen = logits[batch.sources[asked]][:, token_ids].float()
            if self.item_score == "identifier":
                return [chosen[:, : read.shape[1]]]
            found = [chosen[:, 0] - chosen[:, 1]]
            if self.link_tokens:
                found.append(_summed_logps(logits, batch, batch.target_mask & ~asked))
        zeros = torch.zeros_like(read, dtype=torch.float32)
        return [zeros.masked_scatter(read, part) for part in found]


def _scored_at_the_end(shared: list[int], continuations: Sequence[list[int]]) -> EncodedRow:
    """Read the prediction after the last token of each continuation."""
    flags = [[False] * len(ids) + [True] for ids in continuations]
    return EncodedRow(shared, [[*ids, ANY_TOKEN] for ids in continuations], flags)


def _question_scores(logits: Tensor, batch: SharedPromptBatch, reads_answer: bool) -> list[Tensor]:
    """The log p(question | passage) and, where read, minus the entropy after it, in nats, of all continuations."""
    asked, parts = batch.target_mask, []
    if reads_answer:
        last = _last(asked)
        log_probs = logits[batch.sources[last]].float().log_softmax(-1)
        parts = [(log_probs.exp() * log_probs).sum(-1)]
        asked = asked & ~last
    return [_summed_logps(logits, batch, asked), *parts]


def _last(mask: Tensor) -> Tensor:
    """The last of each continuation's targets, (B, C, T) bool."""
    return mask & ~nn.functional.pad(mask[..., 1:], (0, 1))


def _summed_logps(logits: Tensor, batch: SharedPromptBatch, asked: Tensor) -> Tensor:
    """The log-probability of each continuation's targets in `asked`, (B, C, T) bool, summed; of all continuations."""
    logps = chosen_logps(logits, batch.sources[asked], batch.targets[asked])
    zeros = torch.zeros_like(batch.targets, dtype=logps.dtype)
    return zeros.masked_scatter(asked, logps).sum(-1)[batch.target_mask.any(-1)]
