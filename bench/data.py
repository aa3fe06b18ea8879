"""Memory and time of reading files of a kilobyte a row, by rows and by how many are kept."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import markdown
from lensllm.core import seeds

CASES = ((250_000, 10_000), (250_000, 100_000), (1_000_000, 100_000))  # rows, kept
_READ = """
import re, sys, time
from pathlib import Path
from lensllm.config.sections import Data
from lensllm.data import sources
# of this program alone: getrusage's maximum is that of who started it, if that was larger
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
before, begin = peak(), time.perf_counter()
loaded = sources.load(Data(source=sys.argv[1], keep=int(sys.argv[2])))
print(before, peak(), time.perf_counter() - begin)
"""


def write(path: Path, rows: int) -> None:
    """Rows that differ by their number alone, which no reader knows."""
    draw = seeds.generator(0, "bench rows")
    texts = [" ".join(f"w{word:04x}" for word in draw.integers(5000, size=160)) for _ in range(100)]
    with path.open("w") as out:
        for i in range(rows):
            text = texts[i % len(texts)]
            out.write(json.dumps({"prompt": f"{i} {text[:780]}", "completion": text[780:]}) + "\n")


def table() -> str:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for rows, keep in CASES:
            write(path, rows)
            command = [sys.executable, "-c", _READ, str(path), str(keep)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            before, peak, seconds = map(float, said.split())
            size = f"{path.stat().st_size / 1e9:.2f} GB"
            memory = [f"{before:,.0f} MB", f"{peak:,.0f} MB"]
            found.append([f"{rows:,}", size, f"{keep:,}", *memory, f"{seconds:.0f} s"])
    return markdown(
        "Reading a JSONL file: largest resident memory of the process",
        ["rows", "file", "kept", "before", "peak", "time"],
        found,
    )
