"""Files that grow line by line and take their places once they are whole; what a killed command left goes on."""

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dro_trl.files.folders import locked_beside
from dro_trl.files.writing import output_file, put_in_place, stream_descriptor, write_json

_SUFFIX = ".unfinished"
_PIECE = 2**20  # bytes


@dataclass
class GrowingFile:
    """A file beside the one that it is to become."""

    path: Path
    """What it becomes: a file, or a stream."""
    part: Path
    length: int = 0
    """Bytes written."""
    checksum: int = 0
    """CRC-32 of them."""

    def holds(self, length: int, checksum: int) -> bool:
        """Return whether it begins with so many bytes of this checksum, and take it up behind them."""
        found, left = 0, length
        with contextlib.suppress(OSError), self.part.open("rb") as file:
            while left and (piece := file.read(min(left, _PIECE))):
                found, left = zlib.crc32(piece, found), left - len(piece)
            self.length, self.checksum = length, checksum
            return not left and found == checksum
        return False

    def open(self) -> None:
        """Open it, what follows the bytes that count cut off."""
        self._file = self.part.open("r+b" if self.length else "wb", buffering=0)
        self._file.truncate(self.length)
        self._file.seek(self.length)

    def append(self, text: str) -> None:
        """Write text at its end."""
        content = memoryview(text.encode())
        self.length, self.checksum = self.length + len(content), zlib.crc32(content, self.checksum)
        while content:
            content = content[self._file.write(content) :]

    def sync(self) -> None:
        """Have it written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close it."""
        self._file.close()


@dataclass
class Unfinished:
    """The files of one command while they grow."""

    files: dict[str, GrowingFile]
    record: Path | None
    """Says how far they have come; None where one of them is a stream."""
    made_from: dict[str, Any]
    """All that decides what is in them, as plain JSON."""
    done: int = 0
    """How many items are in them."""
    state: dict[str, Any] = field(default_factory=dict)
    """What else is needed to go on, as plain JSON."""
    differing: list[str] = field(default_factory=list)
    """Why what a killed command left is not gone on with, if it is not."""

    def take_up(self) -> None:
        """Go on with what a killed command left, where it was made from the same, else begin anew."""
        saved = self._saved()
        if saved:
            before, now = saved["made_from"], self.made_from
            self.differing = [
                f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
                for name in [*before, *(now.keys() - before.keys())]
                if before.get(name) != now.get(name)
            ]
            lost = [name for name, file in self.files.items() if not file.holds(*saved["files"].get(name, (0, -1)))]
            if not self.differing and not lost:
                self.done, self.state = saved["done"], saved["state"]
            else:
                self.differing = self.differing or [f"{self.files[name].part} was changed" for name in lost]
                assert self.record is not None
                self.record.unlink()  # First: it is not to be taken for that of the files that begin now.
        for file in self.files.values():
            if not self.done:
                file.length = file.checksum = 0
            file.open()

    def append(self, name: str, text: str) -> None:
        """Write text at the end of a file.

        Raises:
            OSError: It cannot be written; says what is kept.
        """
        with self._said(name):
            self.files[name].append(text)

    def keep(self, done: int, state: Mapping[str, Any]) -> None:
        """Have all on the disk, from where a killed command goes on.

        Args:
            done: How many items are in the files now.
            state: What else is needed to go on, as plain JSON.

        Raises:
            OSError: It cannot be written; says what is kept.
        """
        for name, file in self.files.items():
            with self._said(name):
                file.sync()
        if self.record is not None:
            files = {name: [file.length, file.checksum] for name, file in self.files.items()}
            record = {"made_from": self.made_from, "done": done, "state": dict(state), "files": files}
            with self._said(next(iter(self.files))):
                write_json(self.record, record)
        self.done = done

    def finish(self) -> None:
        """Let the files take their places, the first of them last."""
        for file in reversed(self.files.values()):
            put_in_place(file.part, file.path)
        self.discard()

    def discard(self) -> None:
        """Remove what is left beside the places of the files."""
        for path in [*([self.record] if self.record else []), *(file.part for file in self.files.values())]:
            path.unlink(missing_ok=True)

    def _saved(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            saved: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8")) if self.record else {}
            return saved or None
        return None

    @contextlib.contextmanager
    def _said(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = "nothing is left of it"
            if self.record is not None and self.done:
                kept = f"the first {self.done:,} are kept beside it, and the same command goes on from there"
            said = f"{os.strerror(error.errno or 0)}; {kept}"
            raise OSError(error.errno, said, str(self.files[name].path)) from error


@contextlib.contextmanager
def unfinished(outputs: Mapping[str, Path], made_from: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Yield files to append to, which take the places of `outputs` at the end.

    A command that is killed, or fails once something is done, leaves them in hidden files beside `outputs`, where the
    same command finds them: it is to begin behind the first `done` items. Where `made_from` is not the same, it is to
    begin anew, and `differing` says why. Streams (`/dev/stdout`) get all at the end, and nothing is kept for them.

    Args:
        outputs: The files by names of their own.
        made_from: All that decides what is in them, as plain JSON.

    Raises:
        BlockingIOError: If another process writes one of them; says which.
        OSError: If one cannot be written.
    """
    with contextlib.ExitStack() as stack:
        is_stream = {name: stream_descriptor(path) is not None for name, path in outputs.items()}
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory())) if any(is_stream.values()) else None
        files = {}
        for name, path in outputs.items():
            if is_stream[name]:
                assert temporary is not None
                files[name] = GrowingFile(path, temporary / name)
                continue
            target = output_file(path)
            stack.enter_context(locked_beside(target))
            files[name] = GrowingFile(path, target.with_name(f".{target.name}{_SUFFIX}"))
        first = next(iter(files.values())).part
        growing = Unfinished(files, None if temporary else first.with_name(f"{first.name}.json"), dict(made_from))
        growing.take_up()
        try:
            yield growing
            growing.finish()
        except BaseException:
            if not growing.done or growing.record is None:
                growing.discard()
            raise
        finally:
            for file in files.values():
                file.close()
