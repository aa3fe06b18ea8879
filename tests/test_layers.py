"""Imports run one way: flows → tasks → lensllm, and lensllm knows neither Prefect nor MLflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _files(package: str) -> dict[str, Path]:
    """Module name → file of every module of ``package``."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(path: Path) -> set[str]:
    """Every dotted name a file imports, wherever in it; ``from a import b`` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: write the import in full"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


# Each room may import the rooms before it.
ROOMS = (
    "lensllm.core",
    "lensllm.store",
    "lensllm.config",
    "lensllm.spectra",
    "lensllm.curves",
    "lensllm.laws",
    "lensllm.predictors",
    "lensllm.selection",
    "lensllm.models",
    "lensllm.data",
    "lensllm.training",
    "lensllm.workers",
    "lensllm.ntk",
    "lensllm.hessian",
    "lensllm.diagnostics",
    "lensllm.report",
    "tasks.base",
    "tasks.stages",
    "tasks.planning",
    "tasks.execution",
    "flows.server",
    "flows.running",
    "flows.rank",
    "flows.replay",
    "flows.ablate",
    "flows.schedules",
    "flows.script",
    "flows.cli",
)


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_rooms_are_a_chain() -> None:
    """A room imports rooms before it in the list, and no module stands outside a room."""
    places = {room: place for place, room in enumerate(ROOMS)}
    packages = ("lensllm", "tasks", "flows")
    modules = {name: path for package in packages for name, path in _files(package).items()}
    assert {_room(name) for name in modules} - {*packages} == {*ROOMS}
    wrong = {
        f"{name} imports {other}"
        for name, path in modules.items()
        if name not in packages
        for other in _imports(path)
        if _room(other) in places and places[_room(other)] > places[_room(name)]
    }
    assert not wrong
    loose = {path.name for path in (ROOT / "lensllm").iterdir() if path.is_file()}
    assert loose <= {"__init__.py", "py.typed"}


def _importers(package: str, imported: str) -> set[str]:
    """Files of ``package`` that import the top-level package ``imported``."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in _files(package).values()
        if any(name.partition(".")[0] == imported for name in _imports(path))
    }


@pytest.mark.parametrize(
    ("package", "imported", "allowed"),
    [
        ("lensllm", "tasks", set()),
        ("lensllm", "flows", set()),
        ("lensllm", "prefect", set()),
        ("lensllm", "mlflow", set()),
        ("tasks", "flows", set()),
        ("tasks", "prefect", {"tasks/execution/execute.py"}),
        ("tasks", "mlflow", {"tasks/execution/tracking.py"}),
        ("flows", "mlflow", {"flows/server/child.py"}),
        ("flows", "torch", set()),  # the command's own process: workers load it
    ],
)
def test_imports_run_one_way(package: str, imported: str, allowed: set[str]) -> None:
    assert _importers(package, imported) <= allowed


@pytest.mark.parametrize("package", ["lensllm", "tasks", "flows"])
def test_no_module_imports_itself_through_others(package: str) -> None:
    files = _files(package)
    graph = {}
    for name, path in files.items():
        named = _imports(path) & files.keys()
        # `from a import b` with b a module needs a.b; a itself is only where it lies
        graph[name] = {n for n in named if not any(m.startswith(f"{n}.") for m in named)} - {name}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle
    assert set(order) == files.keys()


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    """Prefect and MLflow read the environment at import: the command line sets it first."""
    code = "import sys, flows.cli.main; print(*sorted({'mlflow', 'prefect', 'torch'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
