"""The documentation is true of the code: links, examples, commands, file names, generated tables."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from flows.cli.main import app
from lensllm.config import configfile

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "artifacts" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def _blocks(page: Path, *languages: str) -> list[str]:
    """Contents of the fenced blocks of one of ``languages``."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def _program() -> TyperGroup:
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    return program


def _examples() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every ``lensllm`` command in the pages and in the commands' own help."""
    for page in PAGES:
        for block in _blocks(page, "sh"):
            for line in block.splitlines():
                if line.startswith("lensllm "):
                    yield page.name, shlex.split(line)[1:]
    for name, command in _program().commands.items():
        for line in re.findall(r"\[cyan\]lensllm (.*?)\[/cyan\]", command.help or ""):
            yield f"lensllm {name} --help", shlex.split(line)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@each_page
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor:
            assert anchor in _anchors(target), f"{link}: no such heading"


@each_page
def test_files_named_in_the_text_exist(page: Path) -> None:
    named = re.findall(r"`((?:lensllm|tasks|flows|tests|docs|bench)/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_page
def test_examples_of_configuration_are_valid(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in _blocks(page, "yaml"):
        for pattern in re.findall(r"[\w./-]+\*", block):  # of checkpoints
            folder = tmp_path / pattern.replace("*", "one")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").touch()
        file = tmp_path / "pipelines.yaml"
        file.write_text(block)
        names = configfile.names(file)
        assert names, "an example must have a pipeline"
        for name in names:
            configfile.load(file, name)


@each_page
def test_nothing_is_said_of_where_this_was_written(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"(?<![\w.:/])/(?:work|tmp|home|root|Users)\b\S*", text) == []
    assert re.findall(r"\b(?:issues?|sessions?|TODO|FIXME)\b", text, re.IGNORECASE) == []


def test_commands_in_the_text_are_understood() -> None:
    commands = _program().commands
    for where, (name, *words) in _examples():
        assert name in commands, f"{where}: lensllm {name}"
        given = commands[name].make_context(name, words).params  # raises for an unknown option
        if "name" in given and given["file"] == Path("pipelines.yaml"):
            configfile.load(ROOT / "pipelines.yaml", given["name"], given["overrides"])


def test_every_command_has_an_example_and_a_section() -> None:
    names = [(where, words[0]) for where, words in _examples()]
    for name in _program().commands:
        assert ("cli.md", name) in names
        assert (f"lensllm {name} --help", name) in names
    assert _program().commands.keys() <= _anchors(ROOT / "docs" / "cli.md")


def test_generated_pages_are_current() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    stale = [path.name for path, text in pages.items() if path.read_text() != text]
    assert stale == [], "run: python docs/generate.py"


def test_every_pipeline_of_the_checkout_is_valid() -> None:
    for name in yaml.safe_load((ROOT / "pipelines.yaml").read_text())["pipelines"]:
        configfile.load(ROOT / "pipelines.yaml", name)
