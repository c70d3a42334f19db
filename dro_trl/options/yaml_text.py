"""YAML as people write it: numbers of YAML 1.2, nothing twice, nothing that is no plain value."""

import math
import re
import reprlib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class _Scalars:
    """Reads scalars as YAML 1.2 does: `010` is ten, `1e-4` a number, and `no`, `1:30` and `2024-01-01` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$", list("-+.")),
    ("merge", r"<<$", ["<"]),  # Of YAML 1.1, and what lets a recipe take over lines of another part of it.
):
    for _letter in _first:
        _Scalars.yaml_implicit_resolvers.setdefault(_letter, []).append(
            (f"tag:yaml.org,2002:{_tag}", re.compile(_pattern))
        )


class _RecipeLoader(_Scalars, yaml.SafeLoader):
    """Reads recipes; a key that is there twice is refused."""

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Return a whole number; a leading zero says nothing of its base."""
        text = self.construct_scalar(node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)

    def construct_lines(self, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
        """Return a mapping, whose keys differ."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = None if key_node.tag == MERGE else self.construct_object(key_node, deep=True)
            if key is None or not isinstance(key, Hashable):
                continue
            if key in lines:
                problem = f"the key {key!r} is there twice, first in line {lines[key]}; take one of them out"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_yaml_map(node)


_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _RecipeLoader.construct_whole)
_RecipeLoader.add_constructor("tag:yaml.org,2002:map", _RecipeLoader.construct_lines)


class _RecipeDumper(_Scalars, yaml.SafeDumper):
    """Writes recipes that `_RecipeLoader` reads as they were."""


class NotYaml(ValueError):
    """Text that is not YAML, or holds a value that no option can be."""


def read_yaml(text: str, source: str) -> Any:
    """Return what YAML text says.

    Args:
        text: YAML of one document, its scalars as in YAML 1.2.
        source: What it is called in errors.

    Raises:
        NotYaml: If it is not YAML, a key is there twice, or a value is none of a recipe: a number that is not
            finite or has more than 64 bits, text that cannot be written, a date, a list that holds itself.
    """
    try:
        value = yaml.load(text, _RecipeLoader)
        _check_plain(value, source, {})
    except NotYaml:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark and "\n" in text else ""
        raise NotYaml(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise NotYaml(f"{source}: its lists and mappings are nested too deeply") from error
    except Exception as error:  # A tag's own constructor may raise anything.
        raise NotYaml(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    return value


def _check_plain(value: Any, source: str, open_: dict[int, bool]) -> None:
    """Refuse what no option can be; `open_` says of the lists and mappings gone through which hold this value."""
    if isinstance(value, dict | list):
        if id(value) in open_:
            if open_[id(value)]:
                raise NotYaml(f"{source}: a list or mapping holds itself")
            return
        open_[id(value)] = True
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if type(key) not in (str, int):
                raise NotYaml(f"{source}: the key {key!r} must be text; put it in quotes")
            where = f"{source}[{key}]" if isinstance(value, list) else f"{source}: {key}"
            _check_plain(key, where, open_)
            _check_plain(part, where, open_)
        open_[id(value)] = False
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotYaml(f"{source}: {value} is not a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise NotYaml(f"{source}: a number of more than 64 bits is too large")
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise NotYaml(f"{source}: {shorten(value)} holds a NUL, or half of a surrogate pair, which no text does")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise NotYaml(f"{source}: {shorten(value)} is a {type(value).__name__}; if it is text, put it in quotes")


def shorten(value: object) -> str:
    """Return a value as Python writes it, in one line, without the middle of a long one."""
    return _SHORT.repr(value)


def dump_recipe(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as YAML that `read_recipe` reads as it was."""
    return str(yaml.dump(dict(recipe), Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True))
