"""What a run leaves behind and opens, with secrets planted and names that are traps."""

import base64
import http.server
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from flows.server.prefect_server import Server
from tests.browser import CHROMIUM as BROWSER
from tests.browser import Browser
from tests.e2e.conftest import COMMAND, ROOT, ask, environment, lensllm, server_of
from tests.stress import NAME, write_pipeline
from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow
SECRETS = {
    "HF_TOKEN": "hf_plantedPlantedPlanted",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "PREFECT_API_KEY": "pnu_plantedPlantedPlanted",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret",
}
PASSWORD = "planted-in-the-address"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, set[str]]:
    """A run with secrets everywhere: its artifacts folder, what it printed, where it listened."""
    folder = tmp_path_factory.mktemp("planted")
    artifacts = folder / "artifacts"
    # nobody listens there, so what cannot be written is warned of
    tracking = {"uri": f"http://somebody:{PASSWORD}@127.0.0.1:9"}
    file = write_pipeline(folder, candidates=2, sizes=4, seeds=1, tracking=tracking)
    command = subprocess.Popen(
        [*COMMAND, "run", NAME, "--file", str(file), "--artifacts", str(artifacts)],
        cwd=ROOT,
        env=environment() | SECRETS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    listened: set[str] = set()
    watcher = threading.Thread(target=_watch, args=(command, listened), daemon=True)
    watcher.start()
    said, _ = command.communicate(timeout=HANG_SECONDS)
    assert command.returncode == 0, said
    return artifacts, said, listened


def _watch(command: subprocess.Popen[str], listened: set[str]) -> None:
    """Note every address that the command or a child of it listens at."""
    while command.poll() is None:
        try:
            family = [root := psutil.Process(command.pid), *root.children(recursive=True)]
            for process in family:
                for connection in process.net_connections():
                    if connection.status == psutil.CONN_LISTEN:
                        listened.add(connection.laddr.ip)
        except psutil.Error:
            continue
        command_ended.wait(0.2)


command_ended = threading.Event()  # never set: a wait that costs no processor


def test_no_secret_is_printed_or_written(planted: tuple[Path, str, set[str]]):
    artifacts, said, _ = planted
    wanted = [text.encode() for text in (*SECRETS.values(), PASSWORD) if text != "somebody"]
    own = server_of(artifacts).secret.encode()  # of the embedded server, in its note alone
    wanted += [own, own.partition(b":")[2], base64.b64encode(own)]
    note = artifacts / "prefect" / "server.json"
    files = [path for path in artifacts.rglob("*") if path.is_file() and path != note]
    assert {"prefect.db", "report.html", "manifest.json"} <= {path.name for path in files}
    for content, where in [(said.encode(), "output"), *((p.read_bytes(), str(p)) for p in files)]:
        assert [text for text in wanted if text in content] == [], where
    report = artifacts / "reports" / NAME / "report.html"
    assert b"http://***@127.0.0.1:9" in report.read_bytes()


def test_every_server_of_a_run_listens_on_loopback_only(planted: tuple[Path, str, set[str]]):
    assert planted[2]
    assert planted[2] <= {"127.0.0.1", "::1"}


def test_everything_a_run_writes_is_its_users_alone(planted: tuple[Path, str, set[str]]):
    artifacts = planted[0]
    # but for Prefect's web page, whose files have the modes of the package: in a closed folder
    assert (artifacts / "prefect").stat().st_mode & 0o777 == 0o700
    open_to_others = [
        path
        for path in artifacts.rglob("*")
        if "ui" not in path.relative_to(artifacts).parts
        and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    assert open_to_others == []


# --- names that are traps -------------------------------------------------------------------------
class _Canary(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        _Canary.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""


@pytest.fixture(scope="module")
def canary() -> Iterator[str]:
    """Where a script that runs would call."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Canary)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def browse(page: str, profile: Path, wait_ms: int = 3000) -> str:
    """The page's DOM after its scripts ran."""
    seen = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={profile}", f"--virtual-time-budget={wait_ms}", "--dump-dom"),
            page,
        ],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
    )
    return seen.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_browser_would_run_such_a_script(canary: str, tmp_path: Path):
    page = tmp_path / "trap.html"
    page.write_text(f"<title>x</title>{_trap(canary, 'control')}")
    assert "<title>pwned</title>" in browse(page.as_uri(), tmp_path / "profile")
    assert "/control" in _Canary.asked


def _trap(canary: str, name: str) -> str:
    """Without commas and quotes, so that it can stand in a table and in attributes."""
    act = f"document.title=`pwned`;fetch(`{canary}/{name}`)"
    return f"<script>{act}</script><img src=x onerror={act}>"


@pytest.fixture(scope="module")
def hostile(canary: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A replay of candidates whose names are traps: its artifacts folder and what it printed."""
    folder = tmp_path_factory.mktemp("hostile")
    sizes = [0, *(100 * 2**k for k in range(8))]
    lines = ["candidate,size,loss,family"]
    names = (_trap(canary, "name"), "[red]b[/red]\x1b]0;pwned\x07", "../../c", "d")
    for i, name in enumerate(names):
        family = _trap(canary, "family") if i % 2 else "plain"
        lines += [f"{name},{d},{(2 + i / 9) * (d + 50) ** -0.1:.6f},{family}" for d in sizes]
    table = folder / "<b>losses.csv"
    table.write_text("\n".join(lines))
    done = lensllm("replay", table, "--artifacts", folder / "artifacts")
    assert done.returncode == 0, done.stderr
    return folder / "artifacts", done.stdout + done.stderr


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_hostile_names_stay_text_in_report_and_terminal(hostile: tuple[Path, str], tmp_path: Path):
    artifacts, said = hostile
    assert "document.title" in said
    assert "\x1b]" not in said
    (report,) = artifacts.glob("reports/*/report.html")
    text = browse(report.as_uri(), tmp_path / "profile")
    assert "<title>pwned" not in text
    assert "&lt;script&gt;document.title" in text
    assert "&lt;img src=x onerror" in text
    assert text.count("<script") == 0
    assert not {"/name", "/family"} & {*_Canary.asked}


@pytest.mark.full
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_hostile_names_stay_text_in_prefects_pages(hostile: tuple[Path, str], tmp_path: Path):
    with _ui(hostile[0]) as prefect:
        found = ask(prefect, "/artifacts/filter", {})
        pages = {one["key"].partition("-")[0]: one["id"] for one in found}
        for key in ("verdict", "ranking"):
            with Browser(tmp_path / key) as browser:
                browser.open(prefect.entry_link())
                browser.wait("location.pathname != '/' && document.title")
                browser.open(f"{prefect.page}/artifacts/artifact/{pages[key]}")
                shown = browser.shows("is predicted best")
            assert "is predicted best" in shown, key  # the page did show the sentence
            assert "&lt;script&gt;document.title" in shown  # as text, with nothing left out
            assert "<title>pwned" not in shown
    assert not {"/name", "/family"} & {*_Canary.asked}


class _ui:
    """``lensllm ui`` of an artifacts folder; its Prefect server."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts

    def __enter__(self) -> Server:
        self.command = subprocess.Popen(
            [*COMMAND, "ui", "--artifacts", str(self.artifacts)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.command.stdout is not None
        assert self.command.stdout.readline().startswith("Prefect: http://127.0.0.1:")
        return server_of(self.artifacts)

    def __exit__(self, *_: object) -> None:
        self.command.terminate()
        self.command.wait(HANG_SECONDS)
