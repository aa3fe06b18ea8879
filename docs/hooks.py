"""Hooks of the documentation site, called by MkDocs: files outside docs/, and decisions in the nav.

CONTRIBUTING and CHANGELOG stand at the top of the repository, where people look for them; the site
shows them as pages. Source files have no page, so links to them are shown as plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]+)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision record into the navigation, in the order of their numbers."""
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for section in config.nav or []:
        if "Decisions" in section:
            section["Decisions"] = [f"decisions/{path.name}" for path in records]
        if "Architecture" in section:
            section["Architecture"] += _PAGES.values()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand at the top of the repository."""
    for name, page in _PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Resolve links as the repository does, and keep the text alone of those to source files."""
    uri = page.file.src_uri
    folder = "" if uri in _PAGES.values() else posixpath.join("docs", posixpath.dirname(uri))

    def resolved(match: re.Match[str]) -> str:
        words, name, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(folder, name))
        shown = _PAGES.get(target) or target.removeprefix("docs/")
        if target not in _PAGES and (shown == target or "." not in shown):
            return words
        way = posixpath.relpath(shown, posixpath.dirname(uri) or ".")
        return f"[{words}]({way}{anchor or ''})"

    return _LINK.sub(resolved, text)
