"""A candidate's folder that somebody else filled: nothing in it is ever executed."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensllm.errors import ModelError
from lensllm.models import checkpoint, load
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
