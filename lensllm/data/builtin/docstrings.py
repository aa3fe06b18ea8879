"""Real data that every installation has: functions and their docstrings, mined from source files.

``pairs`` gives the fine-tuning task (function signature → first sentence of its docstring),
``texts`` the text that the embedded candidates are pretrained on. Neither imports or runs what it
reads. The pretraining text leaves out the first paragraph of every docstring: the task's targets.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import pandas as pd

from lensllm.data.builtin import python_files
from lensllm.data.builtin.python_files import STDLIB

# What lensllm itself depends on, so that everyone has it; large enough for every kind of text.
TEXT_PACKAGES = (STDLIB, "numpy", "scipy")
# Their descriptions are long prose about software; all are dependencies of lensllm.
METADATA_OF = ("mlflow", "pandas", "prefect", "pydantic", "rich", "torch", "transformers", "typer")
TEXT_SOURCES = (*TEXT_PACKAGES, *METADATA_OF)
# Characters of each kind: about as many tokens as the hungriest candidate of the zoo reads once.
TEXT_CAP_CHARACTERS = 2_000_000
SAME_OPENING_MAX = 8  # per package: "Return the name of …" would otherwise fill the data set
OPENING_WORDS = 4

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields that hold statements
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = _Function | ast.ClassDef | ast.Module


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


def pairs(packages: Sequence[str]) -> pd.DataFrame:
    """Columns prompt, completion, split (schema ``dataset/examples``) from ``packages`` in order.

    No completion occurs twice, and at most ``SAME_OPENING_MAX`` of a package begin with the same
    four words. Raises DataError for a package that is not installed.
    """
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for package in packages:
        openings: Counter[tuple[str, ...]] = Counter()
        for path in python_files.files(package):
            parsed = python_files.parse(path)
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
                rows.append((signature(node), target, python_files.split(node.name)))
    return pd.DataFrame(rows, columns=["prompt", "completion", "split"])


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
    """True for sentences: no code, table, heading or field list."""
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return (
        paragraph.rstrip().endswith((".", "!", "?"))
        and paragraph.count(" ") >= 5
        and letters >= 0.9 * len(" ".join(paragraph.split()))
        and ">>>" not in paragraph
    )


def _prose(text: str) -> str:
    return "\n".join(" ".join(p.split()) for p in text.split("\n\n") if _is_prose(p))


def _source_texts(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(kind, text) of docs, prose and code, file by file in an order mixed by a hash.

    The mixed order makes whatever a cap keeps a fair sample of all the packages.
    """
    files = [
        (hashlib.sha256(f"{package}/{path.parent.name}/{path.name}".encode()).digest(), path)
        for package in packages
        for path in python_files.files(package)
    ]
    for source, tree in filter(None, (python_files.parse(path) for _, path in sorted(files))):
        documented = list(_documented(tree))
        rests = [(node, text.partition("\n\n")[2].strip()) for node, text in documented]
        docs = [
            signature(node) + rest if isinstance(node, _Function) else rest
            for node, rest in rests
            if rest
        ]
        yield "docs", "\n\n".join(docs)
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
    for kind, text in chain(_reference_texts(), _source_texts(packages)):
        if text.strip() and size[kind] < cap_characters:
            rows.append((kind, text))
            size[kind] += len(text)
        if min(size[k] for k in ("docs", "prose", "code")) >= cap_characters:
            break
    return pd.DataFrame(rows, columns=["kind", "text"])
