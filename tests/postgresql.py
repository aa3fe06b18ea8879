"""A PostgreSQL server of the tests' own, on a loopback port, with its data in a temporary folder.

It refuses to run as root, so under root it runs as the user ``postgres`` of Debian's package.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.waiting import wait

_USER = "postgres"


@cache
def missing() -> str:
    """Why there is none, for ``pytest.mark.skipif``; empty when there is."""
    if _programs() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.getuid() == 0 and not (_user() and shutil.which("setpriv")):
        return f"PostgreSQL does not run as root, and there is no user {_USER} or no setpriv"
    return ""


@contextmanager
def postgresql(*databases: str) -> Iterator[dict[str, str]]:
    """Addresses of new empty ``databases``, ``postgresql://…``, by name."""
    programs = _programs()
    assert programs is not None, missing()
    folder = Path(tempfile.mkdtemp(prefix="lensllm-postgresql-"))
    if os.getuid() == 0:
        shutil.chown(folder, _USER, _USER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    make = [programs / "initdb", "-D", folder / "data", "-U", "lensllm", "-A", "trust", "--no-sync"]
    serve = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
    serve += ["-k", "", "-c", "fsync=off", "-c", "max_connections=200"]
    try:
        subprocess.run([*_as_user(), *make], check=True, capture_output=True, cwd=folder)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([*_as_user(), *serve], stdout=log, stderr=log, cwd=folder)
        try:
            here = ["-h", "127.0.0.1", "-p", str(port), "-U", "lensllm"]
            _wait([programs / "pg_isready", *here], folder / "log")
            for name in databases:
                subprocess.run([programs / "createdb", *here, name], check=True)
            yield {name: f"postgresql://lensllm@127.0.0.1:{port}/{name}" for name in databases}
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:  # it waits for its clients
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or where Debian has the newest."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    return debian[-1] if debian else None


def _user() -> bool:
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return False
    return True


def _as_user() -> list[str]:
    if os.getuid() != 0:
        return []
    who = [f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    return ["setpriv", *who, "--pdeathsig=QUIT"]


def _wait(ready: list[str | Path], log: Path) -> None:
    wait(
        lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0,
        log.read_text,
    )
