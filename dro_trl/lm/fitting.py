"""Whether what rows hold can be read as it is: passages cut to a length, prompts that fit a model, special tokens."""

import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from dro_trl.lm import encoding, prompts
from dro_trl.lm.tokens import Tokenizer, line_tokens
from dro_trl.types import Question

logger = logging.getLogger(__name__)

_STEM = ": "
"""A passage stands behind a label or its title."""


def cut_passages(
    rows: Sequence[Question], tokenizer: Tokenizer, max_tokens: int, known: dict[str, str] | None = None
) -> tuple[list[Question], int]:
    """Cut every candidate's text to as many whole letters as are at most `max_tokens` tokens in a prompt.

    Args:
        rows: Questions with candidates.
        tokenizer: Counts tokens.
        max_tokens: Of the text; a title before it is not counted.
        known: What texts have been cut to before, to which those of these rows are added.

    Returns:
        The rows with the cut candidates, and how many passages were cut.

    Raises:
        ValueError: If the tokenizer does not say where in a text its tokens are.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"max_passage_tokens={max_tokens} needs a tokenizer of the library `tokenizers`, which "
            f"{type(tokenizer).__name__} of {tokenizer.name_or_path!r} is not; leave max_passage_tokens unset"
        )
    short = {} if known is None else known
    texts = list({passage["text"] for row in rows for passage in row["candidates"]} - short.keys())
    for text, spans in zip(texts, _spans(tokenizer, texts), strict=True):
        short[text] = _cut(tokenizer, text, spans, max_tokens) if len(spans) > max_tokens else text
    cut = sum(short[passage["text"]] != passage["text"] for row in rows for passage in row["candidates"])
    return [
        Question(**{**row, "candidates": [{**p, "text": short[p["text"]]} for p in row["candidates"]]}) for row in rows
    ], cut


def _spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Where the tokens of each text begin and end in it."""
    if not texts:
        return []
    stemmed = [f"{_STEM}{text}" for text in texts]
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "split_special_tokens": True}
    found = tokenizer(stemmed, **options)["offset_mapping"]
    shift = len(_STEM)
    return [[(max(start - shift, 0), end - shift) for start, end in spans if end > 1] for spans in found]


def _cut(tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]], max_tokens: int) -> str:
    end = min(spans[max_tokens - 1][1], *(start for start, _ in spans[max_tokens:]))
    while True:
        while 0 < end < len(text) and not _between_letters(text, end):
            end -= 1
        kept = text[:end].rstrip()
        if len(_spans(tokenizer, [kept])[0]) <= max_tokens or end <= 1:
            return kept or next(text[:at] for at in range(1, len(text) + 1) if _between_letters(text, at))
        end = len(kept) - 1


def _between_letters(text: str, at: int) -> bool:
    """Whether no letter is made of characters on both sides: a base and its accents, or the parts of a syllable."""
    before, after = text[max(at - 4, 0) : at], text[at : at + 4]
    apart = unicodedata.normalize("NFC", before) + unicodedata.normalize("NFC", after)
    joined = "\u200d" in before[-1:] + after[:1] or unicodedata.combining(after[:1] or " ")
    return not joined and apart == unicodedata.normalize("NFC", before + after)


def warn_of_special_tokens(rows: Iterable[Question], name: str, tokenizer: Tokenizer) -> None:
    """Say how many questions, answers and passages hold a special token, which is read as the text that it is."""
    tokens = line_tokens(tokenizer)
    found: dict[str, Sequence[str]] = {}
    for row in rows:
        passages = (p["title"] + "\n" + p["text"] for p in row["candidates"])
        found |= {
            text: held for text in (row["question"], *row["answers"], *passages) if (held := tokens.special_in(text))
        }
    if found:
        first = next(iter(found.values()))
        logger.warning(
            f"{name}: {len(found)} texts hold a special token of the tokenizer, such as {first[0]!r}; it is read as "
            "plain text"
        )


def _limit_name(config: Any) -> str:
    """What a configuration calls the number of its positions."""
    return "max_position_embeddings" if hasattr(config, "max_position_embeddings") else "max_seq_len"


def position_limit(model: Any) -> tuple[int | None, bool]:
    """Return how many tokens a model can read, None where no limit is known, and whether it cannot read one more.

    A model with a table of positions, learnt or not, has none beyond its last. One that turns positions into angles
    reads on, without having been trained to. MPT has a table of distances, as long as its `max_seq_len`.
    """
    config = model.config.get_text_config()
    name = _limit_name(config)
    limit = getattr(config, name, None)
    if not isinstance(limit, int) or limit < 1:
        return None, False
    if name == "max_seq_len":
        return limit, True
    words = model.get_input_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not words]
    learnt = any(limit <= table.num_embeddings <= limit + 2 for table in tables)
    angles = any(  # GPT-J and CodeGen work their angles out once, for so many positions.
        name.rpartition(".")[2] == "embed_positions" and limit in buffer.shape
        for name, buffer in model.named_buffers()
    )
    return limit, learnt or angles


def _limit_of(model: Any) -> str:
    config = model.config.get_text_config()
    return f"{_limit_name(config)} of {config.model_type}"


def check_window(selector: Any, inputs: Any) -> None:
    """Refuse a window of candidates whose prompt has more tokens than the selector has positions.

    Args:
        selector: The selector.
        inputs: What its policy made of the window.

    Raises:
        ValueError: If it has more.
    """
    limit, is_learnt = position_limit(selector)
    size = inputs.longest
    if limit is not None and is_learnt and size > limit:
        raise ValueError(
            f"questions: the selector's prompt of a window has {size} tokens, and {_limit_of(selector)} is {limit}; "
            "lower window_size, or set max_passage_tokens"
        )


def check_fit(
    rows: Iterable[Question],
    name: str,
    selector: Any,
    generator: Any,
    policy: Any,
    scorer: Any,
    cut: Callable[[Question], Question] = lambda row: row,
) -> None:
    """Refuse rows whose prompts a model cannot read, and warn of those that it was not trained to read.

    Args:
        rows: Questions with candidates, to be gone through more than once.
        name: What to call them, such as `"train_dataset"`.
        selector: The selector; not looked at where None.
        generator: The generator, likewise.
        policy: Encodes the selector's prompts.
        scorer: Of the generator's prompts and answers, an `AnswerScorer`.
        cut: What is done to a row before it is read; asked for those alone that are long without.

    Raises:
        ValueError: If a prompt has more tokens than a model with learnt positions has of them.
    """
    for role, model in (("selector", selector), ("generator", generator)):
        limit, learnt = position_limit(model) if model is not None else (None, False)
        if limit is None:
            continue
        sizes = {}
        for number, row in enumerate(rows, start=1):
            # A token is a byte or more: what is short in bytes is not encoded for this.
            if _most_bytes(row, policy, role) <= limit:
                continue
            if role == "selector":
                size = policy.encode([cut(row)]).longest
            else:
                size = _generator_size(cut(row), policy.num_selected, scorer)
            if size > limit:
                sizes[number] = size
        if sizes:
            number, size = next(iter(sizes.items()))
            said = f"{name}, row {number}: the {role}'s prompt has {size} tokens, and {_limit_of(model)} is {limit}"
            fewer = "num_candidates" if role == "selector" else "num_selected"
            alone = role == "selector" and policy.scores_alone
            ways = f"set max_passage_tokens{'' if alone else f', or lower {fewer}'}"
            if learnt:
                raise ValueError(f"{said}; {ways}")
            logger.warning(f"{said}: it was not trained on prompts of that length ({len(sizes)} such rows); {ways}")


def _most_bytes(row: Question, policy: Any, role: str) -> int:
    passages = sorted((len(prompts.passage_text(p).encode()) + 40 for p in row["candidates"]), reverse=True)
    if role == "generator":
        passages = passages[: policy.num_selected]
    elif policy.scores_alone:
        passages = passages[:1]
    answer = max((len(answer.encode()) for answer in row["answers"]), default=0)
    return sum(passages) + len(row["question"].encode()) + answer + 1000  # Of instructions and a template.


def _generator_size(row: Question, num_selected: int, scorer: Any) -> int:
    lines = encoding.encode_all(scorer.tokenizer, [prompts.passage_text(p) for p in row["candidates"]])
    longest = sorted(range(len(lines)), key=lambda i: len(lines[i]), reverse=True)[:num_selected]
    return len(scorer.prompt_ids(row, longest)) + max((len(ids) for ids in scorer.alias_ids(row)), default=0)
