"""Which values an option may have, as its dataclass's annotation and the bounds below say; needs no torch."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from functools import cache, cached_property, reduce
from inspect import Parameter, signature
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from dro_trl.options.masking import masked
from dro_trl.options.yaml_text import NotYaml, read_yaml, shorten

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
LogLevel = Literal["debug", "info", "warning", "error", "critical", "detail", "passive"]

BOUNDS: dict[str, Any] = {
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), Decay),
    **dict.fromkeys(("log_level", "log_level_replica"), LogLevel),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "save_steps"), PositiveFloat),
    **dict.fromkeys(("eval_steps", "neftune_noise_alpha"), PositiveFloat | None),
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "warmup_steps", "adam_epsilon", "max_grad_norm", "eval_delay"),
        NonNegativeFloat,
    ),
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "lora_r",
            "lora_alpha",
        ),
        PositiveInt,
    ),
    **dict.fromkeys(
        (
            "eval_accumulation_steps",
            "torch_empty_cache_steps",
            "dataloader_prefetch_factor",
            "ddp_bucket_cap_mb",
        ),
        PositiveInt | None,
    ),
    "bnb_4bit_quant_type": Literal["fp4", "nf4"],
    "data_seed": Seed | None,
    "dataloader_num_workers": NonNegativeInt,
    "dataloader_multiprocessing_context": Literal["fork", "forkserver", "spawn"] | None,
    "ddp_timeout": Annotated[int, Field(ge=1, lt=2**31)],
    "pad_to_multiple_of": PositiveInt | Literal["auto"] | None,
    "max_steps": Annotated[int, Field(ge=-1)],
    "router_aux_loss_coef": NonNegativeFloat | None,
    "save_total_limit": NonNegativeInt | None,
    "seed": Seed,
    "warmup_ratio": Share | None,
}
"""Types of options of transformers and TRL, which say less of them."""

FILES = {"accelerator_config", "deepspeed", "fsdp_config"}
"""Options that are a mapping or the path of a JSON file; any other mapping is no path."""

SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0"), False),
}
"""Words for a switch, as transformers takes them."""


UNKNOWN = Parameter.empty
"""In the place of a default that there is none of, or that is not told."""


@dataclass(frozen=True)
class Option:
    """What is known of a field."""

    annotation: Any
    """Its type, with its bounds in `Annotated`."""
    nullable: bool = False
    """Whether it may be None, though its type does not say so: None is its default."""
    default: Any = field(default=UNKNOWN, compare=False)
    """What it is where it is not set; `UNKNOWN` where it has to be, or where that is not told."""
    help: str = field(default="", compare=False)
    """What it is for."""

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any = UNKNOWN, help: str = "") -> "Option":
        """Return a field's option by its name, its annotation, its default and its text of help."""
        value = default.value if isinstance(default, Enum) else default
        return cls(BOUNDS.get(name, _closed(annotation, name in FILES)), default is None, value, help)

    @cached_property
    def adapter(self) -> "TypeAdapter[Any]":
        """What tells whether a value is of the type."""
        config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        try:
            return TypeAdapter(self.annotation, config=config)
        except PydanticUserError:  # A type of another kind, such as a library's own.
            return TypeAdapter(Any)

    def takes(self, value: Any) -> bool:
        """Whether a value is one, as it is."""
        try:
            self.adapter.validate_python(value)
        except ValidationError:
            return value is None and self.nullable
        return True

    def has(self, kind: type) -> bool:
        """Whether the type is this one, a parametrised one of it, or a union with one."""
        return any(part is kind or get_origin(part) is kind for part in _parts(self.annotation))

    @property
    def items(self) -> "Option":
        """What an entry of a list is."""
        of_lists = [get_args(part)[0] for part in _parts(self.annotation) if get_origin(part) is list]
        return Option(reduce(or_, of_lists) if of_lists else Any)

    @property
    def choices(self) -> list[Any]:
        """The values that the type enumerates."""
        return list(dict.fromkeys(value for part in _parts(self.annotation) for value in _literals(part)))


def options_of(part: type[Any]) -> dict[str, Option]:
    """Return what a dataclass's fields are, those aside that its constructor does not take."""
    hints = get_type_hints(part, include_extras=True)
    return {
        f.name: Option.of(f.name, hints[f.name], _default(f), f.metadata.get("help", ""))
        for f in fields(part)
        if f.init
    }


def _default(given: "dataclasses.Field[Any]") -> Any:
    if given.default_factory is not MISSING:
        return given.default_factory()
    return UNKNOWN if given.default is MISSING else given.default


def options_of_call(kind: type[Any], names: Iterable[str]) -> dict[str, Option]:
    """Return arguments of a class's constructor as options; one without a type that can be checked may be anything."""
    try:
        hints = get_type_hints(kind.__init__, include_extras=True)
    except (NameError, TypeError):  # Of a type that is imported for type checkers alone.
        hints = {}
    taken = signature(kind).parameters
    return {name: Option(hints.get(name, Any), name in taken and taken[name].default is None) for name in names}


def check_values(values: Mapping[str, Any], options: Mapping[str, Option], source: str) -> dict[str, Any]:
    """Return the values of a recipe as their options take them.

    Text where a number, a switch or a mapping is wanted is read as YAML; one value where a list is wanted is a list.

    Args:
        values: By option.
        options: All that are known.
        source: Where the values stand, for errors.

    Raises:
        ValueError: Names the first value that is none of its option's, and what would be.
    """
    return {name: _fitted(name, value, options[name], source) for name, value in values.items()}


def check_config(config: Any) -> None:
    """Check the fields of a dataclass of this package that Python code has filled in, as they are.

    Fields of its bases of other packages are checked where `BOUNDS` has them.

    Raises:
        ValueError: As `check_values`.
    """
    for name, option in _own_options(type(config)):  # type: ignore[arg-type]
        value = getattr(config, name)
        # A number of numpy's or torch's is one.
        plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
        if not option.takes(plain):
            raise ValueError(f"{name}={shorten(value)} must be {_wanted(option, plain)}")


@cache
def _own_options(config: Any) -> list[tuple[str, Option]]:
    own = {name for base in config.__mro__ if base.__module__.startswith("dro_trl.") for name in base.__annotations__}
    return [(name, option) for name, option in options_of(config).items() if name in own | {*BOUNDS}]


def _fitted(name: str, value: Any, option: Option, source: str) -> Any:
    unread = ""
    mapping = isinstance(value, str) and value.startswith("{") and option.has(dict)
    try:
        for reading in (*([] if mapping else [value]), *_readings(value, option)):
            if option.takes(reading):
                if name in FILES and isinstance(reading, str) and not Path(reading).is_file():
                    raise ValueError(f"{source}: {name}={shorten(reading)} is no file, and no `name: value` lines")
                wide = type(reading) is int and option.has(float) and not option.has(int)
                return float(reading) if wide else reading
    except NotYaml as error:
        unread = f" ({str(error).partition(': ')[2]})"
    quotes = "" if not option.has(str) or isinstance(value, str | list | dict) else "; if it is text, put it in quotes"
    raise ValueError(
        f"{source}: {name}={shorten(masked(value, name))} must be {_wanted(option, value)}{quotes}{unread}"
    )


def _readings(value: Any, option: Option) -> Iterator[Any]:
    """Yield what a value may mean beside what it is."""
    if isinstance(value, bool):
        word = str(value).lower()
        yield from [word] if any(word in _literals(part) for part in _parts(option.annotation)) else []
        return
    if option.has(bool) and str(value).lower() in SWITCHES and isinstance(value, str):
        yield SWITCHES[value.lower()]
    if isinstance(value, str):
        read = read_yaml(value, "it")
        yield read
    elif isinstance(value, list):
        read = [read_yaml(part, "it") if isinstance(part, str) else part for part in value]
        yield read
    else:
        read = value
    if option.has(list) and not isinstance(value, list | dict):
        yield from ([value], [read])


def _wanted(option: Option, value: Any) -> str:
    """Say what a value must be."""
    wanted = _expected(option.annotation)
    infinite = isinstance(value, float) and not math.isfinite(value)
    return wanted.replace("a number", "a finite number") if infinite else wanted


def _expected(annotation: Any) -> str:
    return " or ".join(dict.fromkeys(_described(member) for member in _members(annotation)))


def _described(member: Any) -> str:
    [part] = _parts(member)
    if literals := _literals(part):
        return f"one of {', '.join(map(repr, literals[:12]))}{', …' if len(literals) > 12 else ''}"
    if get_args(part) and get_origin(part) is not dict:
        return f"a list, each {_expected(get_args(part)[0])}"
    named = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "unset",
        dict: "`name: value` lines",
        list: "a list",
    }
    bounds = " and ".join(_bounds(member, whole=part is int))
    return named.get(get_origin(part) or part, f"a {getattr(part, '__name__', part)}") + (bounds and f" {bounds}")


def _bounds(member: Any, whole: bool) -> Iterator[str]:
    for said in get_args(member)[1:] if get_origin(member) is Annotated else ():
        for bound in getattr(said, "metadata", [said]):  # Pydantic's `Field` holds several.
            for name, words, of_whole, step in (
                ("ge", "of at least", "of at least", 0),
                ("gt", "above", "of at least", 1),
                ("le", "at most", "at most", 0),
                ("lt", "below", "at most", -1),
            ):
                if (limit := getattr(bound, name, None)) is not None:
                    yield f"{of_whole} {limit + step}" if whole else f"{words} {limit:g}"


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, with their bounds."""
    if isinstance(annotation, type(int | str)) or get_origin(annotation) is Union:
        return [part for member in get_args(annotation) for part in _members(member)]
    return [annotation]


def _parts(annotation: Any) -> list[Any]:
    """Return the members of a union, without their bounds."""
    members = _members(annotation)
    return [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]


def _literals(part: Any) -> list[Any]:
    if isinstance(part, type) and issubclass(part, Enum):
        return [member.value for member in part]
    return list(get_args(part)) if get_origin(part) is Literal else []


def _closed(annotation: Any, is_file: bool) -> Any:
    """Return an annotation without the `str` that stands for an enumeration's values, or for a mapping as JSON."""
    parts = _parts(annotation)
    enums = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    mapping = any(part is dict or get_origin(part) is dict for part in parts) and not is_file
    if str not in parts or not (enums or mapping):
        return annotation
    values = [Literal[tuple(_literals(enum))] for enum in enums]
    return reduce(or_, [part for part in parts if part is not str] + values)
