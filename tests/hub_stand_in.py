"""A model hub on this machine: the endpoints that huggingface_hub's client asks for when it creates, uploads and downloads."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"  # noqa: S105 (of no real hub)


@dataclass
class Repository:
    """Commits, each with all of its files, and what the branch `main` points to."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        """Put files in the place of those before."""
        self.main = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[self.main] = files
        return self.main


class Hub:
    """Repositories by name, and the address where they are served."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            name, kind, revision = found.groups()
            if repository := self._repository(name, revision or "main"):
                sha, files = repository
                listed = [{"type": "file", "path": file, "size": len(data), "oid": _etag(data)} for file, data in files.items()]
                about = {"_id": "0", "id": name, "modelId": name, "sha": sha, "tags": [], "private": False, "siblings": []}
                self._json(listed if kind == "tree" else about)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = found.groups()
            if repository := self._repository(name, revision):
                sha, files = repository
                if file not in files:
                    return self._refuse(404, "EntryNotFound")
                self._answer(200, files[file], {"ETag": f'"{_etag(files[file])}"', "X-Repo-Commit": sha})
        else:
            self._refuse(404, "RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            if name.startswith("others/"):
                return self._refuse(403, "")
            is_new = name not in self.hub.repositories
            is_private = wanted.get("visibility") == "private"
            if is_new:
                self.hub.repositories[name] = Repository(private=is_private)
                self.hub.repositories[name].commit({})
            return self._json({"url": f"{self.hub.url}/{name}", "name": name}, 200 if is_new else 409)
        if path == "/api/validate-yaml":  # of the front matter of a card
            facts = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            errors = [] if facts.get("license") else [{"message": "no licence"}]
            return self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        name, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        repository = self.hub.repositories[name]
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._json({"files": [{"path": file} | how for file in files]})
        files = dict(repository.commits[repository.main])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        sha = repository.commit(files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def _repository(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; None after a refusal."""
        repository = self.hub.repositories.get(name)
        has_login = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not has_login):
            return self._refuse(404 if has_login else 401, "RepoNotFound")
        if repository.gated and not has_login:
            return self._refuse(401, "GatedRepo")
        sha = repository.main if revision == "main" else revision
        if sha not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _json(self, value: object, code: int = 200) -> None:
        self._answer(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: int, reason: str) -> None:
        self._answer(code, b"{}", {"X-Error-Code": reason} if reason else {})

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _etag(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
