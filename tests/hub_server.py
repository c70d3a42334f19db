"""A stand-in for a model hub on this machine: what creating a repository and uploading a folder ask of one."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What was sent."""

    endpoint: str
    created: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    """The message and the files of each commit."""


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve on a free port as long as the context is open."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            hub.tokens.add(self.headers["Authorization"])
            if self.path == "/api/repos/create":
                sent = json.loads(body)
                name = f"{sent['organization']}/{sent['name']}"
                hub.created.append(name)
                self._answer({"url": f"{hub.endpoint}/{name}"})
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self._answer({"files": files})
            elif "/commit/" in self.path:
                header, *operations = map(json.loads, body.splitlines())
                files = {op["value"]["path"]: base64.b64decode(op["value"]["content"]) for op in operations}
                hub.commits.append((header["value"]["summary"], files))
                self._answer({"commitUrl": f"{hub.endpoint}/u/r/commit/0", "commitOid": "0"})
            else:
                self.send_error(404, f"no such endpoint: {self.path}")

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _answer(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
