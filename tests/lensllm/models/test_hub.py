"""Models on a hub: a real server on loopback, the real client, tiny checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from lensllm.core.errors import ModelError
from lensllm.models import hub
from tests.hub_server import Hub, Repository, hub_of_our_own

TOKEN = "hf_secretsecretsecret"
server = pytest.fixture(hub_of_our_own)


def files(folder: Path, **contents: str) -> Path:
    """A folder with a configuration, a tokenizer, weights, and what must not be fetched."""
    usual = {
        "config.json": json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
        "tokenizer.json": "{}",
        "model.safetensors": "weights",
        "pytorch_model.bin": "pickle",
        "modeling_mine.py": "print('never run')",
        "onnx/model.safetensors": "another format",
        "README.md": "read me",
    }
    for name, content in (usual | contents).items():
        if content:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    return folder


def publish(server: Hub, tmp_path: Path, gated: bool = False, **contents: str) -> str:
    repository = server.repositories.setdefault("org/tiny", Repository(gated=gated))
    return repository.commit(files(tmp_path / f"commit-{len(repository.commits)}", **contents))


def test_a_revision_is_a_commit_and_only_small_files_are_fetched(server: Hub, tmp_path: Path):
    commit = publish(server, tmp_path)
    found = hub.resolve("org/tiny", None)
    assert (found.commit, found.weights) == (commit, ("model.safetensors",))
    assert found.weight_bytes == len("weights")
    assert {p.name for p in found.folder.iterdir()} == {"config.json", "tokenizer.json"}
    assert not found.complete


def test_weights_are_fetched_when_asked_for_and_neither_code_nor_pickles(
    server: Hub, tmp_path: Path
):
    publish(server, tmp_path)
    found = hub.resolve("org/tiny", None)
    paths = hub.download(found.repo, found.commit, found.weights)
    assert found.complete
    assert paths["model.safetensors"].read_text() == "weights"
    assert not [path for path in server.asked if path.endswith((".py", ".bin", ".md"))]
    server.asked.clear()
    hub.download(found.repo, found.commit, found.weights)
    assert server.asked == []


def test_shards_are_those_the_index_names(server: Hub, tmp_path: Path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shards = {"model-1.safetensors": "one", "model-2.safetensors": "two"}
    publish(server, tmp_path, **{"model.safetensors.index.json": json.dumps(index)}, **shards)
    found = hub.resolve("org/tiny", None)
    assert found.weights == ("model-1.safetensors", "model-2.safetensors")
    assert found.weight_bytes == len("onetwo")


def test_main_moves_and_a_tag_does_not(server: Hub, tmp_path: Path):
    first = publish(server, tmp_path)
    server.repositories["org/tiny"].refs |= {"v1": first, "refs/pr/1": first}
    assert hub.resolve("org/tiny", None).commit == first
    second = publish(server, tmp_path, **{"config.json": "{}"})
    assert hub.resolve("org/tiny", None).commit == first  # one command sees one commit
    hub._known.clear()
    assert hub.resolve("org/tiny", None).commit == second != first
    assert hub.resolve("org/tiny", "refs/pr/1").commit == first
    assert hub.resolve("org/tiny", "v1").commit == hub.resolve("org/tiny", first).commit == first


@pytest.mark.parametrize("offline", ["the network is down", "HF_HUB_OFFLINE", "the hub is broken"])
def test_without_the_hub_the_cache_serves(
    server: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    offline: str,
):
    commit = publish(server, tmp_path)
    before = hub.resolve("org/tiny", None)
    hub.download(before.repo, before.commit, before.weights)
    _cut_off(server, monkeypatch, offline)
    for revision in (None, "main", commit):
        found = hub.resolve("org/tiny", revision)
        assert (found.commit, found.folder, found.complete) == (commit, before.folder, True)
        assert found.weight_bytes == before.weight_bytes
    told = [r.getMessage() for r in caplog.records if r.name == "lensllm.hub"]
    # of a branch, which may have moved; and not of a hub that nobody wanted to be asked
    assert len(told) == (0 if offline == "HF_HUB_OFFLINE" else 2)
    assert all(said.endswith(f"so org/tiny@main is what it was, {commit[:7]}") for said in told)


@pytest.mark.parametrize(
    ("offline", "said"),
    [
        ("the network is down", r"the hub \(http://127.0.0.1:\d+\) cannot be reached"),
        ("HF_HUB_OFFLINE", "HF_HUB_OFFLINE is set"),
        ("the hub is broken", "answered 503"),
    ],
)
def test_what_is_not_in_the_cache_is_a_sentence(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str, said: str
):
    publish(server, tmp_path)
    known = hub.resolve("org/tiny", None)  # its weights are not there
    _cut_off(server, monkeypatch, offline)
    with pytest.raises(ModelError, match=f"without all its weights, and .*{said}; run once with"):
        hub.resolve(known.repo, None)
    with pytest.raises(ModelError, match=f"org/other@main is not in the cache .*{said}; download"):
        hub.resolve("org/other", None)


def _cut_off(server: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(hub, "_known", {})
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "the hub is broken":
        server.broken = 503
    else:
        nobody = "http://127.0.0.1:9"  # discard: nothing listens
        template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", nobody)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, r"org/tiny is gated: accept its licence on http://\S+/org/tiny, then log in here"),
        (TOKEN, "org/tiny is gated and your account has no access yet"),
    ],
)
def test_a_gated_model_says_how_to_get_in(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, sentence: str
):
    publish(server, tmp_path, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    _refused(server, "org/tiny", None, sentence)
    server.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.resolve("org/tiny", None).weights


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_mistyped_model_or_revision_is_a_sentence(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
):
    publish(server, tmp_path)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    _refused(server, "org/tyni", None, r"no model 'org/tyni' on the hub .*and no such folder")
    _refused(server, "org/tiny", "v9", "org/tiny has no revision 'v9'; its branches")


def test_a_refused_token_and_a_busy_hub_are_sentences(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.broken = 401
    _refused(server, "org/tiny", None, "no model|refuses your token")
    server.broken = 429
    _refused(server, "org/tiny", None, r"refuses org/tiny \(HTTP 429\)")


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({"model.safetensors": ""}, r"no safetensors weights \(only pytorch_model.bin"),
        ({"config.json": ""}, "no config.json, so it is no transformers checkpoint"),
        ({"config.json": "", "m.gguf": "GGUF"}, "holds GGUF files; download one, `hf download"),
        ({"config.json": "", "adapter_config.json": "{}"}, "holds adapters without their model"),
    ],
)
def test_what_cannot_be_loaded_safely_is_a_sentence(
    server: Hub, tmp_path: Path, contents: dict[str, str], sentence: str
):
    publish(server, tmp_path, **contents)
    _refused(server, "org/tiny", None, sentence)


def _refused(server: Hub, repo: str, revision: str | None, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        hub.resolve(repo, revision)
    assert TOKEN not in repr(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_mirrors_address_are_not_repeated(
    server: Hub, monkeypatch: pytest.MonkeyPatch
):
    mirror = server.endpoint.replace("//", f"//me:{TOKEN}@")
    monkeypatch.setattr(constants, "ENDPOINT", mirror)
    _refused(server, "org/tyni", None, r"on the hub \(http://\*\*\*@127.0.0.1:\d+\)")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _refused(server, "org/tyni", None, "HF_HUB_OFFLINE is set")


def test_a_cache_that_cannot_be_written_is_a_sentence(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(server, tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    _refused(server, "org/tiny", None, r"could not be asked for \(\w+\); check that http://")


def test_an_interrupted_download_is_a_sentence_and_goes_on(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(server, tmp_path)
    found = hub.resolve("org/tiny", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # without it the client tries for long
    with pytest.raises(ModelError, match="check the network and"):
        hub.download(found.repo, found.commit, found.weights)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.download(found.repo, found.commit, found.weights)
    assert found.complete
    shutil.rmtree(tmp_path / "cache")
    assert not found.complete


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/na.me-2_x@refs%2Fpr%2F1", ("org/na.me-2_x", "refs%2Fpr%2F1")),
        ("org/name@v1", ("org/name", "v1")),
        ("name", None),
        ("a/b/c", None),
        ("/a/b", None),
        ("org/na me", None),
    ],
)
def test_what_looks_like_an_id(text: str, expected: tuple[str, str | None] | None):
    assert hub.parse(text) == expected
