"""Run the benchmarks named on the command line, or all of them, one torch thread each."""

import importlib
import sys

import torch

NAMES = ("laws", "replay", "checks", "finetune", "kernel", "curvature", "ablation", "probes",
         "data", "pools", "platform", "ten_thousand")  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"no benchmark '{name}'; there are {', '.join(NAMES)}")
        print(importlib.import_module(f"bench.{name}").table(), flush=True)


if __name__ == "__main__":
    main()
