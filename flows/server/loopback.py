"""Servers on this machine's loopback: a socket for one, its health, its records, its log.

Proxies have no business here, so requests go through ``http.client``, which knows none.
"""

import json
import socket
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.server.access import authorization
from lensllm.core.errors import ConfigError
from lensllm.core.processes import alive

_START_SECONDS = 1800.0  # against hanging; 4-8 s on an idle machine
_QUEUE = 2048  # connections that wait for a server that is being started

_COUNT_INTERVAL_SECONDS = 0.2
_SETTLED_SECONDS = 1.2  # longer than a flush interval: with no change in it, all is written
_STUCK_SECONDS = 2.5  # with no change in it, the unfinished task runs are a dead process's
WRITE_TIMEOUT_SECONDS = 120.0

# Prefect's recorder commits every event by itself by default, 29 CPU-seconds for 1,000 task runs;
# in batches 8 s. A batch that does not fill up waits for the interval.
RECORDER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


def listener(port: int | None) -> socket.socket:
    """A socket that listens at a loopback port, to be handed to the server's process.

    Nobody can take the port in between, and a port in use is noticed at once.

    Args:
        port: None for a free one.

    Raises:
        ConfigError: the port is in use.
    """
    bound = socket.socket()
    if port:  # one that was in use a moment ago will do; a free one must be free for certain
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port or 0))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Port {port} of 127.0.0.1 cannot be used ({error.strerror}): "
            "choose another one, or leave it out to get a free one."
        ) from error
    bound.listen(_QUEUE)  # before the next line, with which another process could do so
    # Connections inherit the option: a dead server's do not keep its successor from the port.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return bound


def answers(url: str) -> bool:
    """Return whether a GET of ``url`` gives status 200."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def wait_until_up(url: str, pid: int, start: float) -> bool:
    """Wait for ``url``; False if its process ends before it answers, or it hangs.

    Args:
        pid, start: number of the server's process, and its start as ``processes.started`` gives it.
    """
    deadline = time.monotonic() + _START_SECONDS
    while alive(pid, start) and time.monotonic() < deadline:
        if answers(url):
            return True
        time.sleep(0.05)
    return False


def wait_until_written(url: str, secret: str) -> None:
    """Return once Prefect's server at ``url`` has written every task run it was sent.

    Task runs reach the server as events on a queue in its memory. When a flow returns, the last
    seconds of it are not in the database yet, and a server that stopped then would show those tasks
    as running for ever. The server does not tell the length of its queue, so the numbers of task
    runs are watched until they rest.
    """
    begin = changed = time.monotonic()
    before = None
    while (now := time.monotonic()) - begin < WRITE_TIMEOUT_SECONDS:
        try:
            unfinished = _count(url, secret, {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
            counts = (_count(url, secret, {}), unfinished)
        except (OSError, HTTPException, ValueError):
            return  # a dead server writes no more
        if counts != before:
            before, changed = counts, now
        if now - changed >= (_STUCK_SECONDS if unfinished else _SETTLED_SECONDS):
            return
        time.sleep(_COUNT_INTERVAL_SECONDS)


def _count(url: str, secret: str, task_runs: dict[str, Any]) -> int:
    """Number of task runs that pass the filter ``task_runs``."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        body = json.dumps({"task_runs": task_runs})
        headers = {"Content-Type": "application/json", "Authorization": authorization(secret)}
        connection.request("POST", f"{parts.path}/task_runs/count", body, headers)
        return int(connection.getresponse().read())
    finally:
        connection.close()


def last_line(log: Path) -> str:
    """A clause for messages: the path of a server's log, and the last line in it."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"its log {log} ends with: {last}"
