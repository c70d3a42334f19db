"""The paper's policy: the selector writes `[3] > [1] > ...`, constrained to the passages still available.

A choice follows the trie of the available passages' texts. Where the trie does not branch the text is forced and has
probability 1; where it does, the model's distribution is renormalised over the branches. The prompt is computed once
for all M selections: sampling keeps it in one key-value cache, the training pass packs the selections behind it.
"""

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dro_trl.lm import encoding, prompts
from dro_trl.lm.attention import blocks_of
from dro_trl.lm.logps import kept_logits
from dro_trl.lm.modes import computes_alike, keeping_a_cache
from dro_trl.lm.packing import SharedPromptBatch, pack, padded
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
from dro_trl.policies.prompt_cache import PromptCache, Written, read_nothing
from dro_trl.types import Question, Selection

TOKENS_OF_A_CHOICE = 4
"""About; of " > [3]"."""

Place = tuple[int, int]
"""The numbers of a question and of one of its selections."""
Choice = Callable[[list[Place], Tensor], list[int]]
"""Picks a branch for each of n selections from the (n, A) float64 logits of those that it has, -inf where fewer."""


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
        self.begun = 0
        """How many of the tokens were read as a part of the prompt."""
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

    @property
    def open(self) -> list[int]:
        """The tokens that were chosen."""
        return [i for i, allowed in enumerate(self.allowed) if len(allowed) > 1]

    def written(self, number: int, behind: int, start: int, end: int) -> list[Written]:
        """Return the tokens from `start` to `end` as they are read, with logits wherever a choice follows.

        Args:
            number: Of this selection.
            behind: Tokens of the prompt, and of the beginning that was read with it.
            start: The first token.
            end: The one after the last.
        """
        after = {i - 1 for i in self.open} | ({len(self.tokens) - 1} if self.branches else set())
        tokens = enumerate(self.tokens[start:end], start)
        return [Written(number + 1, behind + i - self.begun, token, i in after) for i, token in tokens]

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

        With gradient, the prompt is read once with it; the choices are drawn behind that without, and their
        log-probabilities come from one pass over all selections behind the same. Where a model in training does not
        compute what it does in evaluation (dropout), or keeps no keys (activation checkpointing), they come from a
        pass that reads the prompt again.
        """
        shape = len(inputs.prompt_ids), num_selections
        behavior, logps, entropies = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))

        def draw(open_: list[Place], logits: Tensor) -> list[int]:
            log_probs = (logits / temperature).log_softmax(-1)
            counts = Counter(row for row, _ in open_)
            uniform = [torch.rand(n, 1, generator=generators[row], dtype=torch.float64) for row, n in counts.items()]
            below = (log_probs.exp().cumsum(-1) < torch.cat(uniform)).sum(-1, keepdim=True)
            index = below.minimum((logits > float("-inf")).sum(-1, keepdim=True) - 1)
            untempered = logits.log_softmax(-1)
            rows, columns = torch.tensor(open_).unbind(1)
            behavior[rows, columns] += log_probs.gather(1, index)[:, 0]
            logps[rows, columns] += untempered.gather(1, index)[:, 0]
            possible = untempered.masked_fill(untempered == float("-inf"), 0.0)
            entropies[rows, columns] -= (untempered.exp() * possible).sum(-1)
            found: list[int] = index[:, 0].tolist()
            return found

        paths = self._blank_paths(inputs, num_selections)
        in_one_pass = torch.is_grad_enabled() and computes_alike(model)
        cache = self._read_prompts(model, inputs, paths) if in_one_pass else None
        self._write(model, inputs, paths, draw, cache)
        selections = torch.tensor([[path.selection for path in row] for row in paths], device=inputs.device)
        drawn, entropy, log_q = (v.float().to(inputs.device) for v in (logps, entropies.mean(-1), behavior))
        if torch.is_grad_enabled():
            scored = self._scored_behind(model, cache, paths) if cache else self.logps(model, inputs, selections)
            drawn, entropy = scored.logps, scored.entropy
        return SelectionSample(drawn, entropy, selections, log_q)

    def best(self, model: nn.Module, inputs: RankingInputs) -> tuple[Tensor, Tensor]:
        """Return the greedy selection and the log-probability of each of its choices, both (B, K)."""

        def take_likeliest(open_: list[Place], logits: Tensor) -> list[int]:
            likeliest: list[int] = logits.argmax(-1).tolist()
            return likeliest

        paths = self._blank_paths(inputs, 1)
        self._write(model, inputs, paths, take_likeliest)
        selections = torch.tensor([[path.selection for path in row] for row in paths], device=inputs.device)
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
        if not any(path.open for row in paths for path in row):  # N = K = 1: there is nothing to choose.
            shape = selections.shape
            return torch.zeros(shape, device=inputs.device), torch.zeros(shape[:2], device=inputs.device)
        batch = self._packed(inputs, paths)
        return self._chosen(kept_logits(model, batch), batch.sources[batch.target_mask], paths)

    def _chosen(self, logits: Tensor, rows: Tensor, paths: list[list[Path]]) -> tuple[Tensor, Tensor]:
        """The same from the logits of each open token of each path in order: those of `rows` of `logits`."""
        device, shape = logits.device, (len(paths), len(paths[0]), self.num_selected)
        flat = [path for row in paths for path in row]
        chosen = torch.tensor([path.allowed[i].index(path.tokens[i]) for path in flat for i in path.open])
        owner = torch.tensor([number for number, path in enumerate(flat) for _ in path.open])
        steps = torch.tensor([k for path in flat for k in self._steps(path)])
        allowed = padded([path.allowed[i] for path in flat for i in path.open], padding=-1).to(device)
        chosen, owner, steps = chosen.to(device), owner.to(device), steps.to(device)
        # The branches' logits alone, and not a copy of a row of the vocabulary for each.
        options = logits[rows[:, None], allowed.clamp(min=0)].float().masked_fill(allowed < 0, float("-inf"))
        log_probs = options.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs.masked_fill(allowed < 0, 0.0)).sum(-1)
        found = log_probs.gather(1, chosen[:, None])[:, 0]
        choices = found.new_zeros(math.prod(shape)).index_add(0, owner * shape[2] + steps, found)
        return choices.view(shape), entropy.new_zeros(len(flat)).index_add(0, owner, entropy).view(shape[:2])

    def _steps(self, path: Path) -> list[int]:
        """The number of the choice that each open token of a path belongs to."""
        lengths = [len(self.choice_ids(item, first=k == 0)) for k, item in enumerate(path.selection)]
        ends = list(itertools.accumulate(lengths))
        return [bisect.bisect_right(ends, i) for i in path.open]

    def _blank_paths(self, inputs: RankingInputs, num_selections: int) -> list[list[Path]]:
        """Paths of M selections for each question, with the text that all of them begin with."""
        paths = [[Path(self, n) for _ in range(num_selections)] for n in inputs.num_candidates]
        for path in (path for row in paths for path in row):
            path.skip_forced()
            path.begun = len(path.tokens)
        return paths

    @staticmethod
    def _read_prompts(model: nn.Module, inputs: RankingInputs, paths: list[list[Path]]) -> PromptCache:
        """Read each prompt up to the first choice."""
        prompts = [[*ids, *row[0].tokens] for ids, row in zip(inputs.prompt_ids, paths, strict=True)]
        return PromptCache(model, prompts, inputs.longest, inputs.device)

    def _scored_behind(self, model: nn.Module, cache: PromptCache, paths: list[list[Path]]) -> SelectionLogps:
        """The log-probabilities of drawn selections from one pass behind the prompts that they were drawn from."""
        cache.rewind()
        texts: list[list[Written]] = []
        rows, kept = [], len(paths)
        for b, row in enumerate(paths):
            texts.append([])
            for m, path in enumerate(row):
                # What comes after the last choice predicts nothing.
                texts[b] += path.written(m, cache.lengths[b], path.begun, path.open[-1] if path.open else 0)
                later = sum(i > path.begun for i in path.open)
                rows += [b] * (len(path.open) - later) + list(range(kept, kept + later))
                kept += later
        logits = [cache.logits]
        if most_forwards(model, int(any(texts))):
            logits.append(cache.read(texts) if any(texts) else 0 * read_nothing(model, cache.logits.device))
        joined = torch.cat(logits)
        if not rows:  # Every process has to go back through what it read, whatever it has to choose.
            return SelectionLogps(joined.new_zeros(len(paths), len(paths[0])) + 0 * joined.sum(), 0 * joined.sum(-1))
        choices, entropies = self._chosen(joined, torch.tensor(rows, device=joined.device), paths)
        return SelectionLogps(choices.sum(-1), entropies.mean(-1))

    @torch.no_grad()
    def _write(
        self,
        model: nn.Module,
        inputs: RankingInputs,
        paths: list[list[Path]],
        choose: Choice,
        cache: PromptCache | None = None,
    ) -> None:
        """Write all selections behind their prompts, in one forward pass per open choice."""
        with keeping_a_cache(model):
            cache = cache or self._read_prompts(model, inputs, paths)
            logits, row_of = cache.logits, {(b, m): b for b, row in enumerate(paths) for m in range(len(row))}
            fed = {place: paths[place[0]][place[1]].begun for place in row_of}
            while True:
                open_ = [place for place in row_of if paths[place[0]][place[1]].branches]
                self._choose(paths, open_, logits, row_of, choose)
                pending = [place for place in open_ if paths[place[0]][place[1]].branches]
                if not most_forwards(model, len(pending)):
                    break
                if not pending:  # Another process has something to compute, and cannot without this one.
                    read_nothing(model, inputs.device)
                    continue
                texts: list[list[Written]] = [[] for _ in paths]
                for b, m in pending:
                    texts[b] += paths[b][m].written(m, cache.lengths[b], fed[b, m], len(paths[b][m].tokens))
                    fed[b, m] = len(paths[b][m].tokens)
                logits = cache.read(texts)
                row_of |= {place: number for number, place in enumerate(pending)}

    @staticmethod
    def _choose(
        paths: list[list[Path]], open_: list[Place], logits: Tensor, row_of: dict[Place, int], choose: Choice
    ) -> None:
        """Go on with every selection that is not finished: by a choice, and the text that follows from it."""
        if not open_:
            return
        branches = [paths[b][m].branches for b, m in open_]
        allowed = padded(branches, padding=-1).to(logits.device)
        rows = torch.tensor([row_of[place] for place in open_], device=logits.device)
        options = logits[rows[:, None], allowed.clamp(min=0)].masked_fill(allowed < 0, float("-inf"))
        for (b, m), tokens, index in zip(open_, branches, choose(open_, options.double().cpu()), strict=True):
            paths[b][m].push(tokens[index])
            paths[b][m].skip_forced()
