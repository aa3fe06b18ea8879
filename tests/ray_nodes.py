"""A Ray cluster of several nodes on this machine's loopback: a raylet each, as on as many machines."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before Ray is imported. The second keeps Ray from replacing 127.0.0.1 by the network's address.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
_NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}


@contextmanager
def cluster(**head: Any) -> Iterator[Any]:
    """Ray's own ``Cluster`` with a head node of the resources ``head``; it names the address."""
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    # Where ``Cluster`` notes its address, wherever it is told to keep the rest.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path must be short
    made = Cluster(
        initialize_head=True,
        head_node_args={**_NODE, "include_dashboard": False, "temp_dir": place, **head},
    )
    try:
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def add(to: Any, **resources: Any) -> Any:
    """One more node of the cluster ``to``."""
    return to.add_node(**_NODE, **resources)
