"""What is written is whole, or not there."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dro_trl.files.writing import (
    atomic_path,
    check_outputs,
    load_json,
    load_object,
    make_folder,
    write_json,
    write_jsonl,
)


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new folder" / "a.json"
    write_json(path, {"é": [1.5]})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"), allow_nan=False)
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    with pytest.raises(TypeError):
        write_jsonl(path, [{"whole": 1}, {"broken": object()}])
    assert path.read_text(encoding="utf-8") == '{\n  "é": [\n    1.5\n  ]\n}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_line_a_row(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", iter([{"a": "ü"}, {"b": None}]))
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"a": "ü"}', '{"b": null}']
    assert [json.loads(line) for line in lines] == [{"a": "ü"}, {"b": None}]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_new_file_keeps_the_umask_and_an_old_one_its_mode(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", 1)
        assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == mode
        (tmp_path / "a.json").chmod(0o604)
        write_json(tmp_path / "a.json", 2)
        assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_of_a_link_the_target_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    links = {"old": tmp_path / "there" / "old.json", "new": tmp_path / "there" / "new.json"}
    links["old"].write_text("0")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target.relative_to(tmp_path))
        write_json(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert json.loads(target.read_text()) == name
    assert len(list((tmp_path / "there").iterdir())) == 2


def test_devices_pipes_and_folders_are_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (Path("/dev/null"), tmp_path / "pipe", tmp_path / "socket", tmp_path / "loop"):
            before = os.lstat(path)
            with pytest.raises(FileExistsError, match=f"{path} is no regular file"):
                write_json(path, 1)
            assert os.path.samestat(os.lstat(path), before)
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file"):
        write_json(tmp_path, 1)


WRITE = "import pathlib, sys, dro_trl.files.writing as a; a.write_json(pathlib.Path(sys.argv[1]), ['ü'] * 20_000)"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_gets_the_content(tmp_path, name):
    whole = json.dumps(["ü"] * 20_000, indent=2, ensure_ascii=False) + "\n"
    piped = subprocess.run([sys.executable, "-c", WRITE, name], stdout=subprocess.PIPE, check=True)
    assert piped.stdout.decode() == whole
    file = tmp_path / "file"
    file.write_text("before\n")
    with file.open("a") as opened:  # As by `>>` in a shell: what is there stays.
        subprocess.run([sys.executable, "-c", WRITE, name], stdout=opened, check=True)
    assert file.read_text(encoding="utf-8") == "before\n" + whole


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    stop = "import os, pathlib, dro_trl.files.writing as a, sys\n"
    stop += "with a.atomic_path(pathlib.Path(sys.argv[1])): os.kill(0, 9)"
    path = tmp_path / "a.json"
    subprocess.run([sys.executable, "-c", stop, path], start_new_session=True, check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".b.json.12345678.partial").touch()
    with atomic_path(path) as temporary:
        assert not left.exists()
        write_json(path, 1)
        assert temporary.exists()
        temporary.write_text("2")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".b.json.12345678.partial", "a.json"]
    assert path.read_text() == "2"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    program = (
        f"{limit}try:\n    {WRITE.replace('; ', chr(10) + '    ')}\nexcept OSError as error: print(error.filename)"
    )
    found = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert found.stdout == f"{tmp_path / 'a'}\n"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught:
        write_json(tmp_path / "file" / "a.json", 1)
    assert ".partial" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["", '{"a": ', "\x00\x00", "[" * 100_000])
def test_a_damaged_file_of_our_own_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json is cut off or damaged \(.*; delete it$"):
        load_json(tmp_path / "a.json", "delete it")


@pytest.mark.parametrize("content", ['{"a": 1, "b": 2, "a": 3}', '[{"c": {"a": 1, "a": 1}}]'])
def test_a_key_that_stands_twice_is_refused_in_a_file_of_our_own(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"a\.json is cut off or damaged \('a' stands there twice, as 1 and as [13]\); mend"
    ):
        load_json(tmp_path / "a.json", "mend it")
    assert load_json(tmp_path / "a.json", "mend it", foreign=True) == json.loads(content)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"a"', "NaN"])
def test_something_else_than_an_object_is_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json holds \w+ where a JSON object is wanted; delete it$"):
        load_object(tmp_path / "a.json", "delete it")


def test_keys_that_an_object_lacks_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": null, "b": 2}')
    assert load_object(tmp_path / "a.json", "delete it", "b", "a") == {"a": None, "b": 2}
    with pytest.raises(ValueError, match=r"a\.json lacks c, d; delete it$"):
        load_object(tmp_path / "a.json", "delete it", "c", "a", "d")


def outputs(output, *, run=None, **inputs):
    check_outputs({"--output": output, "--run": run}, {f"--{name}": path for name, path in inputs.items()})


def test_outputs_that_would_replace_inputs_are_refused(tmp_path):
    given, folder = tmp_path / "given", tmp_path / "folder"
    given.touch()
    folder.mkdir()
    (tmp_path / "link").symlink_to("given")
    os.link(given, tmp_path / "hard")
    for name in ("given", "link", "hard", "folder/../given"):
        for one, other in ((given, tmp_path / name), (tmp_path / name, given)):
            with pytest.raises(ValueError, match=r"--output .* would replace what is read \(--input "):
                outputs(one, input=other, other=None)
    with pytest.raises(ValueError, match=r"would replace what is read \(--index_dir"):
        outputs(folder / "new", index_dir=folder)
    with pytest.raises(ValueError, match=r"--run .* is the file of --output as well"):
        outputs(tmp_path / "new", run=folder / ".." / "new")
    with pytest.raises(NotADirectoryError, match=r"given is no folder"):
        outputs(given / "new")
    outputs(tmp_path / "new" / "deep", run=tmp_path / "run", input=given, absent=tmp_path / "absent")
    outputs(Path("/dev/stdout"), run=Path("/dev/stdout"), input=given)


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_folder_that_another_process_takes_away_meanwhile_is_made_again(tmp_path, monkeypatch, call):
    """Whether it goes between pathlib's call and its look at what is there, or before the file is in it."""
    folder, real, taken = tmp_path / "a" / "b", getattr(os, call), []

    def late(path, *arguments, **options):
        if not taken and folder.exists() and folder in (Path(path), Path(path).parent):
            taken.append(path)
            if call == "open":
                folder.rmdir()
            else:
                with pytest.raises(FileExistsError):
                    real(path, *arguments, **options)
                folder.rmdir()
                raise FileExistsError(17, "File exists", str(path))
        return real(path, *arguments, **options)

    folder.mkdir(parents=True)
    monkeypatch.setattr(os, call, late)
    write_json(folder / "a.json", 1)
    assert taken
    assert json.loads((folder / "a.json").read_text()) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    for name, error in (("file", FileExistsError), ("file/a", NotADirectoryError), ("link", FileExistsError)):
        with pytest.raises(error, match=name):
            make_folder(tmp_path / name)


def test_files_take_turns_in_a_folder_that_comes_and_goes(tmp_path):
    program = (
        "import sys; from pathlib import Path; from dro_trl.files.writing import atomic_path\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        with atomic_path(Path(sys.argv[1])): raise KeyError\n"
        "    except KeyError: pass"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "a" / n]) for n in ("b/c", "b/c", "b/d")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert not list(tmp_path.rglob("*.partial"))
