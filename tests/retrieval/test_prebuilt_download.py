"""Every step around the download of a prebuilt index, by Pyserini's own code from a server of ours."""

import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dro_trl.retrieval import jvm
from dro_trl.retrieval.jvm import JavaProcess
from dro_trl.retrieval.pyserini import PyseriniRetriever

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAME = "wikipedia-dpr-100w"
FOLDER = "lucene-index.stand-in"
WORKER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("worker", {worker!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
real = worker.Worker.download
def download(self, name):
    from pyserini.prebuilt_index_info import TF_INDEX_INFO
    TF_INDEX_INFO[name].update(json.load(open({described!r})))
    return real(self, name)
worker.Worker.download = download
worker.main()
"""
"""The worker, with what Pyserini knows of one index read from a file."""


class Server(ThreadingHTTPServer):
    """Serves one file, or what `answer` makes of it."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked, self.status, self.cut = content, 0, 200, 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        if self.server.status == 200:
            self.wfile.write(self.server.content[: len(self.server.content) - self.server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed index of one passage, in the form of the Wikipedia index."""
    folder = tmp_path_factory.mktemp("packed") / FOLDER
    document = {"id": "7", "contents": '"Aaron Burr"\nBurr was the third vice president.'}
    with JavaProcess() as java:
        java.request("create", index_dir=str(folder), threads=1)
        java.request("add", documents=[json.dumps(document)])
        java.request("commit", index_dir=str(folder))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        file.add(folder, arcname=FOLDER)
    return content.getvalue()


@pytest.fixture
def server(packed, tmp_path, monkeypatch):
    with Server(packed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        described = {
            "filename": f"{FOLDER}.tar.gz",
            "urls": [f"http://127.0.0.1:{server.server_port}/{FOLDER}.tar.gz"],
            "md5": hashlib.md5(packed).hexdigest(),
            "size compressed (bytes)": len(packed),
        }
        (tmp_path / "described.json").write_text(json.dumps(described))
        (tmp_path / "worker.py").write_text(
            WORKER.format(worker=str(jvm._WORKER), described=str(tmp_path / "described.json"))
        )
        monkeypatch.setattr(jvm, "_WORKER", tmp_path / "worker.py")
        monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()


def opened():
    with PyseriniRetriever.from_prebuilt(NAME) as retriever:
        [[passage]] = retriever.retrieve(["third president"], 5)
        return passage["title"], retriever.index


def test_it_is_downloaded_once_checked_unpacked_and_opened(server, tmp_path):
    title, folder = opened()
    assert title == "Aaron Burr"
    assert folder.parent == tmp_path / "cache" / "indexes"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left of what was packed"
    assert opened() == (title, folder)
    assert server.asked == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cut": 100}, "expected file size"),
        ({"status": 404}, "the server does not give it"),
        ({"status": 503}, "the server does not give it"),
    ],
)
def test_a_download_that_fails_is_told_and_made_again(server, change, said):
    vars(server).update(change)
    with pytest.raises(ConnectionError, match=f"could not download the prebuilt index .{NAME}.: .*({said})"):
        opened()
    server.status, server.cut = 200, 0
    assert opened()[0] == "Aaron Burr"


def test_another_content_is_refused(server):
    server.content = bytes(len(server.content))
    with pytest.raises(ConnectionError, match="does not match checksum"):
        opened()


def test_what_a_killed_download_left_is_taken_away(server, tmp_path):
    """A part of the packed file, and a part of what it holds, which had not got its name yet."""
    indexes = tmp_path / "cache" / "indexes"
    (indexes / FOLDER).mkdir(parents=True)
    (indexes / FOLDER / "segments_1").write_bytes(b"half")
    (indexes / f"{FOLDER}.tar.gz").write_bytes(server.content[:100])
    assert opened()[0] == "Aaron Burr"
    assert len(list(indexes.iterdir())) == 1


def test_no_server(server):
    described = Path(jvm._WORKER).with_name("described.json")
    described.write_text(json.dumps({**json.loads(described.read_text()), "urls": ["http://127.0.0.1:9/x.tar.gz"]}))
    with pytest.raises(ConnectionError, match="could not download the prebuilt index"):
        opened()
