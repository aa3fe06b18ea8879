"""Data files that somebody else wrote."""

import gzip
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensllm.config.sections import Data
from lensllm.core.errors import DataError
from lensllm.curves import tables
from lensllm.data import sources
from lensllm.data.builtin import pretraining_text
from lensllm.store.artifacts import Recipe, Store


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def hostile_parquet(path: Path, canary: Path) -> None:
    """A column whose type, by the file, is to be unpickled (as Arrow before 14.0.1 did)."""
    trap = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Evil(canary)),
    }
    fields = [pa.field("prompt", pa.string(), metadata=trap), pa.field("completion", pa.string())]
    rows = [["a", "b", "c"], ["x", "y", "z"]]
    pq.write_table(pa.table(rows, schema=pa.schema(fields)), path)


def test_a_parquet_file_executes_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    hostile_parquet(tmp_path / "rows.parquet", canary)
    loaded = sources.load(Data(source=str(tmp_path / "rows.parquet")))
    assert loaded.examples["prompt"].tolist() == ["a", "b", "c"]
    assert not canary.exists()


def test_a_table_of_the_store_executes_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    store = Store(tmp_path / "artifacts")
    recipe = Recipe("hostile", 1)
    store.make(recipe, lambda folder: hostile_parquet(folder / "rows.parquet", canary))
    assert store.table(recipe.ref, "rows")["prompt"].tolist() == ["a", "b", "c"]
    assert not canary.exists()


def test_a_copied_hub_data_set_runs_no_script(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    folder = tmp_path / "org"
    folder.mkdir()
    script = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    for name in ("org.py", "setup.py", "__init__.py"):
        (folder / name).write_text(script)
    rows = [{"prompt": str(n), "completion": "x"} for n in range(3)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"scripts are no longer supported, but found org\.py"):
        sources.load(Data(source=f"hub:{folder}"))
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>.jsonl", "a\nb\x1b[31m.jsonl", "%2e%2e.jsonl"]
)
def test_a_files_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace("/", "∕")
    path.write_text("\n".join(json.dumps({"prompt": str(n), "completion": "x"}) for n in range(3)))
    loaded = sources.load(Data(source=str(path)))
    assert loaded.examples["file"].unique().tolist() == [path.name]


# --- rows without end ------------------------------------------------------------------------------
_READ = """
import re, sys
from pathlib import Path
from lensllm.config.sections import Data
from lensllm.data import sources
from lensllm.core.errors import DataError
# of this program alone: getrusage's maximum is that of who started it, if that was larger
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
try:
    sources.load(Data(source=sys.argv[1], form="text"))
except DataError as error:
    print(peak() - before, error)
"""
_GOOD = b'{"text": "a"}\n'
_MEGABYTE = b"a" * 2**20


def packed(path: Path, begin: bytes, end: bytes, megabytes: int = 512) -> Path:
    """A gzip file of one row of 512 MB, which takes 0.5 MB."""
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(begin)
        for _ in range(megabytes):
            stream.write(_MEGABYTE)
        stream.write(end)
    return path


def one_line(folder: Path) -> Path:
    return packed(folder / "x.jsonl.gz", _GOOD + b'{"text": "', b'"}\n')


def one_entry(folder: Path) -> Path:
    return packed(folder / "x.json.gz", b'[{"text": "a"}, {"text": "', b'"}]')


def one_field(folder: Path) -> Path:
    return packed(folder / "x.csv.gz", b"text,n\na,1\n", b",2\n")


def one_quoted_field(folder: Path) -> Path:
    with gzip.open(folder / "x.csv.gz", "wb", compresslevel=1) as stream:
        stream.write(b'text,n\na,1\n"')
        stream.writelines(b"a" * 1000 + b"\n" for _ in range(500_000))
    return folder / "x.csv.gz"


def one_paragraph(folder: Path) -> Path:
    with gzip.open(folder / "x.txt.gz", "wb", compresslevel=1) as stream:
        stream.write(b"a\n\n")
        stream.writelines(b"a" * 1000 + b"\n" for _ in range(500_000))
    return folder / "x.txt.gz"


def one_cell(folder: Path) -> Path:
    pq.write_table(pa.table({"text": ["a" * 2**28]}), folder / "x.parquet")
    return folder / "x.parquet"


def one_cell_repeated(folder: Path) -> Path:
    """A dictionary of one text of 10 MB, which 10,000 rows name."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000), pa.array(["a" * 10**7]))
    pq.write_table(pa.table({"text": texts}), folder / "x.parquet", dictionary_pagesize_limit=10**9)
    return folder / "x.parquet"


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (one_line, "line 2 has more than 16,777,216 bytes; cut it, or raise data.max_row_bytes"),
        (one_entry, "entry 2 has more than 16,777,216 bytes"),
        (one_field, "line 3 has more than 16,777,216 bytes"),
        (one_quoted_field, "the record on line 3 has more than 16,777,216 bytes"),
        (one_paragraph, "the text that begins on line 3 has more than 16,777,216 bytes"),
        (one_cell, "a row of row group 1 has more than 16,777,216 bytes"),
    ],
)
def test_a_row_without_end_is_refused_before_it_is_in_memory(
    tmp_path: Path, write: Callable[[Path], Path], sentence: str
) -> None:
    path = write(tmp_path)
    assert path.stat().st_size < 20e6
    command = [sys.executable, "-c", _READ, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    megabytes, _, error = said.partition(" ")
    assert error.startswith(str(path))
    assert sentence in error
    assert int(megabytes) < 256


def test_a_text_that_many_rows_name_is_in_memory_a_few_times(tmp_path: Path) -> None:
    path = one_cell_repeated(tmp_path)
    begin = (values for _, values in sources.readers.open_table(path).rows(["text"]))
    pool = pa.default_memory_pool().bytes_allocated()
    assert len(next(begin)["text"]) == 10**7
    assert pa.default_memory_pool().bytes_allocated() - pool < 2**28


@pytest.mark.parametrize("limit", [1023, 1024, 1025, 10_000])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.txt", "x.parquet"])
def test_the_limit_is_that_of_the_file(tmp_path: Path, name: str, limit: int) -> None:
    """A row of 1,024 bytes in its file, or in its cells."""
    lines = {"x.jsonl": '{"text": "%s"}', "x.json": '[{"text": "%s"}]', "x.parquet": "%s"}
    length = 1024 - len(lines.get(name, "%s") % "") + (2 if name == "x.json" else 0)
    length -= 4 if name == "x.parquet" else 0  # Arrow notes where a text begins
    text = "ä" * (length // 2) + "b" * (length % 2)
    row = lines.get(name, "%s") % text
    if name == "x.parquet":
        pq.write_table(pa.table({"text": [text]}), tmp_path / name)
    else:
        (tmp_path / name).write_text(("text\n" if name == "x.csv" else "") + row + "\n")
    table = sources.readers.open_table  # Data has no limit this low
    if limit < 1024:
        with pytest.raises(DataError, match="more than 1,023 bytes"):
            list(table(tmp_path / name, limit).rows(["text"]))
    else:
        assert [v["text"] for _, v in table(tmp_path / name, limit).rows(["text"])] == [text]


DEEP = "[" * 100_000
FILES = [
    ("x.jsonl", DEEP, "line 1 cannot be read as JSON: .*nested more than 100 deep"),
    ("x.jsonl", '{"a": ' * 100_000, "line 1 cannot be read as JSON: .*more than 100 deep"),
    ("x.jsonl", '{"a": ' + "[" * 200 + "]" * 200 + "}", "line 1 .*more than 100 deep"),
    ("x.jsonl", '{"text": ' + "9" * 5001 + "}", "line 1 .*more than 400 digits"),
    ("x.json", DEEP, "entry 1: .*nested more than 100 deep"),
    ("x.json", '[{"a": ' + "[" * 200 + "]" * 200 + "}]", "entry 1: .*more than 100 deep"),
    ("x.json", '[{"text": ' + "9" * 5001 + "}]", "entry 1: .*more than 400 digits"),
    ("x.json", "[" + '{"text": "a"},' * 10 + "]", "entry 11: Expecting value"),
    (
        "x.csv",
        ",".join(map(str, range(20_000))) + "\n" + "," * 19_999,
        "20,000 columns, of at most",
    ),
    ("x.jsonl", json.dumps(dict.fromkeys(map(str, range(20_000)))), "20,000 columns, of at most"),
    ("x.jsonl", json.dumps(dict.fromkeys(map(str, range(5000)))), "19 and 4,980 more; set"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FILES, ids=range(len(FILES)))
def test_a_file_without_end_is_one_sentence(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=sentence) as caught:
        sources.load(Data(source=str(tmp_path / name)))
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_list_of_many_rows_on_one_line_is_read(tmp_path: Path) -> None:
    rows = [{"text": f"{number} {'é' * 300}", "n": [1, {"a": "[{"}]} for number in range(9000)]
    (tmp_path / "x.json").write_text("\ufeff " + json.dumps(rows, ensure_ascii=False))
    assert [v for _, v in sources.readers.open_table(tmp_path / "x.json").rows([])] == rows


def test_deep_text_of_a_chat_is_no_list_of_messages(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"messages\n{DEEP}\n")
    with pytest.raises(DataError, match=r"line 2 of .* holds no list of messages"):
        sources.load(Data(source=str(tmp_path / "x.csv")))


def test_pretraining_text_that_is_deep_is_one_sentence(tmp_path: Path) -> None:
    """Arrow's own reader of JSON ends the process."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "x": ' + DEEP + "]" * 100_000 + "}\n")
    with pytest.raises(DataError, match=r"line 1 .*nested more than 100 deep"):
        pretraining_text.read(str(path))


def parquet_of_nothing() -> bytes:
    stream = io.BytesIO()
    table = {f"c{i}": pa.nulls(2_000_000, pa.string()) for i in range(6)}
    pq.write_table(pa.table(table), stream)
    return stream.getvalue()


TABLES: list[tuple[str, str | bytes, str]] = [
    ("x.csv", "candidate,size,loss\na," + "9" * 5001 + ",1\n", "'9+…' is no training size"),
    ("x.csv", "candidate,size,loss\na,1," + "9" * 5001 + "\n", "is infinite"),
    ("x.csv", "candidate," + "9" * 5001 + "\na,1\n", "name of 5,001 characters"),
    ("x.csv", ",".join(map(str, range(20_000))) + "\n", "20,000 columns, of at most 10,000"),
    ("x.csv", "candidate,size,loss\n" + "a" * 300 + ",1,1\n", "name has 300 characters"),
    ("x.csv", "," * 3_000_000 + "x\n", "3,000,001 columns"),
    ("x.parquet", parquet_of_nothing(), "unfolds to 12,000,000 cells"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), TABLES, ids=range(len(TABLES)))
def test_a_table_of_losses_without_end_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=sentence) as caught:
        tables.read(str(tmp_path / name))
    assert len(str(caught.value)) < 1000


def test_a_table_of_losses_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("wb") as stream:
        stream.truncate(tables._MOST_BYTES + 1)
    with pytest.raises(DataError, match="more than 67,108,864 bytes: rank in parts"):
        tables.read(str(path))
