"""Python sources that every installation has, read without importing or running them."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sysconfig
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from lensllm.core.errors import DataError

STDLIB = "stdlib"
TEST_SHARE = 0.1

_SKIPPED_FOLDERS = {
    *("test", "tests", "idle_test", "__pycache__"),
    *("site-packages", "dist-packages"),  # inside the standard library's folder, not part of it
    *("encodings", "pydoc_data"),  # tables of characters and of text
}


def _roots(package: str) -> list[Path]:
    """Folders, or the one file, that hold a package's sources; nothing is imported."""
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    spec = None
    if package.isidentifier():
        with suppress(ValueError):  # a loaded module without a specification, such as __main__
            spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        return sorted(Path(folder) for folder in spec.submodule_search_locations)
    if spec is not None and spec.origin and spec.origin.endswith(".py"):
        return [Path(spec.origin)]
    raise DataError(
        f"data.packages: there are no Python sources of package {package!r}: "
        f"name {STDLIB!r} or an installed top-level package such as 'numpy'."
    )


def files(package: str) -> list[Path]:
    """Python files of ``package`` but its tests, in an order that no file system changes."""
    found = []
    for root in _roots(package):
        if root.is_file():
            found.append(root)
        for folder, inner, names in os.walk(root):
            inner[:] = sorted(set(inner) - _SKIPPED_FOLDERS)
            found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found


def parse(path: Path) -> tuple[str, ast.Module] | None:
    """Source text and syntax tree, or None where a file is not valid Python (templates are not)."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return source, ast.parse(source)
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None


def split(name: str) -> str:
    """Train or test, by the function's name, so that no name stands on both sides."""
    digest = hashlib.sha256(name.encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


@cache
def _owners() -> Mapping[str, list[str]]:
    """Distributions by the top-level package they install; half a second, so asked for once."""
    return importlib.metadata.packages_distributions()


def fingerprint(packages: Sequence[str]) -> dict[str, str]:
    """{name: version} of Python and ``packages``, which determine what is mined.

    Sources outside site-packages (a folder on the path, an editable install) change without a new
    version: the hash of their content stands for it.
    """
    versions = {"python": platform.python_version()}
    owners = _owners()
    sites = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    for package in packages:
        if package == STDLIB:
            continue
        installed = all(
            any(root.is_relative_to(site) for site in sites) for root in _roots(package)
        )
        if installed and package in owners:
            names = sorted(set(owners[package]))
            versions[package] = "+".join(map(importlib.metadata.version, names))
        else:
            content = (hashlib.sha256(path.read_bytes()).digest() for path in files(package))
            versions[package] = hashlib.sha256(b"".join(content)).hexdigest()
    return versions
