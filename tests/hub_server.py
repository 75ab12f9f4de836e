"""A Hub on this machine: the HTTP calls that huggingface_hub 2.x makes to push and pull, and their failures.

Two servers: the Hub itself, and the storage to which large files go by signed addresses (another origin, to which no
token may be sent). The protocol is the one of huggingface_hub's `hf_api.py`, `_commit_api.py`, `lfs.py` and
`file_download.py` with ``HF_HUB_DISABLE_XET=1``: create, preupload, LFS batch (one part and several), commit, tree,
revision and resolve.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".parquet", ".safetensors")
TOKEN = "hf_" + "Kq7xWz3Tb9" * 3 + "Mn5v"
"""May write."""
READER = "hf_" + "Ra2cYd8Ue4" * 3 + "Pj1s"
SIGNATURE = "c2lnbmF0dXJlIG9mIHRoZSBzdG9yYWdl"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose ``METHOD path`` matches `pattern`."""

    pattern: str
    status: int = 0
    """Answered in place of the real answer; 0 cuts the line instead."""
    times: int = 1
    after: int | None = None
    """With status 0: bytes of the body after which the line is cut."""
    error: str = "out of order"
    code: str = ""
    """X-Error-Code"""
    carried_out: bool = False
    """The request takes effect, and only its answer is lost."""


@dataclass
class Repo:
    private: bool
    gated: bool = False
    commits: list[dict[str, Any]] = field(default_factory=list)
    """``oid``, ``message``, ``description`` and ``files``: path to ``{"oid", "size", "lfs"}``."""

    @property
    def files(self) -> dict[str, Any]:
        return self.commits[-1]["files"]

    def at(self, revision: str) -> dict[str, Any] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit["oid"] == revision), None)


@dataclass
class Request:
    method: str
    path: str
    authorised: bool
    received: int = 0


class HubServer:
    """Start with `with HubServer() as hub`; `hub.url` is the endpoint."""

    def __init__(self, part_size: int | None = None) -> None:
        self.tokens: dict[str, tuple[str, bool]] = {}
        """Owner and whether it may write, by token."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.part_size = part_size
        self.lock = threading.RLock()
        self._hub = _serve(self, _HubHandler)
        self._storage = _serve(self, _StorageHandler)
        self.url = f"http://127.0.0.1:{self._hub.server_address[1]}"
        self.storage = f"http://127.0.0.1:{self._storage.server_address[1]}"

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    def repo(self, name: str, kind: str = "datasets") -> Repo:
        return self.repos[kind, name]

    def add(self, name: str, kind: str = "datasets", *, private: bool = False, gated: bool = False) -> Repo:
        self.repos[kind, name] = Repo(private, gated)
        self.commit(self.repos[kind, name], {}, "initial commit")
        return self.repos[kind, name]

    def put(self, name: str, files: dict[str, bytes], kind: str = "datasets") -> str:
        """Commit files; those of large suffixes go to the storage."""
        changes = {}
        for path, content in files.items():
            if path.endswith(LARGE):
                changes[path] = self.keep_large(content)
            else:
                changes[path] = self.keep_blob(content)
        return self.commit(self.repo(name, kind), changes, "put")

    def commit(self, repo: Repo, changes: dict[str, Any], message: str, description: str = "") -> str:
        files = {**(repo.files if repo.commits else {}), **changes}
        files = {path: entry for path, entry in files.items() if entry is not None}
        oid = hashlib.sha1(repr((len(repo.commits), sorted(files.items()), message)).encode()).hexdigest()
        repo.commits.append({"oid": oid, "message": message, "description": description, "files": files})
        return oid

    def keep_blob(self, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.blobs[oid] = content
        return {"oid": oid, "size": len(content), "lfs": None}

    def keep_large(self, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha256(content).hexdigest()
        self.large[oid] = content
        return {"oid": hashlib.sha1(oid.encode()).hexdigest(), "size": len(content), "lfs": oid}

    def content(self, name: str, path: str, kind: str = "datasets") -> bytes:
        entry = self.repo(name, kind).files[path]
        return self.large[entry["lfs"]] if entry["lfs"] else self.blobs[entry["oid"]]

    def asked(self, pattern: str) -> list[Request]:
        """Requests so far whose ``METHOD path`` matches."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, f"{method} {path}"):
                    fault.times -= 1
                    return fault
        return None


def _serve(hub: HubServer, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    routes: tuple[tuple[str, str], ...] = ()

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        authorisation = self.headers.get("Authorization", "")
        self.token = authorisation.removeprefix("Bearer ")
        request = Request(self.command, path, bool(authorisation))
        with self.hub.lock:
            self.hub.requests.append(request)
        fault = self.hub.fault(self.command, path)
        self.cut_after = fault.after if fault and not fault.status else None
        if fault and not fault.status and self.command in ("PUT", "POST") and not fault.carried_out:
            self.rfile.read(min(fault.after or 0, int(self.headers.get("Content-Length", 0))))
            self.cut()
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request.received = len(self.body)
        if fault and fault.status and not fault.carried_out:
            self.fail(fault.status, fault.error, fault.code)
        elif fault and not fault.status and fault.after is None and not fault.carried_out:
            self.cut()
        else:
            self.lost = bool(fault and fault.carried_out)
            self.answer(path)

    do_GET = do_HEAD = do_PUT = do_POST = do

    def answer(self, path: str) -> None:
        for pattern, name in self.routes:
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found:
                method: Callable[..., None] = getattr(self, name)
                method(*found.groups())
                return
        self.fail(404, f"no such address {path}")

    def send(self, status: int, body: bytes = b"", headers: dict[str, Any] | None = None) -> None:
        if getattr(self, "lost", False):
            self.cut()
            return
        self.send_response(status)
        headers = headers or {}
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            if self.cut_after is not None:
                self.wfile.write(body[: self.cut_after])
                self.wfile.flush()
                self.cut()
            else:
                self.wfile.write(body)

    def send_json(self, value: Any, status: int = 200, headers: dict[str, Any] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def fail(self, status: int, error: str, code: str = "") -> None:
        """An error; like a careless server it quotes the token it was given."""
        error = f"{error} (given: {self.token})" if self.token else error
        headers = {"X-Error-Message": error, **({"X-Error-Code": code} if code else {})}
        self.send_json({"error": error}, status, headers)

    def cut(self) -> None:
        """Break the line with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class _HubHandler(_Handler):
    routes = (
        (r"POST /api/repos/create", "create"),
        (r"POST /api/validate-yaml", "validate"),
        (r"GET /api/(datasets|models)/([^/]+/[^/]+)", "info"),
        (r"GET /api/(datasets|models)/([^/]+/[^/]+)/revision/(.+)", "info"),
        (r"GET /api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", "tree"),
        (r"POST /api/(datasets|models)/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        (r"POST /api/(datasets|models)/([^/]+/[^/]+)/commit/([^/]+)", "take_commit"),
        (r"POST /(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        (r"POST /complete/(\w+)", "complete"),
        (r"(?:GET|HEAD) /(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def user(self) -> tuple[str, bool] | None:
        return self.hub.tokens.get(self.token)

    def found(self, kind: str, name: str, writing: bool = False) -> Repo | None:
        """The repository, or None once the answer was an error."""
        user = self.user()
        repo = self.hub.repos.get((kind, name))
        mine = bool(user and user[0] == name.partition("/")[0])
        if self.token and user is None:
            self.fail(401, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not mine):
            self.fail(404 if user else 401, "Repository not found", "RepoNotFound")
        elif writing and not (user and user[1] and mine):
            self.fail(403 if user else 401, "You don't have the rights to write")
        else:
            return repo
        return None

    def create(self) -> None:
        asked = json.loads(self.body)
        user = self.user()
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if user is None:
            self.fail(401, "Invalid username or password.")
        elif (kind, name) in self.hub.repos:
            self.send_json({"error": "You already created this repo", "url": url}, 409)
        elif not user[1] or asked["organization"] != user[0]:
            self.fail(403, "You don't have the rights to create a repo under this namespace")
        else:
            self.hub.add(name, kind, private=asked.get("visibility") == "private")
            self.send_json({"url": url, "name": name})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        metadata = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        base = metadata.get("base_model", "a/b")
        errors = [] if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else [{"message": '"base_model" is not a model id'}]
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self.found(kind, name)
        if repo is None:
            return
        commit = repo.at(revision)
        if commit is None:
            self.fail(404, "Invalid rev id", "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in commit["files"]]
        state = {"private": repo.private, "gated": "manual" if repo.gated else False, "siblings": siblings}
        self.send_json({"id": name, "sha": commit["oid"], "tags": [], "downloads": 0, "likes": 0, **state})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        """Of the whole repository, or of a folder: its own entries, or with ?recursive=True all below."""
        repo = self.found(kind, name)
        commit = repo and repo.at(revision)
        if not commit:
            return
        start = f"{folder}/" if folder else ""
        files = {path: entry for path, entry in sorted(commit["files"].items()) if path.startswith(start)}
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {".", folder}
        if folder and not files:
            self.fail(404, f"{folder} does not exist", "EntryNotFound")
            return
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            files = {path: entry for path, entry in files.items() if "/" not in path[len(start) :]}
            folders = {each for each in folders if each.startswith(start) and "/" not in each[len(start) :]}
        rows: list[dict[str, Any]] = []
        for path, entry in files.items():
            large = {"oid": entry["lfs"], "size": entry["size"], "pointerSize": 130} if entry["lfs"] else None
            row = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
            rows.append({**row, **({"lfs": large} if large else {})})
        rows += [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders)]
        self.send_json(rows)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self.found(kind, name, writing=True)
        if repo is None:
            return
        rows = []
        for file in json.loads(self.body)["files"]:
            standing = repo.files.get(file["path"])
            large = file["path"].endswith(LARGE)
            oid = standing and (standing["lfs"] or standing["oid"])
            mode = "lfs" if large else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": rows})

    def batch(self, prefix: str | None, name: str) -> None:
        if self.found("datasets" if prefix else "models", name, writing=True) is None:
            return
        objects: list[dict[str, Any]] = []
        for asked in json.loads(self.body)["objects"]:
            entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large:
                entry["actions"] = {"upload": self.upload(asked["oid"], asked["size"])}
            objects.append(entry)
        self.send_json({"transfer": "multipart" if self.hub.part_size else "basic", "objects": objects})

    def upload(self, oid: str, size: int) -> dict[str, Any]:
        if not self.hub.part_size:
            return {"href": f"{self.hub.storage}/{oid}?X-Signature={SIGNATURE}"}
        parts = -(-size // self.hub.part_size)
        urls = {str(n): f"{self.hub.storage}/{oid}/{n}?X-Signature={SIGNATURE}" for n in range(1, parts + 1)}
        return {"href": f"{self.hub.url}/complete/{oid}", "header": {"chunk_size": str(self.hub.part_size), **urls}}

    def complete(self, oid: str) -> None:
        parts = json.loads(self.body)["parts"]
        content = b"".join(self.hub.parts[oid, part["partNumber"]] for part in parts)
        if hashlib.sha256(content).hexdigest() != oid:
            self.fail(400, "the parts are not the file")
            return
        self.hub.large[oid] = content
        self.send_json({})

    def take_commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.found(kind, name, writing=True)
        if repo is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        changes: dict[str, Any] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                changes[value["path"]] = None
            elif line["key"] == "file":
                changes[value["path"]] = self.hub.keep_blob(base64.b64decode(value["content"]))
            elif value["oid"] in self.hub.large:
                changes[value["path"]] = self.hub.keep_large(self.hub.large[value["oid"]])
            else:
                self.fail(400, f"LFS object {value['oid']} was never uploaded")
                return
        with self.hub.lock:
            oid = self.hub.commit(repo, changes, header["summary"], header["description"])
        self.send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        repo = self.found("datasets" if prefix else "models", name)
        if repo is None:
            return
        if repo.gated and (self.user() or ("",))[0] != name.partition("/")[0]:
            self.fail(403 if self.user() else 401, f"Access to {name} is restricted", "GatedRepo")
            return
        commit = repo.at(revision)
        entry = commit and commit["files"].get(path)
        if commit is None:
            self.fail(404, "Invalid rev id", "RevisionNotFound")
        elif entry is None:
            self.fail(404, "Entry not found", "EntryNotFound")
        elif entry["lfs"]:
            linked = {"X-Linked-Etag": f'"{entry["lfs"]}"', "X-Linked-Size": entry["size"]}
            location = f"{self.hub.storage}/{entry['lfs']}?X-Signature={SIGNATURE}"
            self.send(302, b"", {"X-Repo-Commit": commit["oid"], "Location": location, **linked})
        else:
            content = self.hub.blobs[entry["oid"]]
            self.send(200, content, {"X-Repo-Commit": commit["oid"], "ETag": f'"{entry["oid"]}"'})


class _StorageHandler(_Handler):
    routes = (
        (r"PUT /(\w+)", "put"),
        (r"PUT /(\w+)/(\d+)", "put"),
        (r"(?:GET|HEAD) /(\w+)", "get"),
    )

    def signed(self) -> bool:
        """Signed addresses are all the storage takes; a token that reaches it was given away."""
        if self.query.get("X-Signature") == [SIGNATURE] and not self.token:
            return True
        self.fail(403, "not signed, or a token was sent")
        return False

    def put(self, oid: str, part: str | None = None) -> None:
        if not self.signed():
            return
        if part:
            self.hub.parts[oid, int(part)] = self.body
        elif hashlib.sha256(self.body).hexdigest() == oid:
            self.hub.large[oid] = self.body
        else:
            self.fail(400, "the content is not what was announced")
            return
        self.send(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def get(self, oid: str) -> None:
        if not self.signed():
            return
        content = self.hub.large[oid]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if wanted else {}
        self.send(206 if wanted else 200, content[start:], {"ETag": f'"{oid}"', **ranged})
