"""Real data that every installation has: functions and their docstrings, mined from source files.

``pairs`` gives the fine-tuning task (function signature → first sentence of its docstring),
``texts`` the text that the embedded candidates are pretrained on. Neither imports or runs what it
reads. The pretraining text leaves out the first paragraph of every docstring: the task's targets.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from lensllm.errors import DataError

STDLIB = "stdlib"
# What lensllm itself depends on, so that everyone has it; large enough for every kind of text.
TEXT_PACKAGES = (STDLIB, "numpy", "scipy")
# Their descriptions are long prose about software; all are dependencies of lensllm.
METADATA_OF = ("mlflow", "pandas", "prefect", "pydantic", "rich", "torch", "transformers", "typer")
TEXT_SOURCES = (*TEXT_PACKAGES, *METADATA_OF)
# Characters of each kind: about as many tokens as the hungriest candidate of the zoo reads once.
TEXT_CAP_CHARACTERS = 2_000_000
TEST_SHARE = 0.1
SAME_OPENING_MAX = 8  # per package: "Return the name of …" would otherwise fill the data set
OPENING_WORDS = 4

_SKIPPED_FOLDERS = {
    *("test", "tests", "idle_test", "__pycache__"),
    *("site-packages", "dist-packages"),  # inside the standard library's folder, not part of it
    *("encodings", "pydoc_data"),  # tables of characters and of text
}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields that hold statements
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = _Function | ast.ClassDef | ast.Module


# --- finding and reading source files -----------------------------------------------------------


def _roots(package: str) -> list[Path]:
    """Folders, or the one file, that hold a package's sources; nothing is imported."""
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    spec = None
    if package.isidentifier():
        try:
            spec = importlib.util.find_spec(package)
        except ValueError:  # a loaded module without a specification, such as __main__
            spec = None
    if spec is not None and spec.submodule_search_locations:
        return sorted(Path(folder) for folder in spec.submodule_search_locations)
    if spec is not None and spec.origin and spec.origin.endswith(".py"):
        return [Path(spec.origin)]
    raise DataError(
        f"builtin:docstrings cannot find Python sources of package {package!r}: "
        f"name {STDLIB!r} or an installed top-level package such as 'numpy'."
    )


def _files(package: str) -> list[Path]:
    """Python files of ``package`` but its tests, in an order that no file system changes."""
    found = []
    for root in _roots(package):
        if root.is_file():
            found.append(root)
        for folder, inner, names in os.walk(root):
            inner[:] = sorted(set(inner) - _SKIPPED_FOLDERS)
            found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found


def _parse(path: Path) -> tuple[str, ast.Module] | None:
    """Source text and syntax tree, or None where a file is not valid Python (templates are not)."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return source, ast.parse(source)
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None


def _documented(tree: ast.Module) -> Iterator[tuple[_Documented, str]]:
    """Modules, classes and functions with their cleaned docstrings, in source order.

    Only statements are visited: expressions, most of a tree, hold none.
    """
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, _Documented) and (text := ast.get_docstring(node)):
            yield node, text
        for block in reversed(_BLOCKS):
            stack += reversed(getattr(node, block, ()))


# --- the task: signature → first sentence -------------------------------------------------------


def first_sentence(docstring: str) -> str | None:
    """First sentence of a cleaned docstring on one line; None where it is no sentence.

    The end is a full stop, ! or ? before white space and anything but a small letter (so "e.g. a"
    does not end one), or the end of the first paragraph.
    """
    sentence = _SENTENCE_END.split(" ".join(docstring.split("\n\n")[0].split()))[0]
    wordy = 15 <= len(sentence) <= 300 and sentence.count(" ") >= 2
    if not wordy or not sentence.isascii() or sentence.startswith((">>>", "..", ":", "@")):
        return None
    return sentence


def signature(node: _Function) -> str:
    """``def name(arguments):`` on one line, then the opening of the docstring."""
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f'{keyword} {node.name}({ast.unparse(node.args)}){returns}:\n    """'


def _split(name: str) -> str:
    """Train or test, by the function's name, so that no name stands on both sides."""
    digest = hashlib.sha256(name.encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


def pairs(packages: Sequence[str]) -> pd.DataFrame:
    """Columns prompt, completion, split (schema ``dataset/examples``) from ``packages`` in order.

    No completion occurs twice, and at most ``SAME_OPENING_MAX`` of a package begin with the same
    four words. Raises DataError for a package that is not installed.
    """
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for package in packages:
        openings: Counter[tuple[str, ...]] = Counter()
        for path in _files(package):
            parsed = _parse(path)
            for node, text in _documented(parsed[1]) if parsed else ():
                if not isinstance(node, _Function):
                    continue
                target = first_sentence(text)
                if target is None or target in seen:
                    continue
                opening = tuple(target.lower().split()[:OPENING_WORDS])
                openings[opening] += 1
                if openings[opening] > SAME_OPENING_MAX:
                    continue
                seen.add(target)
                rows.append((signature(node), target, _split(node.name)))
    return pd.DataFrame(rows, columns=["prompt", "completion", "split"])


@cache
def _owners() -> Mapping[str, list[str]]:
    """Distributions by the top-level package they install; half a second, so asked for once."""
    return importlib.metadata.packages_distributions()


def fingerprint(packages: Sequence[str]) -> dict[str, str]:
    """What ``pairs(packages)`` depends on, for cache keys: {name: version}, Python's always there.

    Sources outside site-packages (a folder on the path, an editable install) change without a new
    version, so the hash of their content stands for it. ``texts()`` depends on the fingerprint of
    ``TEXT_SOURCES``.
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
            content = (hashlib.sha256(path.read_bytes()).digest() for path in _files(package))
            versions[package] = hashlib.sha256(b"".join(content)).hexdigest()
    return versions


# --- pretraining text ---------------------------------------------------------------------------


def _without_docstrings(source: str, documented: Sequence[_Documented]) -> str:
    """Source lines that belong to no docstring of ``documented``."""
    dropped: set[int] = set()
    for node in documented:
        expression = node.body[0]
        dropped.update(range(expression.lineno, (expression.end_lineno or 0) + 1))
    lines = source.split("\n")
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped)


def _is_prose(paragraph: str) -> bool:
    """Whether a paragraph is sentences: no code, table, heading or field list."""
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return (
        paragraph.rstrip().endswith((".", "!", "?"))
        and paragraph.count(" ") >= 5
        and letters >= 0.9 * len(" ".join(paragraph.split()))
        and ">>>" not in paragraph
    )


def _prose(text: str) -> str:
    paragraphs = (" ".join(p.split()) for p in text.split("\n\n") if _is_prose(p))
    return "\n".join(paragraphs)


def _documentation(node: _Documented, rest: str) -> str:
    """What follows a docstring's first paragraph, under the signature of a function."""
    return signature(node) + rest if isinstance(node, _Function) else rest


def _source_texts(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(kind, text) of docs, prose and code, file by file in an order mixed by a hash.

    The mixed order makes whatever a cap keeps a fair sample of all the packages.
    """
    files = [
        (hashlib.sha256(f"{package}/{path.parent.name}/{path.name}".encode()).digest(), path)
        for package in packages
        for path in _files(package)
    ]
    for _, path in sorted(files):
        parsed = _parse(path)
        if parsed is None:
            continue
        source, tree = parsed
        documented = list(_documented(tree))
        rests = [(node, text.partition("\n\n")[2].strip()) for node, text in documented]
        yield "docs", "\n\n".join(_documentation(node, rest) for node, rest in rests if rest)
        yield "prose", _prose("\n\n".join(rest for _, rest in rests))
        yield "code", _without_docstrings(source, [node for node, _ in documented])


def _reference_texts() -> Iterator[tuple[str, str]]:
    """(kind, text) of the Python language reference and of package descriptions."""
    from pydoc_data.topics import topics  # half a megabyte that nothing else needs

    described = [importlib.metadata.metadata(name).json["description"] for name in METADATA_OF]
    for text in [*(topics[name] for name in sorted(topics)), *map(str, described)]:
        yield "reference", text
        yield "prose", _prose(inspect.cleandoc(text))


def texts(
    packages: Sequence[str] = TEXT_PACKAGES, cap_characters: int = TEXT_CAP_CHARACTERS
) -> pd.DataFrame:
    """Columns kind, text (schema ``pretext/texts``): docs, reference, prose and code.

    Reads no more than ``cap_characters`` of each kind. Raises DataError for a package that is not
    installed.
    """
    rows: list[tuple[str, str]] = []
    size: Counter[str] = Counter()
    for kind, text in _reference_texts():
        if text.strip() and size[kind] < cap_characters:
            rows.append((kind, text))
            size[kind] += len(text)
    for kind, text in _source_texts(packages):
        if text.strip() and size[kind] < cap_characters:
            rows.append((kind, text))
            size[kind] += len(text)
        if min(size[k] for k in ("docs", "prose", "code")) >= cap_characters:
            break
    return pd.DataFrame(rows, columns=["kind", "text"])
