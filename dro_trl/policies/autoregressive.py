"""The paper's policy: the selector writes `[3] > [1] > ...`, constrained to the passages still available.

A choice follows the trie of the available passages' texts. Where the trie does not branch the text is forced and has
probability 1; where it does, the model's distribution is renormalised over the branches. The prompt is computed once
for all M selections: sampling keeps it in one key-value cache, the training pass packs the selections behind it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from dro_trl.lm import encoding, prompts
from dro_trl.lm.attention import PADDING, attention_mask, blocks_of
from dro_trl.lm.logps import kept_logits
from dro_trl.lm.older_versions import forward_keeping
from dro_trl.lm.packing import SharedPromptBatch, pack
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.sharding import most_forwards
from dro_trl.lm.tokens import Tokenizer
from dro_trl.policies.base import (
    Reading,
    SelectionLogps,
    SelectionPolicy,
    SelectionSample,
    StatedReading,
    check_candidates,
)
from dro_trl.types import Question, Selection

TOKENS_OF_A_CHOICE = 4
"""About; of " > [3]"."""

Choice = Callable[[int, int, list[int], Tensor], int]
"""Picks a branch: (row, selection, allowed token ids, their logits) -> index among the allowed."""


@dataclass
class RankingInputs:
    """Encoded listwise prompts of B questions."""

    prompt_ids: list[list[int]]
    num_candidates: list[int]
    longest: int
    """Tokens of the longest prompt with the longest selection that can be written behind it."""
    device: torch.device = torch.device("cpu")

    def to(self, device: torch.device) -> "RankingInputs":
        """Return the inputs for another device."""
        return RankingInputs(self.prompt_ids, self.num_candidates, self.longest, device)


class Path:
    """The tokens of one selection while it is being written, and the choices the trie left open on the way."""

    def __init__(self, policy: "AutoregressivePolicy", num_candidates: int) -> None:
        self._policy = policy
        self._num_candidates = num_candidates
        self.selection: Selection = []
        self.tokens: list[int] = []
        self.allowed: list[list[int]] = []
        """For each token, the branches it was chosen from; a single one where the text was forced."""
        self._begin()

    def _begin(self) -> None:
        first = not self.selection
        items = (i for i in range(self._num_candidates) if i not in self.selection)
        self._open = {i: self._policy.choice_ids(i, first) for i in items}
        self._depth = 0

    @property
    def branches(self) -> list[int]:
        """The tokens that may come next, none when the selection is complete."""
        if len(self.selection) == self._policy.num_selected:
            return []
        return sorted({ids[self._depth] for ids in self._open.values()})

    def push(self, token: int) -> None:
        """Write one of the branches."""
        self.allowed.append(self.branches)
        self.tokens.append(token)
        self._open = {i: ids for i, ids in self._open.items() if ids[self._depth] == token}
        self._depth += 1
        finished = [i for i, ids in self._open.items() if len(ids) == self._depth]
        if finished:
            self.selection.append(finished[0])
            self._begin()

    def skip_forced(self) -> None:
        """Write everything that has no alternative."""
        while len(self.branches) == 1:
            self.push(self.branches[0])

    @classmethod
    def of(cls, policy: "AutoregressivePolicy", num_candidates: int, selection: Selection) -> "Path":
        """Return the path that writes a given selection."""
        path = cls(policy, num_candidates)
        for k, item in enumerate(selection):
            for token in policy.choice_ids(item, first=k == 0):
                path.push(token)
        return path


class AutoregressivePolicy(SelectionPolicy):
    """Writes K identifiers one after the other, each choice given those before it (DRO, section 3).

    Args:
        tokenizer: The selector's tokenizer.
        num_selected: K, the number of passages in a selection.
        texts: The words of the prompt.
    """

    writes = True

    def __init__(self, tokenizer: Tokenizer, num_selected: int = 5, texts: PromptTexts = DEFAULT) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.num_selected = num_selected
        self._choice_ids: dict[tuple[int, bool], list[int]] = {}

    def choice_ids(self, item: int, first: bool) -> list[int]:
        """Return the tokens that write a passage's identifier, and the separator before it unless it is the first."""
        if (item, first) not in self._choice_ids:
            stem, text = (self.texts.ranking, f" [{item + 1}]") if first else ("[1]", f" > [{item + 1}]")
            self._choice_ids[item, first] = encoding.continuation_ids(self.tokenizer, stem, text)
        return self._choice_ids[item, first]

    def encode(self, rows: Sequence[Question]) -> RankingInputs:
        """Encode the prompt of each row; see `SelectionPolicy.encode`.

        Raises:
            ValueError: If a row has fewer than K candidates.
        """
        check_candidates(rows, self.num_selected)
        prompt_ids = encoding.encode_all(self.tokenizer, [self.prompt(row) for row in rows])
        sizes = [len(row["candidates"]) for row in rows]
        written = self.num_selected * max(len(self.choice_ids(item, False)) for item in range(max(sizes)))
        return RankingInputs(prompt_ids, sizes, max(map(len, prompt_ids)) + written)

    def prompt(self, row: Question) -> str:
        """Return the listwise prompt that the selector continues with `[3] > [1]`, special tokens included."""
        names = [str(i + 1) for i in range(len(row["candidates"]))]
        text = prompts.ranking_prompt(row["question"], row["candidates"], names, self.texts)
        return encoding.render(self.tokenizer, text, self.texts.ranking)

    def sample(
        self,
        model: nn.Module,
        inputs: RankingInputs,
        num_selections: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
    ) -> SelectionSample:
        """Draw selections choice by choice; see `SelectionPolicy.sample`.

        With gradient, their log-probabilities come from one more pass with all of them behind the prompt.
        """
        shape = len(inputs.prompt_ids), num_selections
        behavior, logps, entropies = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))

        def draw(row: int, m: int, allowed: list[int], logits: Tensor) -> int:
            log_probs = (logits.double() / temperature).log_softmax(-1)
            uniform = torch.rand((), generator=generators[row], dtype=torch.float64)
            index = min(int((log_probs.exp().cumsum(-1) < uniform).sum()), len(allowed) - 1)
            behavior[row, m] += log_probs[index]
            untempered = logits.double().log_softmax(-1)
            logps[row, m] += untempered[index]
            entropies[row, m] -= (untempered.exp() * untempered).sum()
            return index

        with _keeping_a_cache(model):
            selections = self._write(model, inputs, num_selections, draw)
        drawn, entropy, log_q = (v.float().to(inputs.device) for v in (logps, entropies.mean(-1), behavior))
        if torch.is_grad_enabled():
            scored = self.logps(model, inputs, selections)
            drawn, entropy = scored.logps, scored.entropy
        return SelectionSample(drawn, entropy, selections, log_q)

    def best(self, model: nn.Module, inputs: RankingInputs) -> tuple[Tensor, Tensor]:
        """Return the greedy selection and the log-probability of each of its choices, both (B, K)."""

        def take_likeliest(row: int, m: int, allowed: list[int], logits: Tensor) -> int:
            return int(logits.argmax())

        with _keeping_a_cache(model):
            selections = self._write(model, inputs, 1, take_likeliest)
        with torch.no_grad():
            choices, _ = self._choice_logps(model, inputs, selections)
        return selections[:, 0], choices[:, 0]

    def logps(self, model: nn.Module, inputs: RankingInputs, selections: Tensor) -> SelectionLogps:
        """Return the log-probabilities of given selections, one forward pass; see `SelectionPolicy.logps`."""
        choices, entropies = self._choice_logps(model, inputs, selections)
        return SelectionLogps(choices.sum(-1), entropies.mean(-1))

    def packed(self, inputs: RankingInputs, selections: Tensor) -> SharedPromptBatch:
        """Return the prompts with the selections behind them; see `SelectionPolicy.packed`."""
        return self._packed(inputs, self._paths(inputs, selections))

    @classmethod
    def stated_reading(cls, stated: StatedReading, **kwargs: Any) -> Reading:
        """Return the tokens of a listwise prompt and its selections; see `SelectionPolicy.stated_reading`."""
        prompt = stated.num_candidates * stated.passage + stated.question
        written, m = stated.num_selected * TOKENS_OF_A_CHOICE, stated.num_selections
        blocks = blocks_of([prompt], [[written] * m])
        return Reading(prompt + m * written, m * stated.num_selected, 1, blocks)

    def _paths(self, inputs: RankingInputs, selections: Tensor) -> list[list[Path]]:
        return [
            [Path.of(self, n, selection) for selection in row]
            for n, row in zip(inputs.num_candidates, selections.tolist(), strict=True)
        ]

    @staticmethod
    def _packed(inputs: RankingInputs, paths: list[list[Path]]) -> SharedPromptBatch:
        open_ = [[[len(allowed) > 1 for allowed in path.allowed] for path in row] for row in paths]
        return pack(inputs.prompt_ids, [[path.tokens for path in row] for row in paths], open_).to(inputs.device)

    def _choice_logps(self, model: nn.Module, inputs: RankingInputs, selections: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probability of each choice, (B, M, K), and the entropy along each selection, (B, M)."""
        paths = self._paths(inputs, selections)
        batch = self._packed(inputs, paths)
        branches = [torch.tensor(a) for row in paths for path in row for a in path.allowed if len(a) > 1]
        steps = torch.tensor(
            [k for row in paths for path in row for k, flags in self._steps(path) for is_open in flags if is_open]
        )
        shape = selections.shape
        if not branches:  # N = K = 1: there is nothing to choose.
            return torch.zeros(shape, device=inputs.device), torch.zeros(shape[:2], device=inputs.device)
        allowed_ids = pad_sequence(branches, batch_first=True, padding_value=-1).to(inputs.device)
        logits = kept_logits(model, batch)[batch.sources[batch.target_mask]]
        options = logits.gather(-1, allowed_ids.clamp(min=0)).float().masked_fill(allowed_ids < 0, float("-inf"))
        log_probs = options.log_softmax(-1)
        hit = allowed_ids == batch.targets[batch.target_mask][:, None]
        chosen = log_probs.masked_fill(~hit, 0.0).sum(-1)
        entropy = -(log_probs.exp() * log_probs.masked_fill(allowed_ids < 0, 0.0)).sum(-1)
        owner = batch.target_mask.nonzero()[:, 0] * shape[1] + batch.target_mask.nonzero()[:, 1]
        choices = chosen.new_zeros(shape.numel()).index_add(0, owner * shape[2] + steps.to(owner), chosen)
        return choices.view(shape), entropy.new_zeros(shape[:2].numel()).index_add(0, owner, entropy).view(shape[:2])

    def _steps(self, path: Path) -> list[tuple[int, list[bool]]]:
        """For each choice of a path, which of its tokens were open."""
        steps, start = [], 0
        for k, item in enumerate(path.selection):
            end = start + len(self.choice_ids(item, first=k == 0))
            steps.append((k, [len(allowed) > 1 for allowed in path.allowed[start:end]]))
            start = end
        return steps

    @torch.no_grad()
    def _write(self, model: nn.Module, inputs: RankingInputs, num_selections: int, choose: Choice) -> Tensor:
        """Write M selections for each prompt, all of them in one forward pass per open choice."""
        cache = _PromptCache(model, inputs)
        paths = [[Path(self, n) for _ in range(num_selections)] for n in inputs.num_candidates]
        fed = [[0] * num_selections for _ in paths]
        while True:
            for path in (path for row in paths for path in row):
                path.skip_forced()
            pending = [
                [path.tokens[start:] if path.branches else [] for path, start in zip(row, starts, strict=True)]
                for row, starts in zip(paths, fed, strict=True)
            ]
            if not most_forwards(model, int(any(path.branches for row in paths for path in row))):
                break
            cache.feed(pending, fed)
            for b, row in enumerate(paths):
                for m, path in enumerate(row):
                    if path.branches:
                        fed[b][m] = len(path.tokens)
                        allowed = path.branches
                        logits = cache.last_logits(b, m)[torch.tensor(allowed, device=inputs.device)].cpu()
                        path.push(allowed[choose(b, m, allowed, logits)])
        return torch.tensor([[path.selection for path in row] for row in paths], device=inputs.device)


@contextlib.contextmanager
def _keeping_a_cache(model: nn.Module) -> Iterator[None]:
    """Evaluation mode: layers with gradient checkpointing drop the cache in training mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class _PromptCache:
    """The keys and values of each prompt, once, and of the tokens of its selections behind it."""

    def __init__(self, model: nn.Module, inputs: RankingInputs) -> None:
        self._model = model
        self._cache = DynamicCache()  # Without a config it keeps every token; the mask alone knows of windows.
        self._lengths = torch.tensor([len(ids) for ids in inputs.prompt_ids], device=inputs.device)
        input_ids = pad_sequence([torch.tensor(ids) for ids in inputs.prompt_ids], batch_first=True).to(inputs.device)
        columns = torch.arange(input_ids.shape[1], device=inputs.device).expand_as(input_ids)
        self._segments = torch.where(columns < self._lengths[:, None], 0, PADDING)
        self._positions = columns
        output = forward_keeping(
            model,
            input_ids=input_ids,
            logits_to_keep=(self._lengths - 1)[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._prompt_logits: Tensor = output.logits[:, 0]
        self._logits: Tensor = self._prompt_logits
        self._row_of: dict[tuple[int, int], int] = {}

    def feed(self, tokens: list[list[list[int]]], fed: list[list[int]]) -> None:
        """Compute the new tokens of each selection; those without any are finished, or stand at the prompt's end."""
        flat = [
            (b, m, start + i, token, i == len(new) - 1)
            for b, (row, starts) in enumerate(zip(tokens, fed, strict=True))
            for m, (new, start) in enumerate(zip(row, starts, strict=True))
            for i, token in enumerate(new)
        ]
        if not most_forwards(self._model, len(flat)):
            return
        device = self._lengths.device
        if not flat:  # Another process has something to compute, and cannot without this one.
            self._model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=False)
            return
        rows = [[entry for entry in flat if entry[0] == b] for b in range(len(tokens))]

        def column(index: int, padding: int) -> Tensor:
            values = [torch.tensor([int(entry[index]) for entry in row], dtype=torch.int64) for row in rows]
            return pad_sequence(values, batch_first=True, padding_value=padding).to(device)

        segments = column(1, -2) + 1
        positions = column(2, 0) + self._lengths[:, None]
        last = column(4, 0).bool()
        self._segments = torch.cat([self._segments, segments], dim=1)
        self._positions = torch.cat([self._positions, positions], dim=1)
        output = forward_keeping(
            self._model,
            input_ids=column(3, 0),
            position_ids=positions,
            attention_mask=attention_mask(self._model, segments, positions, self._segments, self._positions),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=last,
        )
        self._logits = output.logits
        ends = [(b, m) for b, m, _, _, is_last in flat if is_last]
        self._row_of = {key: index for index, key in enumerate(ends)}

    def last_logits(self, row: int, selection: int) -> Tensor:
        """Return the logits (V,) after the last token of a selection."""
        if (row, selection) in self._row_of:
            return self._logits[self._row_of[row, selection]]
        return self._prompt_logits[row]
