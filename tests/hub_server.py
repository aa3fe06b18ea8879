"""A small server on loopback that speaks the hub's protocol, as far as ``huggingface_hub`` asks.

A repository is a list of commits, each a folder on disk; ``main`` and tags point to commits.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from lensllm.models import hub


@dataclass
class Repository:
    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, folder: Path, *refs: str) -> str:
        """Make the files of ``folder`` a commit, and ``main`` and ``refs`` point to it."""
        name = hashlib.sha1(str(folder).encode()).hexdigest()
        self.commits[name] = folder
        self.refs |= dict.fromkeys(("main", *refs), name)
        return name


@dataclass
class Hub:
    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = ""  # whose owner may read gated repositories
    broken: int = 0  # a status with which everything is answered
    asked: list[str] = field(default_factory=list)  # method and path of every request
    tokens: set[str] = field(default_factory=set)  # that were sent

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^?]+))?(?:\?.*)?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")


def _handler(served: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            served.asked.append(f"{self.command} {self.path}")
            sent = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            served.tokens |= {sent} - {""}
            if served.broken:
                return self._send(served.broken, {}, b"", body)
            info, file = _INFO.fullmatch(self.path), _FILE.fullmatch(self.path)
            found = info or file
            repository = served.repositories.get(found["repo"]) if found else None
            if not found or repository is None:  # the hub does not tell private from missing
                return self._fail(404 if sent else 401, "RepoNotFound", body)
            revision = unquote(found["revision"] or "main")
            commit = repository.refs.get(revision, revision)
            if commit not in repository.commits:
                return self._fail(404, "RevisionNotFound", body)
            folder = repository.commits[commit]
            if info:
                return self._send(200, {}, _info(found["repo"], commit, folder, repository), body)
            if repository.gated and (not sent or sent != served.token):
                return self._fail(403 if sent else 401, "GatedRepo", body)
            path = folder / found["file"]
            headers = {"X-Repo-Commit": commit}
            if not path.is_file():
                return self._fail(404, "EntryNotFound", body, headers)
            content = path.read_bytes()
            return self._send(
                200, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content, body
            )

        def _fail(self, status: int, code: str, body: bool, headers: Any = None) -> None:
            sent = self.headers.get("authorization")  # a careless server repeats what it was sent
            more = {"X-Error-Code": code, "X-Error-Message": f"{code} for {sent}"}
            self._send(status, {**(headers or {}), **more}, b"", body)

        def _send(self, status: int, headers: dict[str, str], content: bytes, body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    return Handler


def _info(name: str, commit: str, folder: Path, repository: Repository) -> bytes:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {
        "_id": commit,
        "id": name,
        "modelId": name,
        "sha": commit,
        "private": False,
        "gated": "manual" if repository.gated else False,
        "siblings": [
            {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size}
            for path in files
        ],
    }
    return json.dumps(content).encode()


def hub_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fixture: a hub with nothing on it, an empty cache, nobody logged in."""
    with Hub().serving() as serving:
        monkeypatch.setattr(constants, "ENDPOINT", serving.endpoint)
        template = serving.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub, "_known", {})
        yield serving
