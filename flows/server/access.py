"""Access control for a server on loopback: its own pages and holders of its secret are let in.

Prefect's and MLflow's servers serve every request that reaches them, and every web page in a
browser of this machine and every other user can reach 127.0.0.1. ``AccessControl`` stands before
such a server and refuses

- a Host header that is no loopback name with the server's port: a name that was rebound to
  127.0.0.1 makes a stranger's page look like the server's own,
- a request that another origin's page sends, be it a fetch, a form, an image or a WebSocket,
- a request without the secret, as HTTP basic authentication.

A person enters by a link that works once (``entry_link``). Its page hands the secret to the
browser, which keeps it for this origin, port included. A cookie would go to every port of
127.0.0.1, to those of other users too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

MLFLOW_SECRET = "LENSLLM_MLFLOW_SECRET"  # environment variable with the secret of MLflow's page

_USER = "lensllm"
_ENTRY = "/open/"
_CLOSED = "This page opens by the link that `lensllm ui` prints."
# The pages of Prefect ask for the secret where its own login form would have put it.
_PAGE = """<!doctype html><meta charset="utf-8"><title>lensllm</title><p>Opening …</p>
<script nonce="{nonce}">
localStorage.setItem("prefect-password", "{basic}");
const request = new XMLHttpRequest();
request.open("GET", "/open/", true, "{user}", "{password}");
request.onloadend = () => location.replace("/");
request.send();
</script>"""
_USED = """<!doctype html><meta charset="utf-8"><title>lensllm</title>
<p>This link has been used, or its server is gone: <code>lensllm ui</code> prints another one.</p>
<p>If this browser has opened the page before: <a href="/">go on</a>.</p>"""


def new_secret() -> str:
    """A secret in the form of Prefect's PREFECT_API_AUTH_STRING, ``user:password``."""
    return f"{_USER}:{secrets.token_urlsafe(32)}"


def authorization(secret: str) -> str:
    """The value of the Authorization header that shows ``secret``."""
    return f"Basic {_basic(secret)}"


def entry_link(page: str, secret: str, process: int) -> str:
    """A link to the server at ``page``, number ``process``, that lets one browser in, once."""
    number = secrets.token_urlsafe(8)
    return f"{page}{_ENTRY}{number}.{_signature(secret, process, number)}"


class AccessControl:
    """ASGI middleware that refuses what the module's text lists and passes the rest on.

    Args:
        app: the server.
        port: where it listens on loopback.
        secret: as ``new_secret`` made it.
        open_paths: paths that may be read without the secret, for health checks.
        sockets: prefix of the paths whose WebSockets the server authenticates itself, by their
            first message; other WebSockets are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: int,
        secret: str,
        *,
        open_paths: Collection[str] = (),
        sockets: str | None = None,
    ) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._secret = secret
        self._open_paths = open_paths
        self._sockets = sockets
        self._used: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        trusted = self._is_ours(headers) and not _crosses_sites(headers, scope)
        if scope["type"] == "websocket":
            known = self._sockets is not None and path.startswith(self._sockets)
            await (self._app if trusted and known else WebSocketClose(1008))(scope, receive, send)
            return
        answer = self._answer(headers, scope["method"], path) if trusted else _forbidden()
        await (answer or self._app)(scope, receive, _guarded(send))

    def _is_ours(self, headers: Headers) -> bool:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        return (
            len(hosts) == 1
            and hosts[0].lower() in self._hosts
            and all(origin.lower() in self._origins for origin in origins)
        )

    def _answer(self, headers: Headers, method: str, path: str) -> Response | None:
        """The response in the server's place; None to pass the request on."""
        if method == "GET" and path in self._open_paths:
            return None
        if method == "GET" and path.startswith(_ENTRY) and path != _ENTRY:
            return self._entry(path.removeprefix(_ENTRY))
        shown = headers.get("authorization", "")
        if hmac.compare_digest(shown.encode(), authorization(self._secret).encode()):
            return PlainTextResponse("") if path == _ENTRY else None
        challenge = {"WWW-Authenticate": f'Basic realm="{_USER}"'}
        return PlainTextResponse(_CLOSED, 401, challenge)

    def _entry(self, ticket: str) -> Response:
        """The page that hands the secret to the browser, the first time it is asked for."""
        number, _, signature = ticket.partition(".")
        # Signed for this process: its successor with the same secret would not know the used links.
        expected = _signature(self._secret, os.getpid(), number)
        if number in self._used or not hmac.compare_digest(signature.encode(), expected.encode()):
            return HTMLResponse(_USED, 403)
        self._used.add(number)
        nonce, (user, _, password) = secrets.token_urlsafe(16), self._secret.partition(":")
        page = _PAGE.format(nonce=nonce, basic=_basic(self._secret), user=user, password=password)
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; connect-src 'self'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _crosses_sites(headers: Headers, scope: Scope) -> bool:
    """True if the browser says that a page of another site or port sends the request.

    A link that a person follows is none: what it opens is not shown to the page it stands on.
    """
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    followed = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return scope.get("method") != "GET" or followed != ("navigate", "document")


def _guarded(send: Send) -> Send:
    """Wrap ``send`` with headers that forbid other sites' frames and keep the address private."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("X-Frame-Options", "SAMEORIGIN")
            headers.setdefault("Referrer-Policy", "same-origin")
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return guarded


def _forbidden() -> Response:
    return PlainTextResponse("Only this server's own pages may ask it.", 403)


def _basic(secret: str) -> str:
    return base64.b64encode(secret.encode()).decode()


def _signature(secret: str, process: int, number: str) -> str:
    text = f"entry {process} {number}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
