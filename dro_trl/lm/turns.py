"""What a model reads around a question and its answer: found once, kept with its tokenizer and with what is saved."""

import copy
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

logger = logging.getLogger(__name__)

Chat = Literal["auto", "true", "false"]
USER, ANSWER, THOUGHT = "user-text-0123", "answer-text-4567", "thought-text-89"
"""Stand where texts go in a template that is looked at. Plain words, which no template changes."""
_KEPT = "_dro_turns"


@dataclass(frozen=True)
class Turns:
    """The texts around what a user says and what is answered, special tokens included."""

    before: str
    """Before the user's text: a first special token, a system message, a header."""
    between: str
    """After it and before the answer: where the template puts an assistant message's content, but for `space`."""
    end: str
    """After the answer, up to its first special token; a new line where there is no chat template."""
    chat: bool
    """Whether a chat template made these texts."""
    think: str | None = None
    """In place of `between`, where the model is to think first; None where the template has no place for thoughts."""
    thought_end: str | None = None
    """Between a thought and the answer."""
    thought_mark: str | None = None
    """The beginning of `thought_end` by which a thought that is over is known."""
    space: str = ""
    """Spaces before the answer, with which tokenizers write its first word as one token: they are read with it."""


def find_turns(tokenizer: Any, chat: bool, template_kwargs: Mapping[str, Any] | None = None) -> Turns:
    """Look at what a tokenizer writes around texts, with its chat template or without one.

    The answer begins where the template puts the content of an assistant's message, which need not be where its
    generation prompt ends: reasoning models begin to think there. It ends with the first special token that the
    template writes after it.

    Args:
        tokenizer: A fast tokenizer of transformers.
        chat: Whether to apply its chat template.
        template_kwargs: For the template, such as `{"enable_thinking": False}`.

    Raises:
        ValueError: If there is no chat template, it does not write both texts once, or the tokenizer has no end token.
    """
    if not chat:
        return Turns(before=_first_tokens(tokenizer), between="", end="\n", chat=False)
    kwargs = dict(template_kwargs or {})
    text = _rendered(tokenizer, kwargs)
    before, between, after = _parted(tokenizer, text, USER, ANSWER)
    end = _to_special(tokenizer, after)
    if not after.strip():  # Some models end an answer with what opens the next message.
        following = _rendered(tokenizer, kwargs, more=[{"role": "user", "content": THOUGHT}])
        end = _to_special(tokenizer, following.partition(ANSWER)[2].partition(THOUGHT)[0])
    if end is None or end == tokenizer.bos_token:
        end = after.strip() or tokenizer.eos_token
    if not end:
        raise ValueError(
            f"{_name(tokenizer)}: neither its chat template nor its eos_token says where an answer ends; set the "
            "tokenizer's eos_token"
        )
    think, thought_end = _thinking(tokenizer, kwargs, between)
    mark = thought_end and (_to_special(tokenizer, thought_end) or thought_end).strip()
    stem = between.rstrip(" ")
    return Turns(before, stem, end, True, think, thought_end, mark, space=between[len(stem) :])


def _name(tokenizer: Any) -> str:
    return f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}"


def _first_tokens(tokenizer: Any) -> str:
    """What the tokenizer itself puts before a text: its BOS token, or nothing, whatever `bos_token` says."""
    text = "a"
    plain, whole = (tokenizer(text, add_special_tokens=flag)["input_ids"] for flag in (False, True))
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return "".join(tokenizer.convert_ids_to_tokens(whole[:at]))


def _rendered(tokenizer: Any, kwargs: dict[str, Any], thought: bool = False, more: Collection[Any] = ()) -> str:
    answer = {"role": "assistant", "content": ANSWER}
    if thought:  # Templates differ in what they call it.
        answer |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), THOUGHT)
    messages = [{"role": "user", "content": USER}, answer, *more]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))
    except Exception as error:  # A template is a program: it raises what it likes.
        raise ValueError(
            f"{_name(tokenizer)}: its chat template cannot write a question and an answer ({error}); set chat: false, "
            "or give another template (chat_template_path)"
        ) from error


def _parted(tokenizer: Any, text: str, *marks: str) -> list[str]:
    parts = re.split("|".join(marks), text)
    if re.findall("|".join(marks), text) != list(marks):
        raise ValueError(
            f"{_name(tokenizer)}: its chat template does not write a question and the answer to it, once each; set "
            "chat: false, or give another template (chat_template_path)"
        )
    return parts


def _to_special(tokenizer: Any, text: str) -> str | None:
    """The text up to its first special token, this one included; None where it has none."""
    found = re.search("|".join(map(re.escape, special_tokens(tokenizer))) or r"(?!)", text)
    return text[: found.end()] if found else None


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the special tokens that a text would be given where it holds them, longer ones first."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(filter(None, special | set(tokenizer.all_special_tokens)), key=lambda token: (-len(token), token))


def _thinking(tokenizer: Any, kwargs: dict[str, Any], between: str) -> tuple[str | None, str | None]:
    """What stands before a thought and after it, in place of `between`; None for both where there is no such place."""
    user = [{"role": "user", "content": USER}]
    try:
        text = _rendered(tokenizer, kwargs, thought=True)
        if THOUGHT in text:
            _, think, end, _ = _parted(tokenizer, text, USER, THOUGHT, ANSWER)
            return (think, end) if end.strip() else (None, None)  # Else nothing tells the thought from the answer.
        prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True, **kwargs)
    except Exception:  # A template need not know of thoughts, and it writes a question and its answer.
        return None, None
    opened = re.search(r"<(\w+)>\s*$", prompt)
    if opened is None or between.rstrip().endswith(f"<{opened[1]}>"):  # What opens the answer opens no thought.
        return None, None
    return prompt.partition(USER)[2], f"\n</{opened[1]}>\n\n"


def stop_ids(tokenizer: Any, model: Any = None) -> set[int]:
    """Return the tokens that end what a model writes by itself: those that its tokenizer and its configs name.

    Args:
        tokenizer: The model's.
        model: The model, or its name or folder, whose configs are read without its weights; none where None.
    """
    configs: list[Any] = []
    if isinstance(model, str):
        for kind in (AutoConfig, GenerationConfig):
            try:
                configs.append(kind.from_pretrained(model))
            except (OSError, ValueError):  # There is none, and none is needed.
                continue
    elif model is not None:
        configs = [model.config.get_text_config(), getattr(model, "generation_config", None)]
    found = [tokenizer.eos_token_id, *(getattr(config, "eos_token_id", None) for config in configs)]
    numbers = (number for entry in found for number in (entry if isinstance(entry, list) else [entry]))
    return {number for number in numbers if number is not None}


def set_turns(
    tokenizer: Any,
    chat: Chat = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    template_path: str | None = None,
    model: Any = None,
    role: str = "the model",
) -> Any:
    """Decide what a model reads around texts, say so, and keep it with its tokenizer.

    Args:
        tokenizer: The model's.
        chat: Whether to apply the chat template. `"auto"` applies one that was asked for, and one that fits the model:
            that ends an answer with a token at which the model stops. A base model may come with the template of its
            chat model, and never saw it.
        template_kwargs: For the template.
        template_path: A file with a template (`.jinja`), or the name or folder of a tokenizer that has it.
        model: Says where it stops; see `stop_ids`.
        role: What to call it in the log.

    Returns:
        The tokenizer; a copy where what was given is in use with other texts.

    Raises:
        ValueError: If there is no template to apply, or it cannot be.
    """
    if chat not in get_args(Chat):
        raise ValueError(f"chat={chat!r} is unknown; use one of {str(get_args(Chat))[1:-1]}")
    asked = [name for name, value in (("path", template_path), ("kwargs", template_kwargs)) if value]
    if chat == "false" and asked:
        raise ValueError(f"chat='false' applies no chat template; leave chat_template_{asked[0]} out")
    if template_path is not None:
        tokenizer = copy.copy(tokenizer)
        tokenizer.chat_template = _read_template(template_path)
    if not getattr(tokenizer, "chat_template", None):
        if chat == "true" or asked:
            given = "chat='true'" if chat == "true" else f"chat_template_kwargs={dict(template_kwargs or {})}"
            raise ValueError(f"{given}, but {_name(tokenizer)} has no chat template; give one by chat_template_path")
        turns, why = find_turns(tokenizer, False), "its tokenizer has none"
    elif chat == "false":
        turns, why = find_turns(tokenizer, False), "chat='false'"
    else:
        turns, why = find_turns(tokenizer, True, template_kwargs), f"chat={chat!r}"
        if chat == "auto":
            fits, reason = _fits(tokenizer, turns, model)
            turns = turns if fits or asked else find_turns(tokenizer, False)
            why = f"chat='auto': {f'chat_template_{asked[0]} is given' if asked else reason}"
    logger.warning(f"{role}: prompts are read {'in the' if turns.chat else 'without a'} chat template ({why})")
    return keep_turns(tokenizer, turns)


def _fits(tokenizer: Any, turns: Turns, model: Any) -> tuple[bool, str]:
    """Whether a model stops where a template ends an answer, and what to say of it."""
    stops = [str(token) for token in tokenizer.convert_ids_to_tokens(sorted(stop_ids(tokenizer, model)))]
    if any(turns.end.endswith(stop) for stop in stops):
        return True, f"its template ends an answer with {turns.end.strip()}, and there the model stops"
    return False, (
        f"the one it has ends an answer with {turns.end.strip()}, and the model stops at "
        f"{' '.join(stops) or 'nothing'}, as a base model does; if it is a chat model, set chat: true"
    )


def _read_template(path: str) -> Any:
    if path.endswith((".jinja", ".j2")):
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"chat_template_path={path!r} cannot be read: {error}") from error
    try:
        template = AutoTokenizer.from_pretrained(path).chat_template
    except (OSError, ValueError) as error:
        raise ValueError(
            f"chat_template_path={path!r} is neither a file that ends in .jinja nor a tokenizer"
        ) from error
    if not template:
        raise ValueError(f"chat_template_path={path!r} names a tokenizer without a chat template")
    return template  # Some have several, by name; transformers takes the default one.


def keep_turns(tokenizer: Any, turns: Turns) -> Any:
    """Keep what a model reads around texts with its tokenizer, or a copy of it where it has other turns already."""
    if getattr(tokenizer, _KEPT, turns) != turns:
        tokenizer = copy.copy(tokenizer)
    setattr(tokenizer, _KEPT, turns)
    return tokenizer


def turns_of(tokenizer: Any) -> Turns:
    """Return what is kept with a tokenizer; what `chat="auto"` decides where nothing is yet."""
    if getattr(tokenizer, _KEPT, None) is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        set_turns(tokenizer, model=tokenizer.name_or_path or None, role=name)
    turns: Turns = getattr(tokenizer, _KEPT)
    return turns


def answer_stops(tokenizer: Any, model: Any) -> set[int]:
    """Return the tokens that end an answer: the chat template's, where one is applied, and those of `stop_ids`."""
    turns = turns_of(tokenizer)
    end = tokenizer(turns.end.strip(), add_special_tokens=False)["input_ids"] if turns.chat else []
    return stop_ids(tokenizer, model) | (set(end) if len(end) == 1 else set())


def stop_where_answers_end(model: Any, tokenizer: Any) -> None:
    """Have a model's own `generate`, and what serves its folder, stop at the end of its answers as well."""
    config, stops = getattr(model, "generation_config", None), sorted(answer_stops(tokenizer, model))
    if config is not None and stops:
        config.eos_token_id = stops
        config.pad_token_id = tokenizer.pad_token_id


def check_turns(model: Any, tokenizer: Any, role: str) -> None:
    """Refuse tokens around texts that a model has no embeddings of, as those of another model's template.

    Raises:
        ValueError: If there is one.
    """
    turns, rows = turns_of(tokenizer), embedding_rows(model)
    text = f"{turns.before}{turns.between}{turns.end}"
    last = max(tokenizer(text, add_special_tokens=False)["input_ids"], default=0)
    if last >= rows:
        raise ValueError(
            f"{role}: around its texts stands the token {tokenizer.convert_ids_to_tokens(last)!r} of number {last}, "
            f"and the model has {rows} of them; resize its embeddings, or take another template"
        )


def embedding_rows(model: Any) -> int:
    """Return how many tokens a model has embeddings of, also where each process holds a part of them."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])  # ZeRO-3 leaves an empty weight.


def adopt_turns(tokenizers: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    """Have tokenizers that are in use read what was saved of them, such as the date on which training began.

    Args:
        tokenizers: By name.
        saved: What `saved_turns` made of them.
        where: File and field, for errors.
    """
    for name, tokenizer in tokenizers.items():
        turns = read_turns(saved.get(name), f"{where}.{name}")
        if turns != turns_of(tokenizer):
            logger.warning(f"{name}: prompts are read as when its training began (from {where})")
            setattr(tokenizer, _KEPT, turns)


def saved_turns(tokenizers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the turns of several tokenizers as plain JSON."""
    return {name: asdict(turns_of(tokenizer)) for name, tokenizer in tokenizers.items()}


def read_turns(saved: Any, where: str) -> Turns:
    """Return turns from what `saved_turns` made of them.

    Args:
        saved: The entry of one model.
        where: File and field, for errors.

    Raises:
        ValueError: If they are no turns.
    """
    names = {field.name for field in fields(Turns)}
    if not isinstance(saved, dict) or not {"before", "between", "end", "chat"} <= saved.keys() <= names:
        raise ValueError(f"{where}: {saved!r} does not say what a model reads around texts; it needs {sorted(names)}")
    for name, value in saved.items():
        if not isinstance(value, bool if name == "chat" else str) and not (value is None and "th" in name):
            raise ValueError(f"{where}: {name}={value!r} must be {'true or false' if name == 'chat' else 'a text'}")
    return Turns(**saved)


def turns_before(tokenizer: Any) -> Turns:
    """Return the turns of pairs that were saved before turns were: up to the generation prompt, and to `eos_token`."""
    if not getattr(tokenizer, "chat_template", None):
        return Turns(before=tokenizer.bos_token or "", between="", end="\n", chat=False)
    user = [{"role": "user", "content": USER}]
    prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    before, between = _parted(tokenizer, prompt, USER)
    return Turns(before, between, str(tokenizer.eos_token), True)
