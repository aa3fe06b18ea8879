"""Web pages of elsewhere against the servers of a command, in a real browser.

A page of another name, a page of another port of 127.0.0.1 (another user's server) and a page whose
name was rebound to 127.0.0.1 try what a page can: fetches that read, requests that write without
asking first, forms, frames, scripts, images and WebSockets, in a browser that knows nothing of the
servers and in one whose person has opened them. The same page against a server without a door is
the control: there it reads and writes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from websockets.sync.server import serve as serve_sockets

from tests.browser import CHROMIUM, Browser
from tests.e2e.conftest import COMMAND, ROOT, ask, environment, server_of
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS, wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
_PROBES = {  # what a page would ask each kind of server
    "prefect": {
        "reads": ["/api/flows/filter", "/api/admin/settings", "/ui-settings", "/reports/stress/"],
        "writes": "/api/flows/",
        "socket": "/api/events/in",
    },
    "mlflow": {
        "reads": ["/ajax-api/2.0/mlflow/experiments/search?max_results=9", "/version"],
        "writes": "/ajax-api/2.0/mlflow/experiments/create",
        "socket": "/",
    },
}
_PAGE = """<!doctype html><title>elsewhere</title><body><script>
const {target, probes, mark} = %s;
window.found = {};
const note = (name, value) => { window.found[name] = value; };
async function all() {
  for (const path of probes.reads) for (const method of ["GET", "POST"])
    for (const credentials of ["omit", "include"]) {
      const body = method === "POST" ? "{}" : undefined;
      await fetch(target + path, {method, body, credentials}).then(
        r => r.text().then(t => note(`read ${method} ${path}`, `${r.status} ${t}`)), () => {});
    }
  const content = name => JSON.stringify({name: `${mark}-${name}`});
  const headers = {"Content-Type": "application/json"};
  for (const credentials of ["omit", "include"]) {
    await fetch(target + probes.writes, {method: "POST", headers, credentials,
      body: content("preflight")}).catch(() => {});
    await fetch(target + probes.writes, {method: "POST", mode: "no-cors", credentials,
      body: new Blob([content("no-type")])}).catch(() => {});
    await fetch(target + probes.writes, {method: "POST", mode: "no-cors", credentials,
      body: content("text")}).catch(() => {});
  }
  navigator.sendBeacon(target + probes.writes, new Blob([content("beacon")]));
  const form = document.body.appendChild(document.createElement("form"));
  form.method = "post"; form.enctype = "text/plain"; form.target = "frame";
  form.action = target + probes.writes;
  const field = form.appendChild(document.createElement("input"));
  field.name = content("form").slice(0, -1) + ',"x":"'; field.value = '"}';
  const frame = document.createElement("iframe");
  frame.name = "frame"; document.body.appendChild(frame); form.submit();
  const script = document.body.appendChild(document.createElement("script"));
  script.onload = () => note("script", "loaded"); script.src = target + probes.reads[0];
  const image = new Image();
  image.onload = () => note("image", "loaded"); image.src = target + "/ico/favicon.ico";
  await new Promise(done => {
    const socket = new WebSocket(target.replace("http", "ws") + probes.socket, "prefect");
    socket.onopen = () => { note("socket", "open"); done(); };
    socket.onerror = done;
  });
  await new Promise(done => setTimeout(done, 500));
  note("done", true);
}
all();
</script></body>"""


class _Stranger(BaseHTTPRequestHandler):
    """Serves the page; and is, as the control, a server that lets everybody in."""

    page = ""
    written: list[str]

    def do_GET(self) -> None:
        self._answer(self.page if self.path == "/" else "the content")

    def do_POST(self) -> None:
        self.written.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._answer("the content")

    def do_OPTIONS(self) -> None:
        self._answer("")

    def _answer(self, text: str) -> None:
        self.send_response(200)
        origin = self.headers.get("Origin", "*")
        for name, value in {
            "Content-Type": "text/html",
            "Content-Length": str(len(text)),
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Headers": "*, Content-Type",
            "Access-Control-Allow-Credentials": "true",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""


@contextmanager
def page_elsewhere(target: str, kind: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """A server of the page that attacks ``target``: its port, and what others wrote to it."""
    content = {"target": target, "probes": _PROBES[kind], "mark": mark}
    written: list[str] = []
    handler = type("Stranger", (_Stranger,), {"written": written})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        content["target"] = target or f"http://127.0.0.1:{server.server_port}"
        handler.page = _PAGE % json.dumps(content)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, written
        server.shutdown()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    names = {"elsewhere.example": "127.0.0.1", "rebound.example": "127.0.0.1"}
    with Browser(tmp_path / "profile", names) as tab:
        yield tab


def attack(browser: Browser, target: str, kind: str, mark: str) -> dict[str, str]:
    """What pages of elsewhere could read of ``target`` or open there."""
    found: dict[str, str] = {}
    with page_elsewhere(target, kind, mark) as (port, _):
        for host in ("elsewhere.example", "127.0.0.1", "localhost"):
            browser.open(f"http://{host}:{port}/")
            assert browser.wait("window.found && window.found.done"), "the page did not end"
            said = dict(browser.evaluate("window.found"))
            found |= {f"{host}: {name}": value for name, value in said.items() if name != "done"}
    return found


def rebound(browser: Browser, target: str) -> str:
    """What a page shows whose name leads to the server."""
    browser.open(f"http://rebound.example:{urlsplit(target).port}/")
    browser.wait("document.readyState == 'complete' && location.host.startsWith('rebound')")
    return str(browser.evaluate("document.body.innerText"))


def test_the_page_reads_and_writes_where_there_is_no_door(browser: Browser) -> None:
    with page_elsewhere("", "prefect", "mark") as (port, written):
        browser.open(f"http://elsewhere.example:{port}/")
        assert browser.wait("window.found && window.found.done")
        found = browser.evaluate("window.found")
    assert found["read POST /api/flows/filter"] == "200 the content"
    assert found["read GET /ui-settings"] == "200 the content"
    said = "\n".join(written)
    for way in ("preflight", "no-type", "text", "beacon", "form"):
        assert f"mark-{way}" in said, way
    with serve_sockets(lambda socket: None, "127.0.0.1", 0, subprotocols=["prefect"]) as sockets:
        threading.Thread(target=sockets.serve_forever, daemon=True).start()
        address = f"ws://127.0.0.1:{sockets.socket.getsockname()[1]}/"
        browser.evaluate(f"new WebSocket('{address}', 'prefect').onopen = () => {{ up = true }}")
        assert browser.wait("window.up")
        sockets.shutdown()


@contextmanager
def running(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        command = subprocess.Popen(
            [*COMMAND, *arguments], cwd=ROOT, env=environment(), stdout=out, stderr=out
        )
    try:
        yield command
    finally:
        command.send_signal(signal.SIGINT)
        command.wait(HANG_SECONDS)


@pytest.mark.parametrize(
    ("command", "cells"), [("serve", 1), pytest.param("run", 60, marks=pytest.mark.full)]
)
def test_pages_of_elsewhere_neither_read_nor_write(
    tmp_path: Path, browser: Browser, command: str, cells: int
) -> None:
    """Prefect's server of a command that runs, and both servers of ``lensllm ui`` beside it."""
    file = write_pipeline(tmp_path / "project", 2, 4, cells, schedule={"cron": "0 0 1 1 *"})
    artifacts, ui = tmp_path / "artifacts", tmp_path / "ui.log"
    where = ("--artifacts", str(artifacts))
    with (
        running(command, NAME, "--file", str(file), *where, log=tmp_path / "log") as main,
        running("ui", *where, log=ui),
    ):
        wait(lambda: b"Ctrl-C" in ui.read_bytes(), "the pages")
        server = server_of(artifacts)
        links = dict(line.split()[:2] for line in ui.read_text().splitlines()[:2])
        mlflow = links["MLflow:"].partition("/open/")[0]
        for known in (False, True):
            if known:  # from now on the browser holds both secrets
                browser.open(links["Prefect:"])
                assert "Dashboard" in browser.shows("Dashboard")
                browser.open(links["MLflow:"])
                assert "Experiments" in browser.shows("Experiments")
            assert attack(browser, server.page, "prefect", "stranger") == {}
            assert attack(browser, mlflow, "mlflow", "stranger") == {}
            for page in (server.page, mlflow):
                assert rebound(browser, page) == "Only this server's own pages may ask it."
        names = {flow["name"] for flow in ask(server, "/flows/filter", {})}
        assert not [name for name in names if name.startswith("stranger")]
        browser.open(f"{mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=99")
        assert "Default" in browser.shows("Default")
        assert "stranger" not in browser.evaluate("document.body.innerText")
        for page in (f"{server.url}/flows/filter", f"{mlflow}/", f"{server.page}/"):
            with pytest.raises(HTTPError, match="401"):  # another user of this machine
                urlopen(Request(page, b"{}", {"Content-Type": "application/json"}))
        assert main.poll() is None
