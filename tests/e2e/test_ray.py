"""A sweep on a Ray cluster of two nodes, one of which is lost in the middle."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import ray_nodes
from tests.e2e.conftest import COMMAND, ROOT, environment
from tests.e2e.test_smoke import tables, wait_for_cells
from tests.waiting import HANG_SECONDS, wait

ray = pytest.importorskip("ray", reason="needs the extra lensllm[ray]")
pytestmark = [pytest.mark.slow, pytest.mark.full]


def test_a_sweep_goes_on_when_a_node_is_lost(smoke: tuple[Path, dict], pretrained: Path):
    with ray_nodes.cluster(num_cpus=1) as cluster:
        second = ray_nodes.add(cluster, num_cpus=1)
        arguments = ["run", "smoke", "--artifacts", str(pretrained), "--json"]
        command = subprocess.Popen(
            [*COMMAND, *arguments, "--set", "engine.kind=ray"],
            cwd=ROOT,
            env=environment() | {"RAY_ADDRESS": cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = wait_for_cells(pretrained, 4)
        cluster.remove_node(second, allow_graceful=False)
        kept = {path: path.stat().st_mtime_ns for path in before}
        said, complaints = command.communicate(timeout=HANG_SECONDS)
        wait(lambda: not list((pretrained / ".tmp").iterdir()), "the end of the lost node's drafts")
    assert command.returncode == 0, complaints
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    summary = json.loads(said)
    assert summary["failed"] == []
    assert summary["computed"] + summary["cached"] == smoke[1]["computed"] + smoke[1]["cached"]
    assert summary["ranking"] == smoke[1]["ranking"]
    assert tables(smoke[0]) == tables(pretrained)
    assert "raylet" not in said + complaints  # Ray's own words are not the user's
