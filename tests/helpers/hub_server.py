"""A stand-in for a hub on this machine: what making a repository, uploading a folder and downloading it ask.

Models are known by their names, datasets by theirs after `datasets/`.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


def _commit_of(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@dataclass
class Hub:
    """What was sent."""

    endpoint: str
    created: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    """The message and the files of each commit."""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """The files of each repository at each revision; uploads go to `main`."""

    def files(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a repository at a revision or its commit, None where there is none."""
        revisions = self.repositories.get(repository, {})
        return {**{_commit_of(name): files for name, files in revisions.items()}, **revisions}.get(revision)


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
            elif "/paths-info/" in self.path:
                repository, revision, _ = self._asked()
                wanted = json.loads(body)["paths"]
                self._answer([entry for entry in self._listed(repository, revision) if entry["path"] in wanted])
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self._answer({"files": files})
            elif "/commit/" in self.path:
                header, *operations = map(json.loads, body.splitlines())
                files = {op["value"]["path"]: base64.b64decode(op["value"]["content"]) for op in operations}
                hub.commits.append((header["value"]["summary"], files))
                repository = hub.repositories.setdefault("/".join(self.path.split("/")[3:5]), {})
                repository["main"] = {**repository.get("main", {}), **files}
                self._answer({"commitUrl": f"{hub.endpoint}/u/r/commit/0", "commitOid": "0"})
            else:
                self.send_error(404, f"no such endpoint: {self.path}")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if path.startswith("/api/"):
                repository, revision, rest = self._asked()
                if hub.files(repository, revision) is None:
                    return self._missing("RepoNotFound")
                listed = self._listed(repository, revision)
                if rest.startswith("tree"):
                    folder = rest.partition(revision)[2].strip("/")
                    names = {str(entry["path"]).rpartition("/")[0] for entry in listed} - {""}
                    listed += [{"type": "directory", "path": name, "oid": name} for name in names]
                    inside = [
                        entry for entry in listed if str(entry["path"]).startswith(f"{folder}/" if folder else "")
                    ]
                    if "recursive=false" in self.path:
                        inside = [entry for entry in inside if str(entry["path"]).rpartition("/")[0] == folder]
                    return self._answer(inside)
                name = repository.removeprefix("datasets/")
                whole = {"id": name, "sha": _commit_of(revision), "siblings": listed, "private": False, "tags": []}
                return self._answer({**whole, "downloads": 0, "likes": 0, "disabled": False})
            repository, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            found = hub.files(repository, revision)
            if found is None or file not in found:
                return self._missing("RepoNotFound" if found is None else "EntryNotFound")
            commit = revision if len(revision) == 40 else _commit_of(revision)
            etag = hashlib.sha256(found[file]).hexdigest()
            return self._answer(found[file], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

        def _asked(self) -> tuple[str, str, str]:
            """Return the repository, the revision and the rest of a path under `/api/`."""
            kind, owner, name, *rest = unquote(self.path.partition("?")[0]).removeprefix("/api/").split("/")
            known = rest[:1] in (["revision"], ["tree"], ["paths-info"])
            repository = f"datasets/{owner}/{name}" if kind == "datasets" else f"{owner}/{name}"
            return repository, rest[1] if known else "main", "/".join(rest)

        def _listed(self, repository: str, revision: str) -> list[dict[str, object]]:
            files = hub.files(repository, revision) or {}
            return [
                {"type": "file", "path": path, "rfilename": path, "size": len(content), "oid": path}
                for path, content in files.items()
            ]

        def _missing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _answer(self, value: object, headers: dict[str, str] | None = None) -> None:
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(200)
            for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
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
