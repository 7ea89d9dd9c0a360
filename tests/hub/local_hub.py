"""A small Hub over real HTTP, in memory: what `huggingface_hub` needs to push and load models, and faults on demand.

Files are sent inside the commit, except those of repositories named `…-lfs`: their weights go by the LFS batch API.
Tokens: `hf_writer` may write, `hf_reader` may only read. A private repository does not exist for those without one.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OWNER = "tester"
ROLES = {"hf_writer": "write", "hf_reader": "read"}
_DATE = "2026-01-01T00:00:00.000Z"
_REPO = re.compile(r"^/api/models/([^/]+/[^/]+)(?:/(.*))?$")
_FILE = re.compile(r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_LFS_BATCH = ".git/info/lfs/objects/batch"
_counter = itertools.count()

Tree = dict[str, bytes]


@dataclass
class Repo:
    """Branches point to commits, a commit is a tree of files."""

    private: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, tree: Tree, title: str, branch: str = "main") -> str:
        sha = hashlib.sha1(f"{next(_counter)} {title}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = dict(tree), sha
        self.titles.append(title)
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    def files(self, revision: str = "main") -> Tree:
        return self.commits[self.branches[revision]]


@dataclass
class Fault:
    """The first `times` requests whose method and path match get an error status, or a cut connection (status 0).

    `done` faults do what was asked before the answer is cut off; `headers` and `body` are those of the answer.
    """

    method: str
    path: str
    status: int
    times: int = 1
    done: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=lambda: {"error": "injected"})


@dataclass
class Hub:
    """The state of the server, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    objects: Tree = field(default_factory=dict)

    def add(self, name: str, files: Tree | None = None, private: bool = False) -> Repo:
        """A repository with a first commit."""
        repo = self.repos[name] = Repo(private)
        repo.commit(files or {}, "initial commit")
        return repo

    def fault_for(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


class NotFound(Exception):
    """404 with the code that clients look at."""

    def __init__(self, code: str):
        self.code = code


class Handler(BaseHTTPRequestHandler):
    """One request. `hub` is set by `serve`."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    answer_is_lost = False

    def log_message(self, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        fault = self.hub.fault_for(self.command, path)
        if fault is not None and fault.done:
            self.answer_is_lost = True
        elif fault is not None and fault.status == 0:
            self.cut()
            return
        body = self.read_body()
        if fault is not None and not fault.done:
            self.send(fault.status, fault.body, fault.headers)
            return
        try:
            self.route(path, body)
        except NotFound as error:
            self.send(404, {"error": error.code}, {"X-Error-Code": error.code, "X-Error-Message": error.code})

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def route(self, path: str, body: bytes) -> None:
        if self.token is not None and self.token not in ROLES:
            self.send(401, {"error": "Invalid credentials"})
        elif path == "/api/whoami-v2":
            self.whoami()
        elif path == "/api/validate-yaml":
            self.send(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path.startswith("/lfs/"):
            self.hub.objects[path.rsplit("/", 1)[-1]] = body
            self.send(200, {})
        elif path.endswith(_LFS_BATCH):
            self.lfs_batch(path.removesuffix(_LFS_BATCH), json.loads(body))
        elif match := _REPO.match(path):
            self.repo_call(match[1], match[2] or "", body)
        elif match := _FILE.match(path):
            self.download(*match.groups())
        else:
            raise NotFound("EntryNotFound")

    @property
    def token(self) -> str | None:
        header = self.headers.get("Authorization")
        return header.removeprefix("Bearer ") if header else None

    @property
    def may_write(self) -> bool:
        return ROLES.get(self.token or "") == "write"

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token is None):
            raise NotFound("RepoNotFound")
        return repo

    def whoami(self) -> None:
        if self.token is None:
            self.send(401, {"error": "Invalid username or password."})
        else:
            role = {"accessToken": {"role": ROLES[self.token]}}
            self.send(200, {"type": "user", "id": "1", "name": OWNER, "orgs": [], "auth": role})

    def create(self, wish: dict[str, Any]) -> None:
        name = f"{wish.get('organization') or OWNER}/{wish['name']}"
        if not self.may_write:
            self.send(403 if self.token else 401, {"error": "You don't have the rights to create a model"})
        elif not name.startswith(f"{OWNER}/"):
            self.send(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif name in self.hub.repos:
            self.send(409, {"error": "You already created this model repo", "url": f"{self.base}/{name}"})
        else:
            private = bool(wish.get("private") or wish.get("visibility") == "private")
            self.hub.add(name, private=private)
            self.send(200, {"url": f"{self.base}/{name}", "name": name, "id": "x"})

    def repo_call(self, name: str, call: str, body: bytes) -> None:
        repo = self.repo(name)
        verb, _, rest = call.partition("/")
        if verb in ("", "revision"):
            self.describe(name, repo, rest or "main")
        elif verb == "tree":
            self.tree(repo, rest.partition("/")[0])
        elif verb in ("preupload", "commit", "branch") and not self.may_write:
            self.send(403, {"error": "Forbidden: this token may only read"})
        elif verb == "preupload":
            self.preupload(name, [file["path"] for file in json.loads(body)["files"]])
        elif verb == "branch":
            self.branch(repo, rest, json.loads(body or b"{}"))
        elif verb == "commit":
            self.commit(name, repo, rest, body)
        else:
            raise NotFound("EntryNotFound")

    def describe(self, name: str, repo: Repo, revision: str) -> None:
        sha = repo.resolve(revision)
        if sha is None:
            raise NotFound("RevisionNotFound")
        siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(repo.commits[sha].items())]
        facts = {"_id": "x", "id": name, "modelId": name, "author": OWNER, "sha": sha, "private": repo.private}
        dates = {"lastModified": _DATE, "createdAt": _DATE, "gated": False, "disabled": False}
        card = _card_data(repo.commits[sha].get("README.md"))
        counts = {"downloads": 0, "likes": 0, "tags": []}
        self.send(200, {**facts, **dates, **counts, "cardData": card, "siblings": siblings})

    def tree(self, repo: Repo, revision: str) -> None:
        sha = repo.resolve(revision)
        if sha is None:
            raise NotFound("RevisionNotFound")
        files = sorted(repo.commits[sha].items())
        self.send(200, [{"type": "file", "oid": _oid(data), "size": len(data), "path": path} for path, data in files])

    def preupload(self, name: str, paths: list[str]) -> None:
        large = ".safetensors" if name.endswith("-lfs") else "\0"
        modes = {path: "lfs" if path.endswith(large) else "regular" for path in paths}
        files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        self.send(200, {"files": files})

    def branch(self, repo: Repo, branch: str, wish: dict[str, Any]) -> None:
        if branch in repo.branches:
            self.send(409, {"error": "Reference already exists"})
        else:
            repo.branches[branch] = repo.branches[wish.get("startingPoint", "main")]
            self.send(200, {})

    def commit(self, name: str, repo: Repo, branch: str, body: bytes) -> None:
        tree, title = dict(repo.files(branch)), ""
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
            elif entry["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
        sha = repo.commit(tree, title, branch)
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.base}/{name}/commit/{sha}"})

    def lfs_batch(self, name: str, wish: dict[str, Any]) -> None:
        wanted = [{"oid": entry["oid"], "size": entry["size"]} for entry in wish["objects"]]
        for entry in wanted:
            entry["actions"] = {"upload": {"href": f"{self.base}/lfs{name}/{entry['oid']}"}}
        self.send(200, {"transfer": "basic", "objects": wanted})

    def download(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name)
        sha = repo.resolve(revision)
        if sha is None:
            raise NotFound("RevisionNotFound")
        data = repo.commits[sha].get(path)
        if data is None:
            code = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": sha}
            self.send(404, {"error": "Entry not found"}, code)
        else:
            self.send(200, data, {"X-Repo-Commit": sha, "ETag": f'"{_oid(data)}"'})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def cut(self) -> None:
        """Reads a little of the body and closes the connection without an answer."""
        self.rfile.read(min(1024, int(self.headers.get("Content-Length") or 0)))
        self.close_without_answer()

    def close_without_answer(self) -> None:
        self.hub.log.append((self.command, self.path, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        if self.answer_is_lost:
            self.answer_is_lost = False
            self.close_without_answer()
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if data is body else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.hub.log.append((self.command, self.path, status))


@contextmanager
def serve() -> Iterator[tuple[Hub, str]]:
    """Runs a Hub on a free port: `with serve() as (hub, url)`."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _card_data(card: bytes | None) -> dict[str, Any]:
    import yaml

    parts = (card or b"").decode().split("---\n")
    return yaml.safe_load(parts[1]) if len(parts) > 2 else {}
