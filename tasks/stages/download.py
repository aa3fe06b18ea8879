"""download: the weights of a model on the hub, in the hub's own cache.

Key: id and commit. Table: ``files``. The files stay in the cache, which other tools share; when
they are gone from there, the artefact is made again (``tasks/base/models.py``).
"""

from lensllm.models import hub
from lensllm.store.artifacts import Recipe, write_table
from tasks.base.stage import Step, Work

VERSION = 1
THERE = 1.0  # the weight of a step that finds everything in the cache


def step(snapshot: hub.Snapshot) -> Step:
    recipe = Recipe("download", VERSION, {"repo": snapshot.repo, "commit": snapshot.commit})
    hints = {"files": list(snapshot.weights)}
    return Step(
        f"download {snapshot.repo}@{snapshot.commit[:7]}",
        recipe,
        hints,
        weight=THERE if snapshot.complete else float(max(snapshot.weight_bytes, 1)),
    )


def build(work: Work) -> None:
    names = work.hints["files"]
    found = hub.download(work.params["repo"], work.params["commit"], names)
    rows = [{"file": name, "bytes": path.stat().st_size} for name, path in found.items()]
    write_table(work.folder, "download/files", rows)
