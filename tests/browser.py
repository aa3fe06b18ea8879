"""A real Chromium, driven over its debugging protocol: pages as a person's browser shows them."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from websockets.sync.client import connect

from tests.waiting import wait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One tab of a browser with a profile of its own; names may be mapped to addresses."""

    def __init__(self, profile: Path, names: dict[str, str] | None = None) -> None:
        rules = ",".join(f"MAP {name} {address}" for name, address in (names or {}).items())
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        options += [f"--host-resolver-rules={rules}"] if rules else []
        self._command = [str(CHROMIUM), *options, f"--user-data-dir={profile}", "about:blank"]
        self._noted = profile / "DevToolsActivePort"
        self._number = 0
        self._stack = ExitStack()

    def __enter__(self) -> Browser:
        process = subprocess.Popen(
            self._command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        wait(lambda: self._noted.exists() and "\n" in self._noted.read_text(), "the browser")
        port = self._noted.read_text().split("\n")[0]
        new = f"http://127.0.0.1:{port}/json/new?about:blank"
        with urlopen(Request(new, method="PUT")) as answer:
            target = json.load(answer)["webSocketDebuggerUrl"]
        self._channel = self._stack.enter_context(connect(target, max_size=None))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, page: str) -> None:
        self._call("Page.navigate", url=page)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page; None while it is loading."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result.get("result", {}).get("value")

    def wait(self, expression: str) -> Any:
        """The value of an expression once it is true."""
        return wait(lambda: self.evaluate(expression), expression)

    def shows(self, text: str) -> str:
        """The page's HTML once it holds ``text``."""
        self.wait(f"document.documentElement.outerHTML.includes({json.dumps(text)})")
        return str(self.evaluate("document.documentElement.outerHTML"))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        ask = {"id": self._number, "method": method, "params": parameters}
        self._channel.send(json.dumps(ask))
        while (answer := json.loads(self._channel.recv())).get("id") != self._number:
            pass  # events
        return dict(answer.get("result", {}))
