"""Every text that a model reads or writes: this is the only place where one is put together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from dro_trl.names import nearest
from dro_trl.types import Passage, Selection


@dataclass(frozen=True)
class PromptTexts:
    """The words of the prompts; an instruction is a prompt's first line, or none where empty.

    Raises:
        ValueError: If a text is not one, begins or ends with white space, or a label is empty or has several lines.
    """

    passage: str = "Passage:"
    question: str = "Question:"
    answer: str = "Answer:"
    useful: str = "Useful:"
    yes: str = "yes"
    no: str = "no"
    ranking: str = "The most useful passages, best first:"
    choice: str = "The most useful passage is ["
    generator_instruction: str = ""
    scoring_instruction: str = "Which passages help to answer the question?"
    ranking_instruction: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str) or value != value.strip():
                raise ValueError(f"prompt_texts: {name}={value!r} must be a text without white space at its ends")
            if not name.endswith("_instruction") and len(value.splitlines()) != 1:
                raise ValueError(f"prompt_texts: {name}={value!r} must be one line")


DEFAULT = PromptTexts()


def prompt_texts(given: dict[str, str] | None) -> PromptTexts:
    """Return the texts of which some are given by name.

    Raises:
        ValueError: If there is no text of a name, or one is not valid.
    """
    known = [field.name for field in fields(PromptTexts)]
    for name in given or {}:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"prompt_texts: unknown text {name!r}; {hint}")
    return PromptTexts(**(given or {}))


def passage_text(passage: Passage) -> str:
    """Return `title: text` on one line, or the text alone where it begins with its title or there is none."""
    title, text = " ".join(passage["title"].split()), " ".join(passage["text"].split())
    return text if text.startswith(title) else f"{title}: {text}"


def generator_prompt(question: str, passages: Sequence[Passage], texts: PromptTexts = DEFAULT) -> str:
    """Return what the generator reads: the passages in the selector's order, then the question."""
    context = [f"{texts.passage} {passage_text(passage)}" for passage in passages]
    return _lines(texts.generator_instruction, *context, f"{texts.question} {question.strip()}", texts.answer)


def _lines(instruction: str, *lines: str) -> str:
    return "\n".join([instruction, *lines] if instruction else lines)


def scoring_prompt(
    question: str, candidates: Sequence[Passage], texts: PromptTexts = DEFAULT
) -> tuple[str, list[tuple[int, int]]]:
    """Return a prompt with a `Useful:` after each passage, and the span of each passage with its `Useful:`."""
    text = _lines(texts.scoring_instruction, f"{texts.question} {question.strip()}\n")
    spans = []
    for passage in candidates:
        block = f"{texts.passage} {passage_text(passage)}\n{texts.useful}"
        spans.append((len(text), len(text) + len(block)))
        text += f"{block}\n"
    return text.rstrip("\n"), spans


def question_prompt(passage: Passage, texts: PromptTexts = DEFAULT) -> str:
    """Return a prompt that asks for the question that a passage answers."""
    return f"{texts.passage} {passage_text(passage)}\n{texts.question}"


def ranking_prompt(
    question: str, candidates: Sequence[Passage], identifiers: Sequence[str], texts: PromptTexts = DEFAULT
) -> str:
    """Return the listwise prompt: every passage with its identifier, then the question."""
    lines = [f"[{name}] {passage_text(passage)}" for name, passage in zip(identifiers, candidates, strict=True)]
    return _lines(texts.ranking_instruction, *lines, f"{texts.question} {question.strip()}")


def format_selection(selection: Selection) -> str:
    """Write a selection as the paper does, counting from 1.

    >>> format_selection([2, 0])
    '[3] > [1]'
    """
    return " > ".join(f"[{index + 1}]" for index in selection)


def parse_selection(text: str, num_candidates: int) -> Selection:
    """Read a selection that some other system wrote; no training path needs it.

    >>> parse_selection("[3] > [1] > [3]", 4)
    [2, 0]

    Args:
        text: Free text with identifiers such as `[3]`.
        num_candidates: N; identifiers run from 1 to N.

    Returns:
        The zero-based indices in the order written, each once.

    Raises:
        ValueError: If there is no identifier, or one that is not among the candidates.
    """
    numbers = [int(number) for number in re.findall(r"\[(\d+)\]", text)]
    if not numbers:
        raise ValueError(f"no identifier such as [1] in {text!r}")
    outside = [number for number in numbers if not 1 <= number <= num_candidates]
    if outside:
        raise ValueError(f"{text!r} names [{outside[0]}], but there are {num_candidates} candidates")
    return list(dict.fromkeys(number - 1 for number in numbers))


def clean_answer(text: str) -> str:
    """Return the answer in what a generator wrote: its first line that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
