"""Keep Prefect from loading results that a state on its server names.

None of ours is stored: flows pass references. A state that names one was set by somebody else, and
to load it is to unpickle a file, that is, to run what is in it. Importing this module is enough;
every process that runs a flow does so, by ``flows.running.ending``.
"""

import sys
from functools import cache
from typing import Any, NoReturn

from prefect.results import ResultStore

from lensllm.core.errors import LensError

_REASON = (
    "a run's state on the Prefect server names a stored result, and no run of ours stores one: "
    "it is not loaded, since that would run code; somebody else has set it"
)


@cache  # once in a process: Prefect asks ten times
def _say() -> None:
    print(_REASON, file=sys.stderr, flush=True)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    _say()  # Prefect drops the error
    raise LensError(_REASON)


for _name in ("_from_metadata", "_read", "_aread"):  # before a block or a file is read
    assert hasattr(ResultStore, _name)
    setattr(ResultStore, _name, _refuse)
