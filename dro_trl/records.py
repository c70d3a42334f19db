"""Records of what a result was made from: digests, and what two records differ in."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def files_digest(paths: Iterable[Path]) -> str:
    """Return the digest of files, and of all files of folders, by their names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(found for found in [path, *path.rglob("*")] if found.is_file()):
            digest.update(f"{file.relative_to(path.parent)} {file_digest(file)}\n".encode())
    return digest.hexdigest()[:16]


def rows_digest(rows: Iterable[Any]) -> str:
    """Return the digest of a dataset's rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is when it has been written as JSON and read again."""
    read: dict[str, Any] = json.loads(json.dumps(record, sort_keys=True, default=str))
    return read


def changes(before: Mapping[str, Any], after: Mapping[str, Any], unset: Any = None) -> dict[str, str]:
    """Say for each entry in which two records differ what it was and is; `unset` stands for one that is missing.

    >>> changes({"k": 20}, {"k": 5, "seed": 1})
    {'k': 'k was 20 and is now 5', 'seed': 'seed was None and is now 1'}
    """
    return {
        name: f"{name} was {before.get(name, unset)!r} and is now {after.get(name, unset)!r}"
        for name in sorted({*before, *after})
        if before.get(name, unset) != after.get(name, unset)
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say what differs between two records, nested entries by their dotted names.

    >>> differences({"k": 20, "train": {"seed": 0}}, {"train": {"seed": 1, "limit": 5}})
    ["k was 20 and is now 'not set'", "train.limit was 'not set' and is now 5", 'train.seed was 0 and is now 1']
    """
    return list(changes(_flat(before), _flat(after), "not set").values())


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested entries by dotted names; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, entry in value.items():
        flat |= _flat(entry, f"{prefix}{name}.") if isinstance(entry, dict) and entry else {f"{prefix}{name}": entry}
    return flat
