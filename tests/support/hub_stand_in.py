"""A small server on this machine that answers as the Hugging Face Hub does to one user's requests.

It stands in for the network at the HTTP boundary: huggingface_hub and timm send what they send to
the Hub. It keeps the commits in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

OWNER, TOKEN = "somebody", "hf_of_somebody"


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repos: {repository: {file: bytes}}.
        private: {repository: whether it was made private}.
        messages: the messages of the commits.
        blobs: large files by their SHA-256, before they are committed.
        requests: "METHOD path" of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server that answers within this block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self._answer("POST", self._body())

    def do_PUT(self):
        self._answer("PUT", self._body())

    def do_GET(self):
        self._answer("GET", b"")

    def do_HEAD(self):
        self._answer("HEAD", b"")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, method: str, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{method} {path}")
        for verbs, pattern, name in _ROUTES:
            if method in verbs.split() and (found := re.fullmatch(pattern, path)):
                needs_token = name not in ("stored", "file")
                if needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self._send(401, {"error": "Invalid username or password."})
                return getattr(self, f"_{name}")(*found.groups(), body)
        return self._send(404, {"error": "not found"})

    def _send(self, status: int, value: object = None, content: bytes | None = None, **headers):
        content = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- what is asked for

    def _whoami(self, _):
        self._send(200, {"type": "user", "name": OWNER, "orgs": []})

    def _create(self, body):
        asked = json.loads(body)
        owner = asked.get("organization") or OWNER
        repo = f"{owner}/{asked['name']}"
        if owner != OWNER:
            return self._send(403, {"error": f"You don't have the rights to create under {owner}"})
        answer = {"url": f"{self.server.url}/{repo}", "name": repo}
        if repo in self.server.repos:
            return self._send(409, answer)
        self.server.repos[repo] = {".gitattributes": b""}
        self.server.private[repo] = asked.get("visibility") == "private" or asked.get("private")
        return self._send(200, answer)

    def _info(self, repo, _):
        if repo not in self.server.repos:
            return self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return self._send(200, {"id": repo, "sha": "0" * 40, "siblings": []})

    def _tree(self, repo, _):
        files = self.server.repos[repo]
        rows = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()]
        self._send(200, rows)

    def _validate(self, body):
        text = json.loads(body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            ok = head is not None and isinstance(yaml.safe_load(head[1]), dict)
        except yaml.YAMLError:
            ok = False
        self._send(200 if ok else 400, {} if ok else {"errors": [{"message": "no YAML"}]})

    def _preupload(self, _, body):
        names = [file["path"] for file in json.loads(body)["files"]]
        self._send(200, {"files": [self._how(name) for name in names]})

    def _how(self, name):
        mode = "lfs" if name.endswith(".safetensors") else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, _, body):
        objects = json.loads(body)["objects"]
        for one in objects:
            one["actions"] = {"upload": {"href": f"{self.server.url}/stored/{one['oid']}"}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def _stored(self, digest, body):
        assert hashlib.sha256(body).hexdigest() == digest
        self.server.blobs[digest] = body
        self._send(200, {})

    def _commit(self, repo, body):
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
            else:
                self.server.repos[repo][value["path"]] = self.server.blobs[value["oid"]]
        url = f"{self.server.url}/{repo}/commit/{'0' * 40}"
        self._send(200, {"commitUrl": url, "commitOid": "0" * 40})

    def _file(self, repo, name, _):
        content = self.server.repos.get(repo, {}).get(name)
        if content is None:
            return self._send(404, {"error": "no file"}, X_Error_Code="EntryNotFound")
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._send(200, content=content, ETag=tag, X_Repo_Commit="0" * 40)


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", f"/api/models/{_REPO}/preupload/main", "preupload"),
    ("POST", f"/api/models/{_REPO}/commit/main", "commit"),
    ("GET", f"/api/models/{_REPO}/tree/main", "tree"),
    ("GET", f"/api/models/{_REPO}", "info"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", "/stored/([0-9a-f]{64})", "stored"),
    ("GET HEAD", f"/{_REPO}/resolve/[^/]+/(.+)", "file"),
]
