"""A second task from the same sources: the opening of a function → its name.

Short targets, read from code instead of signatures: candidates that are good at describing need
not be good at naming.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from lensllm.data.builtin import python_files

BODY_MAX_CHARACTERS, BODY_MIN_CHARACTERS = 160, 40
SAME_WORD_MAX = 100  # per package: "visit_…", "get_…" would otherwise fill the data set
_HIDDEN = "_"  # stands for the name wherever the code says it

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def pairs(packages: Sequence[str]) -> pd.DataFrame:
    """Columns prompt, completion, split (schema ``dataset/examples``) from ``packages`` in order.

    No name occurs twice, so that none stands in both splits. The embedded candidates may remember
    names of the standard library, numpy and scipy, whose sources they read in pretraining. Raises
    DataError for a package that is not installed.
    """
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for package in packages:
        words: Counter[str] = Counter()
        for path in python_files.files(package):
            parsed = python_files.parse(path)
            for node, body in _functions(*parsed) if parsed else ():
                first = node.name.strip("_").split("_")[0]
                if node.name in seen or words[first] >= SAME_WORD_MAX:
                    continue
                words[first] += 1
                seen.add(node.name)
                rows.append((prompt(node, body), node.name, python_files.split(node.name)))
    return pd.DataFrame(rows, columns=["prompt", "completion", "split"])


def prompt(node: _Function, body: str) -> str:
    """The function without its name, cut after a whole line, then the question."""
    text = f"def {_HIDDEN}({ast.unparse(node.args)}):\n{body}"
    hidden = re.sub(rf"\b{re.escape(node.name)}\b", _HIDDEN, text)
    kept = hidden[:BODY_MAX_CHARACTERS]
    if len(kept) < len(hidden):
        kept = kept.rpartition("\n")[0] or kept
    return f"{kept}\n# its name: "


def _functions(source: str, tree: ast.Module) -> Iterator[tuple[_Function, str]]:
    """Functions worth naming and their bodies without docstring, in source order."""
    lines = source.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, _Function) or re.fullmatch("__.*__", node.name):
            continue
        if len(node.name.strip("_")) < 4 or not node.name.isascii():
            continue
        statements = node.body[1:] if ast.get_docstring(node) else node.body
        if not statements or statements[0].lineno == node.lineno:
            continue
        body = "\n".join(lines[statements[0].lineno - 1 : statements[-1].end_lineno])
        if len(body) >= BODY_MIN_CHARACTERS and body.isascii():
            indent = len(body) - len(body.lstrip())  # to be one step, in a class or elsewhere
            yield node, re.sub(rf"^ {{{indent}}}", "    ", body, flags=re.MULTILINE)
