"""download: the weights of a model on the hub, in the hub's own cache.

Key: id and commit. Table: ``files``. The files stay in the cache, which other tools share; when
they are gone from there, the artefact is made again (``tasks/planning/models.py``).
"""

from lensllm.models import hub
from tasks.base.plan import of_models
from tasks.base.stage import Stage
from tasks.base.step import BuildContext, Step

THERE = 1.0  # the weight of a step that finds everything in the cache


def step(snapshot: hub.Snapshot) -> Step:
    """The step of a model at one commit."""
    return STAGE.step(
        f"download {snapshot.repo}@{snapshot.commit[:7]}",
        {"repo": snapshot.repo, "commit": snapshot.commit},
        hints={"files": list(snapshot.weights)},
        weight=THERE if snapshot.complete else float(max(snapshot.weight_bytes, 1)),
    )


def build(context: BuildContext) -> None:
    names = context.hints["files"]
    found = hub.download(context.params["repo"], context.params["commit"], names)
    rows = [{"file": name, "bytes": path.stat().st_size} for name, path in found.items()]
    context.write("download/files", rows)


STAGE = Stage(
    name="download",
    version=1,
    tables=("download/files",),
    plan=of_models("download"),
    build=build,
)
