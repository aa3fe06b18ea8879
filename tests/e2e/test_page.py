"""The report opened in a real browser."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_report_opens_offline_and_asks_for_nothing(smoke, tmp_path: Path):
    artifacts, said = smoke
    page = artifacts / "reports" / "smoke" / "report.html"
    seen = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={tmp_path / 'page.png'}",
            "--window-size=1100,3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
    )
    text = seen.stdout.replace("&nbsp;", " ")  # no line breaks before a per cent sign
    assert said["verdict"] in text
    assert seen.stdout.count("<svg") >= 3
    assert "http://" not in seen.stdout.replace("http://www.w3.org/", "")
    assert (tmp_path / "page.png").stat().st_size > 50_000
