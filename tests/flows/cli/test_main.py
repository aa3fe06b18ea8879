"""What users get wrong, met by one sentence and exit code 2, in the command's own process."""

import json
import re
import socket
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli import main as cli
from tests.hub_server import Hub, Repository, hub_of_our_own
from tests.tasks import project

ROOT = Path(__file__).parents[3]
hub = pytest.fixture(hub_of_our_own)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run ``lensllm`` with arguments; its exit code, standard output and error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LENSLLM_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lensllm", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    return run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "dmeo"], r"pipelines.yaml: no pipeline 'dmeo' \(did you mean 'demo'\?\)"),
        (["run", "demo", "--set", "sweep.maxx=1"], r"unknown key 'sweep.maxx' \(did you mean"),
        (["run", "demo", "--set", "finetune.epochs=many"], r"'finetune.epochs'.*not 'many'"),
        (["run", "demo", "--set", "sweep.target=400"], r"target \(400\) is not above the budget"),
        (["run", "demo", "--set", "candidates=[]"], r"name at least one model"),
        (["run", "demo", "--set", "candidates=[a/m, b/m]"], r"m is listed twice"),
        (
            ["run", "demo", "--set", "candidates=[no/such/folder]"],
            r"no such folder: no/such/folder",
        ),
        (
            ["run", "demo", "--set", "candidates=['builtin:gpt2-nano']"],
            r"did you mean 'gpt2-nano-docs'",
        ),
        (["run", "demo", "--set", "candidates=[tests]"], r"tests has no config.json"),
        (["run", "demo", "--set", "data.source=rows.jsonl"], r"no such file: rows.jsonl"),
        (["run", "demo", "--set", "data.packages=[nmupy]"], r"nmupy"),
        (["run", "demo", "--set", "ranking.predictor=lens"], r"no predictor 'lens'"),
        (["run", "demo", "--set", "sweep.policy=half"], r"'sweep.policy'.*'halving', not 'half'"),
        (
            ["run", "demo", "--set", "sweep.min=400", "--set", "curvature.sizes=[]"],
            r"stack needs 3 subset sizes and the sweep has 2",
        ),
        (["plan", "demo", "--file", "nowhere.yaml"], r"nowhere.yaml: no such file; name one"),
        (["deploy"], r"no pipeline has a schedule; give one"),
        (["deploy", "demo"], r"PREFECT_API_URL names no Prefect server to deploy to"),
        (["serve"], r"no pipeline has a schedule"),
        (["serve", "dmeo"], r"no pipeline 'dmeo' \(did you mean 'demo'"),
        (["report", "demo"], r"'demo' has no ranking with these settings yet; lensllm run demo"),
        (["run", "demo", "--artifacts", "pyproject.toml"], r"pyproject.toml: it is not a folder"),
        (["run", "demo", "--artifacts", "/proc/lensllm"], r"/proc/lensllm: it cannot be written"),
        (["ablate", "demo"], r"name a setting to vary: --over KEY"),
        (["ablate", "dmeo", "--over", "law.tau=3"], r"no pipeline 'dmeo' \(did you mean 'demo'"),
        (["ablate", "demo", "--over", "law.tau="], r"--over law.tau=: no value"),
        (
            ["ablate", "demo", "--over", "law.tua=3"],
            r"--over law.tua=3: .*\(did you mean 'tau'\?\)",
        ),
        (["ablate", "demo", "--over", "law.tau=3,3.0"], r"--over law.tau: 3 is there twice"),
        (["ablate", "demo", "--over", "law.tau=3,-1"], r"--over law.tau=-1: .*greater than 0"),
        (
            ["ablate", "demo", "--over", "law.tau=3", "--set", "law.gamma=x"],
            r"'law.gamma'.*not 'x'",
        ),
        (
            ["ablate", "demo", "--over", "law.tau=3", "--over", "law.gamma=4,6"],
            r"at law.tau=3, law.gamma=6: .*stack needs 6 subset sizes and the sweep has 4",
        ),
        (
            ["ablate", "demo", "--over", "ranking.predictor=ats,atss"],
            r"at ranking.predictor=atss: .*no predictor 'atss' \(did you mean 'ats'",
        ),
        (
            ["ablate", "demo", "--over", "data.packages=[stdlib],[nmupy]"],
            r"at data.packages=\[\"nmupy\"\]: .*nmupy",
        ),
        (["replay", "nowhere.csv"], r"nowhere.csv: no such file"),
        (["replay", "flam"], r"neither a file nor a published table \(did you mean 'flan'\?\)"),
        (["replay", "pyproject.toml"], r"pyproject.toml: is no .csv, .tsv or .parquet file"),
        (["replay", "flan", "--predictor", "stak"], r"no predictor 'stak' \(did you mean 'stack'"),
        (["replay", "flan", "--policy", "none"], r"--policy: .* 'halving', not 'none'"),
        (["replay", "flan", "--prior", "mine"], r"--prior: .* 'store', not 'mine'"),
        (
            ["replay", "flan", "--all-budgets", "--policy", "halving"],
            r"--all-budgets asks .*--policy",
        ),
        (["replay", "flan", "--gamma", "1"], r"--gamma: .* greater than or equal to 2, not 1"),
        (["replay", "flan", "--tau", "0"], r"--tau: .* greater than 0, not 0"),
        (
            ["replay", "flan", "--gamma", "9", "--budget", "12800"],
            r"--predictor stack needs 9 sizes and there are 7 up to the budget 12,800",
        ),
        (["replay", "flan", "--budget", "1"], r"--budget: .* greater than or equal to 2, not 1"),
        (
            ["replay", "flan", "--budget", "400"],
            r"flan: the budget 400 leaves 2 of the sizes 200, ",
        ),
        (
            ["replay", "flan", "--budget", "1638400"],
            r"--budget 1,638,400 is not below the target 1,638,400",
        ),
        (
            ["replay", "flan", "--budget", "6400", "--target", "3200"],
            r"--budget 6,400 is not below the target 3,200",
        ),
    ],
)
def test_a_mistake_is_one_sentence(command, arguments: list[str], sentence: str):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert re.search(sentence, err), err
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"the file is empty"),
        ("a,100,2.5\na,200,2.25\nb,100,3.5\n", r"the first line looks like data"),
        ("model,100,200,400,800\na,3,2,1,1\n", r"losses of one candidate only \('a'\)"),
        ("model,100,200\na,3,2\nb,3,1\n", r"needs losses at 3 training sizes .* has 100, 200"),
        ("model,100,200,400\na,3,2,1\nb,3,1,1\n", r"target 400 leaves 2 of the sizes 100, 200"),
        ("model,100,200,400,800\na,3,two,1,1\n", r"line 2, column '200': 'two' is no number"),
        ("model,100,200,400,800\na,3,2,1,-1\n", r"line 2, .*loss of a at D = 800 is -1 and must"),
        (
            "model,size,loss\na,100,2\na,100,3\n",
            r"a, D = 100, seed 0 stands in line 2 and in line 3",
        ),
    ],
)
def test_a_mistake_in_a_table_is_one_sentence(command, tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "losses.csv"
    path.write_text(text)
    code, out, err = command("replay", path)
    assert (code, out) == (2, "")
    assert re.search(sentence, err), err
    assert err.startswith(f"error: {path}: ")


def test_a_value_that_is_no_number_is_told_by_the_command_line(command):
    code, out, err = command("replay", "flan", "--budget", "much")
    assert (code, out) == (2, "")
    assert "Invalid value for '--budget'" in err


def test_a_port_in_use_is_one_sentence(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = command("ui", "--prefect-port", port)
    assert code == 2
    assert f"Port {port} of 127.0.0.1 cannot be used" in err


def test_plan_tells_cells_and_cost_before_anything_is_made(command):
    code, out, _ = command("plan", "demo", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["stages"]["finetune"]["artefacts"] == 36
    assert said["stages"]["finetune"]["cached"] == 0
    assert min(said["flops_full"], said["flops_sweep"]) > 1e12
    assert said["expected_minutes"] > 0
    text = " ".join(command("plan", "demo")[1].split())
    assert "6 embedded candidates are pretrained first" in text


def test_plan_with_a_policy_tells_the_most_there_may_be(command):
    every, most = (
        json.loads(command("plan", "demo", "--json", "--set", f"sweep.policy={policy}")[1])
        for policy in ("all", "adaptive")
    )
    assert (every.pop("at_most"), most.pop("at_most")) == (False, True)
    assert every == most
    text = " ".join(command("plan", "demo", "--set", "sweep.policy=adaptive")[1].split())
    assert "With a sweep policy these are the most a run may ask for." in text


def test_a_dry_ablation_tells_points_and_cells_and_makes_nothing(command, tmp_path: Path):
    """36 cells, of which τ changes none and a learning rate all."""
    over = ("--over", "law.tau=3,8", "--over", "finetune.learning_rate=5e-4")
    code, out, _ = command("ablate", "demo", *over, "--dry-run", "--json")
    said = json.loads(out)
    assert (code, said["points"], said["cells"], said["to_train"]) == (0, 6, 72, 72)
    assert said["expected_minutes"] > 0
    assert list((tmp_path / "artifacts").glob("*/*/manifest.json")) == []
    alone = json.loads(command("plan", "demo", "--json")[1])["expected_minutes"]
    assert said["expected_minutes"] == pytest.approx(2 * alone)
    assert (
        "6 points, 72 different cells, 72 to train, about"
        in command("ablate", "demo", *over, "--dry-run")[1]
    )


def test_plan_of_more_than_the_data_is_one_sentence(command, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(f'{{"prompt": "p{i}", "completion": "c"}}' for i in range(900)))
    more = ["--set", f"data.source={rows}", "--set", "sweep.target=full"]
    code, _, err = command("plan", "demo", *more)
    assert code == 2
    assert "the sweep needs 800 training examples and the data has 200" in err
    code, _, err = command("ablate", "demo", *more, "--over", "law.tau=3")
    assert code == 2
    assert "at law.tau=5: the sweep needs 800 training examples" in err


def test_status_shows_every_cell_to_come(command):
    code, out, _ = command("status", "smoke")
    assert code == 0
    assert "0 of 18 cells done" in out
    assert out.count("○") == 18 + 1  # and the legend's


def test_gc_lists_and_only_deletes_when_told(command, tmp_path: Path):
    from lensllm.store.artifacts import Recipe, Store

    store = Store(tmp_path / "artifacts")
    store.prepare()
    stray = Recipe("drift", 0, {"left": "over"})
    store.make(stray, lambda folder: (folder / "x").write_text("x"))
    assert f"{stray.ref}" in command("gc")[1]
    assert store.path(stray.ref).is_dir()
    assert "Deleted 1 artefacts" in command("gc", "--delete")[1]
    assert not store.path(stray.ref).exists()
    assert "Nothing to collect" in command("gc")[1]


@pytest.mark.parametrize(
    "name",
    ["plan", "run", "ablate", "replay", "status", "report", "ui", "deploy", "serve", "gc"],
)
def test_help_has_an_example(command, name: str):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"Example: lensllm {name}" in out


def _own_pipeline(folder: Path) -> Path:
    """A configuration file of two checkpoints and rows made on the spot."""
    settings = project.write_inputs(folder).model_dump(mode="json", exclude_defaults=True)
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"pipelines": {"mine": settings}}))
    return file


def test_plan_measures_the_pace_when_asked(command, tmp_path: Path):
    file = _own_pipeline(tmp_path)
    sources = [c["throughput_source"] for c in _planned(command, file)["candidates"]]
    assert sources == ["assumed", "assumed"]
    told = _planned(command, file, "--probe")
    assert [c["throughput_source"] for c in told["candidates"]] == ["probe", "probe"]
    assert told["stages"]["probe"] == {"artefacts": 2, "cached": 2}
    assert told["stages"]["finetune"]["cached"] == 0
    assert all(c["seconds_to_run"] > 0 for c in told["candidates"])
    text = command("plan", "mine", "--file", file)[1]
    assert "as probed on this machine" in " ".join(text.split())


def _planned(command, file: Path, *more: str):
    code, out, _ = command("plan", "mine", "--file", file, "--json", *more)
    assert code == 0
    return json.loads(out)


@pytest.mark.slow
def test_weights_on_the_hub_are_downloaded_to_be_probed(
    command, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)  # workers are processes of their own
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    file = _own_pipeline(tmp_path)
    repository = hub.repositories["org/remote"] = Repository()
    repository.commit(tmp_path / "narrow")
    there = ("--set", "candidates=[org/remote]")
    assert _planned(command, file, *there)["to_download_bytes"] > 0
    told = _planned(command, file, *there, "--probe")
    assert [c["throughput_source"] for c in told["candidates"]] == ["probe"]
    assert told["to_download_bytes"] == 0


def test_candidates_without_weights_are_not_probed(command, tmp_path: Path):
    code, _, err = command("plan", "smoke", "--probe", "--json")
    assert code == 0
    assert "Not probed, because lensllm run pretrains them first: gpt2-nano-docs" in err
    assert list((tmp_path / "artifacts").glob("*/*/manifest.json")) == []


def test_help_groups_the_commands(command):
    code, said, _ = command("--help")
    groups = re.findall(r"─ (\w+) ─|^│ ([a-z]+) ", said, re.MULTILINE)
    assert code == 0
    assert [name or word for name, word in groups if name != "Options"] == [
        *("Decide", "plan", "run", "ablate", "replay", "report"),
        *("Watch", "status", "ui"),
        *("Schedule", "deploy", "serve"),
        *("Maintain", "verify", "gc"),
    ]


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("lensllm run d", ["demo", "docstrings"]),
        ("lensllm deploy smoke d", ["demo", "docstrings"]),
        ("lensllm plan --file mine.yaml m", ["mine", "more"]),
        ("lensllm plan --file nowhere.yaml m", []),
        ("lensllm plan --file broken.yaml m", []),
        ("lensllm ve", ["verify"]),
    ],
)
def test_the_shell_completes_commands_and_pipelines(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, completions: list[str]
):
    (tmp_path / "mine.yaml").write_text("pipelines: {mine: {}, more: {}, other: {}}")
    (tmp_path / "broken.yaml").write_text("pipelines: [")
    words = re.sub(r"\w+\.yaml", lambda file: str(tmp_path / file[0]), words)
    monkeypatch.setenv("_LENSLLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code, said, complaints = command()
    assert (code, said.split(), complaints) == (0, completions, "")


def test_completion_can_be_installed(command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, script, _ = command("--show-completion", "bash")
    assert code == 0
    assert "_LENSLLM_COMPLETE=complete_bash" in script
