"""Let the server write down what it was told before it goes.

Task runs reach the server as events on a queue it keeps in memory: when a flow returns, the last
seconds of it are not in the database yet, and a server stopped then would show those tasks as
running for ever.
"""

import json
import logging
import sys
import time
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from flows.server.access import authorization

_LOOK_SECONDS = 0.2
_STILL_SECONDS = 1.2  # nothing new for so long, which is more than an interval: all is written
_STUCK_SECONDS = 2.5  # nothing new for so long: what is unfinished was left by a dead process
_PATIENCE_SECONDS = 120.0

# Settings of the server's recorder: by default it commits every event by itself, 29 CPU-seconds
# for 1,000 task runs; in batches 8 s. A batch that does not fill up waits for the interval.
SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


def send_everything() -> None:
    """Send the events and log lines that Prefect, if it was used at all, still holds here."""
    for module, name in (
        ("prefect.events.worker", "EventsWorker"),
        ("prefect.logging.handlers", "APILogWorker"),
    ):
        if module in sys.modules:
            logging.getLogger(name).setLevel(logging.ERROR)  # it would count down on the console
            getattr(sys.modules[module], name).drain_all(timeout=_PATIENCE_SECONDS)


def wait_until_written(url: str, secret: str) -> None:
    """Return once the server at ``url``, which knows ``secret``, has written every task run it was
    told of.

    It does not say how much it has left, so we watch the numbers of task runs until they rest.
    """
    begin = changed = time.monotonic()
    before = None
    while (now := time.monotonic()) - begin < _PATIENCE_SECONDS:
        try:
            unfinished = _count(url, secret, {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
            counts = (_count(url, secret, {}), unfinished)
        except (OSError, HTTPException, ValueError):
            return  # a server that is gone writes no more
        if counts != before:
            before, changed = counts, now
        if now - changed >= (_STUCK_SECONDS if unfinished else _STILL_SECONDS):
            return
        time.sleep(_LOOK_SECONDS)


def _count(url: str, secret: str, task_runs: dict[str, Any]) -> int:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        body = json.dumps({"task_runs": task_runs})
        headers = {"Content-Type": "application/json", "Authorization": authorization(secret)}
        connection.request("POST", f"{parts.path}/task_runs/count", body, headers)
        return int(connection.getresponse().read())
    finally:
        connection.close()
