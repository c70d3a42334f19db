"""The fields of dataclasses by their source code: TRL's and transformers' take seconds to import, with torch."""

import ast
import builtins
import importlib.util
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dro_trl.options.values import UNKNOWN, Option, options_of

LIGHT = ("typing", "pydantic", "collections")
"""Packages whose names are imported in earnest, where an annotation has one."""


def declared_options(*parts: str) -> dict[str, Option]:
    """Return the fields of dataclasses, as `options_of` does.

    What an annotation names is found in the source as well; where it is not, any value goes.

    Args:
        parts: Dotted paths of the dataclasses.
    """
    found: dict[str, Option] = {}
    for part in parts:
        module, _, name = part.rpartition(".")
        try:
            found |= _read(module, name).options()
        except (LookupError, OSError, SyntaxError):  # The library keeps it elsewhere by now.
            found |= options_of(getattr(import_module(module), name))
    return found


class _Fields:
    """What a class says, in the place of the class itself: those of its bases are found as Python finds them."""

    own: Mapping[str, tuple[Any, Any, str]] = {}

    @classmethod
    def fields(cls) -> dict[str, tuple[Any, Any, str]]:
        """Return all fields; each base counts with those that it inherits, as for `dataclasses`."""
        found: dict[str, tuple[Any, Any, str]] = {}
        for base in reversed(cls.__mro__[1:]):
            found |= base.fields() if issubclass(base, _Fields) else {}
        return found | dict(cls.__dict__.get("own", {}))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Return all fields; a class overrides its bases."""
        return {name: Option.of(name, *given) for name, given in cls.fields().items()}


@cache
def _read(module: str, name: str) -> Any:
    """Return what a module's name is: the fields of a class, an enumeration, a type, or Any where it is none.

    Raises:
        LookupError: If the module does not have it.
    """
    if module.partition(".")[0] in LIGHT:
        return getattr(import_module(module), name)
    path = _find(module)
    for node in _statements(path):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _read_class(module, node)
        if isinstance(node, ast.Assign) and [name] == [t.id for t in node.targets if isinstance(t, ast.Name)]:
            return _evaluate(module, node.value)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _read(_absolute(node, module, path), alias.name)
    raise LookupError(f"{module} has no {name}")


def _read_class(module: str, node: ast.ClassDef) -> Any:
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    if any("Enum" in base for base in bases):
        members = {
            target.id: line.value.value
            for line in node.body
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
        return Enum(node.name, members)
    found = [_read(module, base) for base in bases if not hasattr(builtins, base)]
    parents = tuple(f for f in found if isinstance(f, type) and issubclass(f, _Fields)) or (_Fields,)
    own = {
        line.target.id: (_evaluate(module, line.annotation), *_default_and_help(module, line.value))
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and _in_init(line)
    }
    return type(node.name, parents, {"own": own})


def _evaluate(module: str, annotation: ast.expr) -> Any:
    """Return an annotation's value; a name that is not found stands for anything."""
    try:
        return eval(compile(ast.Expression(annotation), module, "eval"), {}, _Names(module))
    except Exception:  # It is written in a way that says nothing here.
        return Any


class _Names(dict[str, Any]):
    """The names of a module, each read when it is asked for."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        try:
            found = _read(self.module, name)
        except (LookupError, OSError, SyntaxError):
            return Any
        return Any if isinstance(found, type) and issubclass(found, _Fields) else found


def _default_and_help(module: str, value: ast.expr | None) -> tuple[Any, str]:
    """Return what a field's line says after its annotation; `UNKNOWN` for a default that cannot be told."""
    if value is None:
        return UNKNOWN, ""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field"):
        found = _evaluate(module, value)
        return UNKNOWN if found is Any else found, ""
    given = {keyword.arg: keyword.value for keyword in value.keywords}

    def known(node: ast.expr | None) -> Any:
        found = Any if node is None else _evaluate(module, node)
        return UNKNOWN if found is Any else found

    metadata, make = given.get("metadata"), known(given.get("default_factory"))
    pairs = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
    told = next((known(text) for key, text in pairs if isinstance(key, ast.Constant) and key.value == "help"), "")
    return known(given.get("default")) if make is UNKNOWN else make(), "" if told is UNKNOWN else told


def _in_init(line: ast.AnnAssign) -> bool:
    keywords = line.value.keywords if isinstance(line.value, ast.Call) else []
    left_out = any(k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value for k in keywords)
    return not left_out and "ClassVar" not in ast.unparse(line.annotation)


@cache
def _statements(path: Path) -> list[ast.stmt]:
    """Return a file's statements, those under an `if` or `try` with them."""

    def flat(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in nodes:
            if isinstance(node, ast.If | ast.Try):
                yield from flat(
                    [*node.body, *node.orelse, *(line for h in getattr(node, "handlers", []) for line in h.body)]
                )
            else:
                yield node

    return list(flat(ast.parse(path.read_bytes()).body))


def _find(module: str) -> Path:
    """Return a module's file, without importing the packages that it is in.

    Raises:
        LookupError: If there is none.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    raise LookupError(f"no source of {module}")


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    if not node.level:
        return str(node.module)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
