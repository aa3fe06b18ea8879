"""Who is let in to a loopback server: every combination that a browser or a neighbour may send."""

import base64
import os

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.server.access import AccessControl, authorization, entry_link, new_secret

PORT = 4200
OWN = f"http://127.0.0.1:{PORT}"
SECRET = "lensllm:a-secret-of-forty-three-characters-as-theirs"
KEY = {"Authorization": authorization(SECRET)}


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("content")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("content")
    await socket.close()


@pytest.fixture
def client() -> TestClient:
    routes = [
        Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
        WebSocketRoute("/{path:path}", talk),
    ]
    app = Starlette(routes=routes)
    closed = AccessControl(app, PORT, SECRET, open_paths={"/api/health"}, sockets="/api/")
    return TestClient(closed, base_url=OWN)


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}"])
def test_whoever_has_the_secret_is_let_in_by_each_name_of_loopback(
    client: TestClient, host: str
) -> None:
    for more in ({}, {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}):
        assert client.get("/api/flows", headers={**KEY, "Host": host, **more}).text == "content"


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "", "localhost",
     f"127.0.0.1.evil.example:{PORT}", f"192.168.0.7:{PORT}", f"0.0.0.0:{PORT}",
     f"127.0.0.1:{PORT}@evil.example"],
)  # fmt: skip
def test_another_host_is_refused_with_the_secret_too(client: TestClient, host: str) -> None:
    for path in (
        "/",
        "/api/health",
        "/api/flows",
        "/reports/a/report.html",
        entry_link("", SECRET, os.getpid()),
    ):
        assert client.get(path, headers={**KEY, "Host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", f"https://127.0.0.1:{PORT}", f"http://127.0.0.1:{PORT + 1}",
     "http://127.0.0.1", f"{OWN}.evil.example", "file://", f"127.0.0.1:{PORT}", ""],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_another_origin_is_refused_with_the_secret_too(
    client: TestClient, method: str, origin: str
) -> None:
    answered = client.request(method, "/api/flows", headers={**KEY, "Origin": origin})
    assert answered.status_code == 403
    assert not [name for name in answered.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")],
)
def test_what_a_page_elsewhere_embeds_is_refused(
    client: TestClient, site: str, mode: str, kind: str
) -> None:
    says = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": kind}
    assert client.get("/api/flows", headers={**KEY, **says}).status_code == 403
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/runs", headers={**KEY, **link}).status_code == 200  # a person follows it
    assert client.post("/runs", headers={**KEY, **link}).status_code == 403


@pytest.mark.parametrize(
    "header",
    ["", "Basic", f"Bearer {SECRET}", "Basic " + base64.b64encode(b"lensllm:").decode(),
     authorization(SECRET + "x"), authorization("lensllm:another-one"), authorization(SECRET).lower(), "é"],
)  # fmt: skip
def test_without_the_secret_there_is_nothing_but_health(client: TestClient, header: str) -> None:
    headers = {"Authorization": header.encode()}
    for path in ("/", "/api/flows", "/reports/a/report.html", "/api/health/", "/api//health"):
        refused = client.get(path, headers=headers)
        assert (refused.status_code, "lensllm ui" in refused.text) == (401, True)
    assert client.post("/api/health", headers=headers).status_code == 401
    assert client.get("/api/health", headers=headers).text == "content"


def test_a_link_lets_one_browser_in_once(client: TestClient) -> None:
    link = entry_link(OWN, SECRET, os.getpid())
    page = client.get(link)
    assert page.status_code == 200
    assert SECRET.partition(":")[2] in page.text
    assert page.headers["cache-control"] == "no-store"
    again = client.get(link)
    assert (again.status_code, SECRET.partition(":")[2] in again.text) == (403, False)
    assert "lensllm ui" in again.text
    assert client.get(entry_link(OWN, SECRET, os.getpid())).status_code == 200  # another one


def test_a_link_of_another_secret_lets_nobody_in(client: TestClient) -> None:
    for link in (
        entry_link(OWN, new_secret(), os.getpid()),
        entry_link(OWN, SECRET, os.getpid() + 1),
        f"{OWN}/open/x",
        f"{OWN}/open/é.é",
    ):
        refused = client.get(link)
        assert (refused.status_code, SECRET.partition(":")[2] in refused.text) == (403, False)


@pytest.mark.parametrize(
    ("path", "headers", "lets_in"),
    [
        ("/api/events/in", {}, True),  # Prefect asks for the secret itself
        ("/api/events/in", {"Origin": OWN}, True),
        ("/api/events/in", {"Origin": "http://evil.example"}, False),
        ("/api/events/in", {"Origin": "null"}, False),
        ("/api/events/in", {"Host": f"evil.example:{PORT}"}, False),
        ("/elsewhere", KEY, False),
    ],
)
def test_sockets(client: TestClient, path: str, headers: dict[str, str], lets_in: bool) -> None:
    if lets_in:
        with client.websocket_connect(f"ws://127.0.0.1:{PORT}{path}", headers=headers) as socket:
            assert socket.receive_text() == "content"
    else:
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(f"ws://127.0.0.1:{PORT}{path}", headers=headers),
        ):
            pass


def test_no_page_can_be_put_into_a_strangers_frame(client: TestClient) -> None:
    assert client.get("/", headers=KEY).headers["x-frame-options"] == "SAMEORIGIN"
