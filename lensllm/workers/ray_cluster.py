"""A Ray cluster as its driver sees it: joining it, and what its nodes have."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping
from contextlib import chdir

from lensllm.core.errors import ConfigError

_KNOCK_SECONDS = 10.0


def connect(address: str) -> None:
    """Join the cluster at ``address`` as its driver, once in a process.

    Raises ``ConfigError`` where Ray is not installed or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "engine.kind: ray needs Ray; install it with pip install 'lensllm[ray]'"
        ) from None
    if ray.is_initialized():
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        # log_to_driver leaves Ray's own errors out, such as a lost node's last log: it would print
        # them among our output, where JSON may be.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        with chdir("/"):  # Ray's workers import from the driver's folder before anywhere else
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"engine.ray_address: no Ray cluster at '{address}' ({first_line(error)}); start one "
            "with `ray start --head`, and run this command on one of its machines"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there


def _knock(address: str) -> None:
    """Raise ``OSError`` where nobody listens: Ray would try for minutes."""
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = named.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def nodes() -> list[dict[str, float]]:
    """Resources of each living node, by Ray's names: CPU, GPU, memory (bytes)."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def can_hold(needs: Mapping[str, float]) -> bool:
    """True if some node, when idle, has everything that ``needs`` names."""
    return any(
        all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes()
    )


def too_large(needs: Mapping[str, float]) -> str:
    """The sentence for what no node can hold."""
    units = {"CPU": "processors", "GPU": "GPUs", "memory": "bytes of memory"}
    wanted = ", ".join(f"{needs[name]:,g} {units[name]}" for name in needs if needs[name])
    return f"no node of the Ray cluster has {wanted}; add one, or use smaller batches"


def smallest_gpu_bytes(share: float) -> float:
    """Memory of the cluster's smallest GPU in bytes, asked by tasks; 0 if there is none."""
    import ray

    asked = [
        ray.remote(num_gpus=share, num_cpus=0, resources={name: 0.001})(_gpu_bytes).remote()
        for node in nodes()
        if node.get("GPU")
        for name in node
        if name.startswith("node:") and not name.startswith("node:__")
    ]
    return min(ray.get(asked), default=0.0)


def _gpu_bytes() -> float:
    """Memory of the GPU that Ray assigns to this task, in bytes; 0 without one."""
    import torch

    has_one = torch.cuda.is_available()
    return float(torch.cuda.get_device_properties(0).total_memory) if has_one else 0.0


def first_line(error: BaseException) -> str:
    """First line of the error's message."""
    return str(error).strip().split("\n", 1)[0]
