"""A candidate's folder that somebody else filled: nothing in it is ever executed."""

import json
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensllm.core.errors import ModelError
from lensllm.models import checkpoint, gguf, load
from tests.tasks import project


class Evil:
    """Unpickled, it leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    project.write_inputs(folder, {"narrow": 16})
    return folder / "narrow"


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "model")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def change(folder: Path, file: str, **settings: Any) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | settings))


def open_all(folder: Path) -> None:
    """As a run does it: checked, then loaded."""
    checkpoint.check(folder, 32)
    load.load_tokenizer(folder)
    load.load_model(folder)


def test_the_trap_works(canary: Path, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists()


def only_pickle(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"wte": Evil(canary)}, folder / "pytorch_model.bin")


def pickle_as_safetensors(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil(canary)))


def index_of_pickles(folder: Path, canary: Path) -> None:
    torch.save({"wte": Evil(canary)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "rest.safetensors")
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "pytorch_model.bin"}}
    (folder / checkpoint.INDEX).write_text(json.dumps(index))


def index_of_elsewhere(folder: Path, canary: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder.parent / "out.safetensors", {"format": "pt"})
    (folder / "model.safetensors").rename(folder / "rest.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../out.safetensors")}
    (folder / checkpoint.INDEX).write_text(json.dumps(index))


def adapters_of_another_model(folder: Path, canary: Path) -> None:
    torch.save({"wte": Evil(canary)}, folder / "adapter_model.bin")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/evil", "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def kernels_of_the_hub(folder: Path, canary: Path) -> None:
    change(folder, "config.json", attn_implementation="evil/kernels")


def unknown_model_of_its_own(folder: Path, canary: Path) -> None:
    code_of_its_own(folder, canary)
    change(folder, "config.json", model_type="evil")


@pytest.mark.parametrize(
    ("trap", "sentence"),
    [
        (only_pickle, r"pickled .bin weights are never loaded"),
        (pickle_as_safetensors, "cannot be loaded: .*header"),
        (index_of_pickles, "names 'pytorch_model.bin'; weights are read from .safetensors"),
        (index_of_elsewhere, r"names '\.\./out.safetensors'; weights are read from"),
        (adapters_of_another_model, "holds adapters beside a model"),
        (kernels_of_the_hub, r"code from the hub \(attn_implementation: evil/kernels\)"),
        (unknown_model_of_its_own, "needs Python code of its own, which is never run"),
    ],
)
def test_what_would_run_code_is_refused_with_a_sentence(
    folder: Path, canary: Path, trap: Callable[[Path, Path], None], sentence: str
) -> None:
    trap(folder, canary)
    with pytest.raises(ModelError, match=sentence):
        open_all(folder)
    assert not canary.exists()


def code_of_its_own(folder: Path, canary: Path) -> None:
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    change(
        folder, "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    )


def tokenizer_of_its_own(folder: Path, canary: Path) -> None:
    code_of_its_own(folder, canary)
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})


def generation_of_its_own(folder: Path, canary: Path) -> None:
    (folder / "custom_generate").mkdir()
    script = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    (folder / "custom_generate" / "generate.py").write_text(script)


def pickle_beside_weights(folder: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pth"):
        torch.save({"wte": Evil(canary)}, folder / name)


@pytest.mark.parametrize(
    "trap",
    [code_of_its_own, tokenizer_of_its_own, generation_of_its_own, pickle_beside_weights],
)
def test_what_transformers_has_is_loaded_without_the_folders_code(
    folder: Path, canary: Path, trap: Callable[[Path, Path], None]
) -> None:
    trap(folder, canary)
    open_all(folder)
    assert not canary.exists()


def test_a_chat_template_is_rendered_in_a_sandbox(folder: Path, canary: Path) -> None:
    """The classic way out of a template: from any object to every class of the process."""
    tokenizer = load.load_tokenizer(folder)
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(
        Exception, match="access to attribute '__class__' of 'str' object is unsafe"
    ):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


# --- numbers and files without end ----------------------------------------------------------------
SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"n_layer": 1_000_000}, "n_layer = 1000000, which must be a whole number from 0 to 1,000"),
    ({"n_embd": 10**9}, "n_embd = 1000000000, which must be"),
    ({"n_embd": int("9" * 390)}, "n_embd = 9+[.]+9+, which must be"),
    ({"vocab_size": -5}, "vocab_size = -5, which must be a whole number from 1"),
    ({"vocab_size": 1e30}, "vocab_size = 1e[+]30, which must be"),
    ({"n_head": 0}, "n_head = 0, which must be"),
    ({"n_layer": "two"}, "n_layer = 'two', which must be"),
    ({"n_layer": True}, "n_layer = True, which must be"),
    ({"n_layer": {"a": 1}}, "expected int, got dict"),
    ({"n_layer": None}, "expected int, got NoneType"),
    ({"n_layer": [1, 2]}, "expected int, got list"),
    ({"n_embd": float("nan")}, "n_embd = nan, which must be"),
    ({"n_embd": float("inf")}, "n_embd = inf, which must be"),
    ({"num_labels": 10**9}, "num_labels = 1000000000, which must be"),
    ({"text_config": {"hidden_size": 10**9}}, "hidden_size = 1000000000, which must be"),
    ({"model_type": "gpt_neo", "attention_types": [[["global"], 10**9]]}, "attention_types = 10+,"),
    ({"n_layer": 1000, "n_embd": 2**20}, "about 2e[+]16 weights, of at most 1e[+]14"),
    ({"n_layer": 1000, "num_experts": 1000}, "1,000,000 layers and experts, of at most 100,000"),
    ({"model_type": "marian", "n_positions": 2**24}, "16,777,216 positions, too many for 'marian'"),
    ({"n_head": 3}, "no model can be built of its config.json"),
    ({"n_embd": 20_000}, "a config.json for [0-9,]+ weights and files with 8,336; they do not"),
    ({"id2label": 3}, "'int' object has no attribute"),
    (
        {"model_type": ["a"]},
        "architectures of its config.json must be a list and model_type a text",
    ),
    ({"architectures": 3}, "architectures of its config.json must be a list"),
    ({"architectures": ["a" * 10**6 + "ForSequence"]}, "is a a+…, which has no language-model"),
    ({"dtype": "evil"}, "has no attribute 'evil'"),
    ({"quantization_config": 3}, r"quantised weights \(unknown\)"),
]


def build(folder: Path) -> None:
    """As a plan and then a run do it, as far as it takes no memory."""
    checkpoint.check(folder, 32)
    with torch.device("meta"):
        model = load.from_config(load.load_config(folder))
    checkpoint.check_weights(folder, load.count_parameters(model))
    load.load_tokenizer(folder)


def is_refused(folder: Path, sentence: str) -> None:
    begin = time.process_time()
    with pytest.raises(ModelError, match=sentence) as caught:
        build(folder)
    assert time.process_time() - begin < 10
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "sentence"), SHAPES, ids=range(len(SHAPES)))
def test_shapes_of_no_model_are_refused_before_one_is_built(
    folder: Path, settings: dict[str, Any], sentence: str
) -> None:
    change(folder, "config.json", **settings)
    is_refused(folder, sentence)


def test_a_claim_of_many_weights_is_refused_before_they_are_allocated(folder: Path) -> None:
    change(folder, "config.json", n_embd=20_000)
    with pytest.raises(ModelError, match="files with 8,336; they do not belong together"):
        load.load_model(folder)


DEEP = "[" * 100_000
FILES = [
    ("config.json", DEEP, r"config.json is not JSON \(.*nested more than 100 deep"),
    ("config.json", '{"a": ' * 100_000, r"config.json is not JSON \(.*nested more than 100 deep"),
    ("config.json", '{"n_layer": ' + "9" * 5001 + "}", r"is not JSON \(.*more than 400 digits"),
    ("config.json", "[]", r"is not JSON of an object, but \[\]"),
    ("config.json", "null", "is not JSON of an object, but None"),
    ("generation_config.json", DEEP, "generation_config.json is not JSON"),
    ("generation_config.json", "3", "generation_config.json is not JSON of an object, but 3"),
    ("tokenizer_config.json", DEEP, "tokenizer_config.json is not JSON"),
    ("tokenizer_config.json", "[1]", r"tokenizer_config.json is not JSON of an object, but \[1\]"),
    ("tokenizer_config.json", '{"eos_token": 3}', "its tokenizer "),
    ("added_tokens.json", DEEP, "added_tokens.json is not JSON"),
    ("special_tokens_map.json", '"a"', "special_tokens_map.json is not JSON of an object"),
    ("tokenizer.json", DEEP, "its tokenizer cannot be loaded"),
    ("tokenizer.json", '{"added_tokens": ' * 100_000, "its tokenizer cannot be loaded"),
    ("tokenizer.json", "3", "its tokenizer cannot be loaded"),
    ("tokenizer.json", '{"model": {"type": "BPE", "vocab": 3}}', "its tokenizer cannot be loaded"),
    (checkpoint.INDEX, DEEP, "index.json is not JSON"),
    (checkpoint.INDEX, '{"weight_map": [1]}', "has no weight_map"),
    (checkpoint.INDEX, '{"weight_map": {"a": {"b": 1}}}', r"names \"\{'b': 1\}\"; weights are"),
    ("adapter_config.json", DEEP, "holds adapters beside a model"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FILES, ids=range(len(FILES)))
def test_a_file_without_end_is_one_sentence(
    folder: Path, name: str, content: str, sentence: str
) -> None:
    (folder / name).write_text(content)
    is_refused(folder, sentence)


@pytest.mark.parametrize("name", checkpoint._MOST_BYTES)
def test_a_file_of_hundreds_of_megabytes_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as stream:
        stream.truncate(300 * 2**20)
    begin = time.process_time()
    with pytest.raises(ModelError, match=r"bytes, of at most|is not JSON"):
        checkpoint.check(folder, 32)
    assert time.process_time() - begin < 2


def header(content: str | dict[str, Any], length: int | None = None, data: bytes = b"") -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + data


def tensor(shape: list[int], begin: int, end: int, kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


HEADERS = [
    b"",
    b"\0" * 7,
    header({}, 2**60),
    header({}, 2**64 - 1),
    header({}, 99_000_000),
    header(DEEP),
    header('{"a": ' * 100_000),
    header({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, data=b"\0" * 12),
    header({"a": tensor([2**40, 2**40], 0, 8)}, data=b"\0" * 8),
    header({"a": tensor([2], 0, 2**62)}, data=b"\0" * 8),
    header({"a": tensor([2], 8, 0)}, data=b"\0" * 8),
    header({"a": tensor([-2], 0, 8)}, data=b"\0" * 8),
    header({"a": tensor([2], 0, 8, "F9")}, data=b"\0" * 8),
    header({"a": {"dtype": "F32"}}),
    header({"a": [1]}),
    header('{"a": ' + "9" * 5001 + "}"),
]


@pytest.mark.parametrize("content", HEADERS, ids=range(len(HEADERS)))
def test_a_header_of_weights_that_lies_is_one_sentence(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    is_refused(folder, "model.safetensors cannot be loaded: .*download it again")


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


def setting(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf_file(*settings: bytes, count: int | None = None) -> bytes:
    total = len(settings) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, 0, total) + b"".join(settings)


NAMED = setting("general.architecture", 8, text("llama"))
GGUF = [
    (gguf_file(NAMED, count=2**60), "is damaged or no GGUF file"),
    (gguf_file(NAMED, setting("a", 8, struct.pack("<Q", 2**60))), "is damaged or no GGUF file"),
    (gguf_file(NAMED, setting("a", 9, struct.pack("<IQ", 0, 2**60))), "is damaged or no GGUF file"),
    (gguf_file(NAMED, setting("a", 9, struct.pack("<IQ", 9, 1) * 5000)), "is damaged or no GGUF"),
    (
        gguf_file(NAMED, setting("llama.block_count", 4, struct.pack("<I", 10**6))),
        "num_hidden_layers = 1000000, which must be",
    ),
    (
        gguf_file(NAMED, setting("llama.embedding_length", 6, struct.pack("<f", float("nan")))),
        "hidden_size = nan, which must be",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), GGUF, ids=range(len(GGUF)))
def test_a_gguf_file_that_lies_is_one_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        gguf.check(tmp_path / "x.gguf", 32)
