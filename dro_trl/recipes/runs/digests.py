"""What a result was made from: digests of files and folders, and what two records of it differ in."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dro_trl.files.writing import load_object, write_json
from dro_trl.records import file_digest

RECORD_NAME = "stage.json"


class Digests:
    """Digests by content, kept in a file, so that what has not changed since is not read again.

    Args:
        store: The JSON file; it need not exist.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        remedy = "delete it: what it holds is found again"
        self.known: dict[str, list[Any]] = load_object(store, remedy) if store.is_file() else {}

    def of(self, path: Path) -> str:
        """Return the digest of a file or a folder.

        A folder that a stage made is known by the stage's record beside it. Of any other the names and contents of all
        files count, those of hidden files and checkpoints aside.

        Raises:
            FileNotFoundError: If there is neither.
        """
        if path.is_dir():
            record = path.parent / RECORD_NAME
            if record.is_file():
                return file_digest(record)
            listed = [[name, digest] for name, digest in self.of_files(path).items()]
            return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
        state, key = path.stat(), str(path.resolve())
        # The time of change, unlike that of modification, cannot be set back.
        size, changed, digest = self.known.get(key, (None, None, None))
        if (size, changed) != (state.st_size, state.st_ctime_ns):
            digest = file_digest(path)
            self.known[key] = [state.st_size, state.st_ctime_ns, digest]
        return str(digest)

    def of_files(self, folder: Path) -> dict[str, str]:
        """Return the digests of all files of a folder by their names in it, those of hidden and checkpoints aside."""
        names = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
        parts = [name for name in names if not any(p.startswith((".", "checkpoint-")) for p in name.parts)]
        return {str(name): self.of(folder / name) for name in parts}

    def save(self) -> None:
        """Write what is known for the next time."""
        write_json(self.store, self.known)
