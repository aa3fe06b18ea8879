"""pipelines.yaml: merging, overrides, and mistakes met with a sentence."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lensllm.config import configfile
from lensllm.config.sections import Candidate, FineTune, Lora, Pipeline, Sweep, public
from lensllm.core.errors import ConfigError

ROOT = Path(__file__).parents[3]
TEXT = """
defaults:
  seed: 7
  candidates: [a/one, {name: two, model: b/two}]
  finetune: {epochs: 2, batch_size: 8}
pipelines:
  p:
    finetune: {epochs: 5}
    sweep: {max: 400, target: 1000}
  q: {}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(TEXT)
    return path


def test_a_pipeline_overrides_defaults_and_set_overrides_both(file: Path):
    loaded = configfile.load(file, "p", ["finetune.batch_size=4", "sweep.seeds=3"])
    assert (
        loaded.seed,
        loaded.finetune.epochs,
        loaded.finetune.batch_size,
        loaded.sweep.seeds,
    ) == (7, 5, 4, 3)
    assert [c.name for c in loaded.candidates] == ["one", "two"]


def test_every_pipeline_of_this_checkout_loads():
    file = ROOT / "pipelines.yaml"
    assert {"demo", "bench", "smoke"} <= set(configfile.names(file))
    for name in configfile.names(file):
        assert configfile.load(file, name).candidates


def test_sizes_are_geometric():
    assert Sweep(min=100, max=800).sizes == (100, 200, 400, 800)
    assert Sweep(min=100, max=300, growth=1.5).sizes == (100, 150, 225)


@given(st.integers(2, 500), st.integers(0, 5000), st.floats(1.01, 8))
def test_sizes_ascend_within_the_budget(low: int, more: int, growth: float):
    sizes = Sweep(min=low, max=low + more, growth=growth).sizes
    assert low == sizes[0]
    assert sizes[-1] <= low + more
    assert list(sizes) == sorted(set(sizes))


@pytest.mark.parametrize(
    ("name", "override", "sentence"),
    [
        ("pp", [], r"pipelines.yaml: no pipeline 'pp' \(did you mean 'p'\?\); it has p, q"),
        ("p", ["sweep.maxx=3"], r"unknown key 'sweep.maxx' \(did you mean 'max'\?\); allowed: min"),
        ("p", ["swep.max=3"], r"unknown key 'swep' \(did you mean 'sweep'\?\)"),
        ("p", ["candidates=[{name: a, modell: b}]"], r"candidates.0.modell.*did you mean 'model'"),
        ("p", ["finetune.learning_rate=fast"], r"'finetune.learning_rate'.*not 'fast'"),
        ("p", ["finetune.epochs=0"], r"'finetune.epochs'.*greater than or equal to 1, not 0"),
        ("p", ["sweep.target=100"], r"target \(100\) is not above the budget max \(400\)"),
        ("p", ["sweep.min=900"], r"min \(900\) is above max \(400\)"),
        ("p", ["candidates=[]"], r"name at least one model"),
        ("p", ["candidates=[x/m, y/m]"], r"m is listed twice"),
        ("p", ["candidates=[../../etc/x y]"], r"candidates.0.name"),
        ("p", ["curvature.sizes=[150]"], r"150 is not a size of the sweep; choose from 100, 200"),
        ("p", ["sweep.max"], r"write it as KEY.PATH=VALUE"),
        ("p", ["sweep.max={"], r"the value is not YAML"),
        ("p", ["schedule.cron=0 2 * *"], r"'0 2 \* \*' has not five fields; write minute, hour"),
        ("p", ["schedule.cron='@daily'"], r"'@daily' has not five fields"),
        ("p", ["schedule.cron=0 25 * * *"], r"schedule.cron: '0 25 .*' never comes \(bad hour\)"),
        ("p", ["schedule.cron=0 0 30 2 *"], r"never comes \(bad day-of-month\)"),
        ("p", ["schedule.timezone=Berlin"], r"no time zone 'Berlin'.*e.g. UTC or Europe/Berlin"),
        ("p", ["schedule.timezone=Europe/Berln"], r"did you mean 'Europe/Berlin'\?"),
        ("p", ["schedule.overlap=skip"], r"'schedule.overlap'.*'wait' or 'cancel', not 'skip'"),
        (
            "p",
            ["ranking.metric=accuracy"],
            r"'ranking.metric'.*'bits_per_byte' or 'nats_per_token'",
        ),
    ],
)
def test_a_mistake_is_one_sentence(file: Path, name: str, override: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence) as caught:
        configfile.load(file, name, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pipelines: [", "pipelines.yaml, line 1"),
        ("pipeline: {}", r"unknown key 'pipeline' \(did you mean 'pipelines'\?\)"),
        ("pipelines:\n  p: {}\n  p: {}", "line 3: key 'p' is written twice"),
        ("- a", "expected the keys defaults and pipelines"),
        ("pipelines: 3", "must be mappings"),
        ("pipelines:\n  p: !!python/object/apply:os.system ['true']", "line 2"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "pipelines.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        configfile.load(path, "p")


def test_a_missing_file_is_one_sentence(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file; name one with --file"):
        configfile.load(tmp_path / "nowhere.yaml", "p")


def test_a_candidate_overrides_settings_down_to_single_keys(file: Path):
    own = "candidates=[{name: a, model: x/a, finetune: {method: lora, lora: {rank: 4}}}, x/b]"
    loaded = configfile.load(file, "p", [own, "finetune.lora.alpha=7", "finetune.lora.rank=9"])
    first, second = (loaded.finetune_of(candidate) for candidate in loaded.candidates)
    assert (first.method, first.lora.rank, first.lora.alpha, first.epochs) == ("lora", 4, 7, 5)
    assert (second.method, second.learning_rate) == ("full", 1e-3)
    assert first.peak == first.lora.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("method", "key", "differs"),
    [
        ("full", "lora.rank", False),
        ("full", "lora.learning_rate", False),
        ("full", "learning_rate", True),
        ("lora", "lora.rank", True),
        ("lora", "lora.learning_rate", True),
        ("lora", "learning_rate", False),
        ("lora", "attention", True),
    ],
)
def test_keys_name_only_settings_that_a_result_depends_on(
    file: Path, method: str, key: str, differs: bool
):
    def described(*more: str) -> dict[str, object]:
        loaded = configfile.load(file, "p", [f"finetune.method={method}", *more])
        return loaded.finetune_of(loaded.candidates[0]).content

    value = "eager" if key == "attention" else 3
    assert (described() != described(f"finetune.{key}={value}")) == differs
    assert ("lora" in described()) == (method == "lora")


class LaterLora(Lora):
    initial_scale: float = 1.0


class LaterFineTune(FineTune):
    """The settings of a later version, which has one more of each kind."""

    lora: LaterLora = LaterLora()
    label_smoothing: float = 0.0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_later_setting_at_its_default_changes_no_key(method: str):
    content = FineTune(method=method).content

    assert LaterFineTune(method=method).content == content
    assert LaterFineTune(method=method, label_smoothing=0.0).content == content
    assert LaterFineTune.model_validate(content).content == content


def test_a_later_setting_with_another_value_changes_the_key():
    smoothed = LaterFineTune(label_smoothing=0.1)
    scaled = LaterFineTune(method="lora", lora=LaterLora(initial_scale=2.0))

    assert smoothed.content == {**FineTune().content, "label_smoothing": 0.1}
    lora = FineTune(method="lora").content
    assert scaled.content == {**lora, "lora": {**lora["lora"], "initial_scale": 2.0}}
    assert LaterFineTune.model_validate(scaled.content) == scaled


def test_every_setting_of_the_first_version_is_in_every_key():
    """Its default may change then: cells trained before keep the value they were trained with."""
    assert FineTune().content.keys() == FineTune.IN_EVERY_KEY - {"lora", "learning_rates"}
    assert FineTune(method="lora").content["lora"].keys() == Lora.IN_EVERY_KEY


@pytest.mark.parametrize(
    ("finetune", "sentence"),
    [
        ("{learnign_rate: 1}", r"'candidates.0.finetune.learnign_rate' \(did you mean 'learning_"),
        ("{lora: {rnk: 1}}", r"'candidates.0.finetune.lora.rnk' \(did you mean 'rank'\?\)"),
        ("{epochs: 0}", r"'candidates.0.finetune.epochs'.*greater than or equal to 1, not 0"),
        ("{method: qlora}", r"'candidates.0.finetune.method'.*'full' or 'lora'"),
        ("3", r"'candidates.0.finetune'.*dictionary"),
    ],
)
def test_a_mistake_in_a_candidates_overrides_has_its_path(file: Path, finetune: str, sentence: str):
    override = f"candidates=[{{name: a, model: b, finetune: {finetune}}}]"
    with pytest.raises(ConfigError, match=sentence):
        configfile.load(file, "p", [override])


def test_a_model_is_named_without_revision_or_suffix(file: Path):
    models = (
        "'org/name@v1.2', 'o/m@refs/pr/1', models/tiny.Q4_1.gguf, 'builtin:gpt2', a/b/, 'x@y/z/c'"
    )
    loaded = configfile.load(file, "p", [f"candidates=[{models}]"])
    assert [c.name for c in loaded.candidates] == ["name", "m", "tiny.Q4_1", "gpt2", "b", "c"]


# --- files that somebody else wrote ---------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "pipelines: !!python/object/apply:os.system ['touch {canary}']",
        "defaults: {{seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{canary}]]}}",
        "pipelines: {{p: !!python/name:os.system }}",
    ],
)
def test_yaml_makes_no_objects(tmp_path: Path, text: str):
    canary = tmp_path / "executed"
    file = tmp_path / "pipelines.yaml"
    file.write_text(text.format(canary=canary))
    with pytest.raises(ConfigError, match="line 1: could not determine a constructor for the tag"):
        configfile.load(file, "p")
    assert not canary.exists()


def test_an_override_makes_no_objects(file: Path, tmp_path: Path):
    canary = tmp_path / "executed"
    with pytest.raises(ConfigError, match="the value is not YAML"):
        configfile.load(file, "p", [f"seed=!!python/object/apply:os.system ['touch {canary}']"])
    assert not canary.exists()


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{n}: &{n} [{', '.join(['*' + m] * 10)}]\n"
            for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a [*a]\n",
    ],
    ids=["aliases of aliases", "an alias in itself"],
)
def test_aliases_without_end_are_refused(tmp_path: Path, bomb: str):
    file = tmp_path / "pipelines.yaml"
    file.write_text("defaults:\n" + "".join(f"  {line}\n" for line in bomb.splitlines()))
    with pytest.raises(
        ConfigError, match=r"its aliases .* make more than 100,000 values|recursive node"
    ):
        configfile.load(file, "p")


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "..", ".hidden", "a/b", "a\\n", "x" * 90, "", "a.", "a ", "語" * 80],
)
def test_a_pipelines_name_cannot_leave_the_artifacts_folder(tmp_path: Path, name: str):
    file = tmp_path / "pipelines.yaml"
    file.write_text(f'pipelines: {{"{name}": {{candidates: [a/b]}}}}')
    with pytest.raises(ConfigError, match="a name has letters, digits"):
        configfile.load(file, name)


BAD_NAMES = ["../x", "a/b", "<b>", "a b", "", "x" * 90, ".", "..", ".a", "-a", "a.", "a..",
             "a\0b", "a\n", "a\x1b", "語" * 80]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_candidates_name_is_a_word(name: str):
    with pytest.raises(ValueError, match="a name has letters, digits"):
        Candidate(name=name, model="a/b")


@pytest.mark.parametrize("model", [".", "..", "models/..", "./", "-x"])
def test_a_candidate_is_not_called_as_its_folder_where_that_is_no_name(file: Path, model: str):
    with pytest.raises(ConfigError, match=r"candidates\.0\.name: '.*': a name has .*; write {name"):
        configfile.load(file, "p", [f"candidates=['{model}']"])


def number_keys(section: type[BaseModel] = Pipeline, path: str = "") -> Iterator[str]:
    """Every key of a pipeline whose value may be a number, or a list of them."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from number_keys(kind, f"{path}{name}.")
        elif "int" in str(kind) or "float" in str(kind):
            yield path + name


KEYS = list(number_keys())
NUMBERS = [".nan", ".inf", "-.inf", "-1", "0", "1.0000000001", "1.0e+300", "1000000000000000000",
           "9" * 390, "9" * 5001, "0x" + "f" * 5000, "null", "true", "{}", "[[]]", "word",
           "[1, 2]", "[.nan, 1]", f"[{'7, ' * 2000}]", "2024-99-99"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_no_number_hangs_or_ends_in_a_traceback(file: Path, key: str):
    """What is not refused with a sentence is small enough to plan."""
    for number in NUMBERS:
        loaded, refusal = None, ""
        try:
            loaded = configfile.load(file, "p", [f"{key}={number}"])
        except ConfigError as error:
            refusal = str(error)
        assert len(refusal) < 500
        assert "\n" not in refusal
        if loaded:
            assert number not in (".nan", ".inf", "-.inf", "1.0e+300")
            assert len(loaded.sweep.sizes) * loaded.sweep.seeds <= 100_000


def test_all_numbers_are_tried():
    assert {"sweep.growth", "sweep.seeds", "seed", "finetune.lora.rank", "engine.slots"} < {*KEYS}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sweep.growth=1.000000001", r"growth \(1.000000001\) makes 1,386,294,\d+ sizes .* 1,000"),
        ("sweep.seeds=1000000000", r"'sweep.seeds': .*less than or equal to 1000"),
        ("candidates=" + str([f"o/m{i}" for i in range(2000)]), r"'candidates': .*at most 1000"),
        ("x=" + "[" * 100_000, r"--set x=\[+…: the value is not YAML \(.*more than 100 deep"),
        ("x=" + "{a: " * 30_000, r"the value is not YAML \(.*nested more than 100 deep"),
        ("x=" + "9" * 5001, r"not YAML \('9+…' cannot be read as int"),
        ("x=2024-99-99", r"not YAML \('2024-99-99' cannot be read as timestamp"),
        ("x={[a]: b}", r"not YAML \(a value cannot be read as map"),
        ('x="\\ud800"', r"not YAML \(a text holds half a character"),
        (".".join("abc" * 20_000) + "=1", "there is no such key"),
        (
            "data.source=" + "x" * 300 + ".jsonl",
            "data.source: 'x+...x+.jsonl' is too long for a path",
        ),
        ("data.source=" + "x/" * 3000, "is too long for a path"),
        (
            "data.test_source=~nobody-here/x",
            "test_source: there is no home folder of '~nobody-here'",
        ),
        ("kernel.pretraining_text=" + "x" * 300, "is too long for a path"),
        ("candidates=[{name: a, model: " + "x" * 300 + "}]", "candidates.0.model: .* is too long"),
        (
            "candidates=[{name: a, model: ~nobody-here/x}]",
            "there is no home folder of '~nobody-her",
        ),
        ("candidates=[~nobody-here/*]", "there is no home folder of '~nobody-here'"),
        ("schedule.cron=" + "1 " * 5000, "has not five fields; write minute"),
        ("data.source.a.b.c.d.e.f=1", r"'data.source': .*string, not {'a': {"),
    ],
    ids=lambda value: value[:20],
)
def test_an_override_without_end_is_one_sentence(file: Path, override: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence) as caught:
        configfile.load(file, "p", [override])
    assert len(str(caught.value)) < 500


def test_the_cells_of_a_sweep_are_counted_before_they_are_planned(file: Path):
    more = ["candidates=" + str([f"o/m{i}" for i in range(1000)]), "sweep.seeds=1000"]
    with pytest.raises(ConfigError, match=r"1,000 candidates at 4 sizes .* are 4,000,000 cells"):
        configfile.load(file, "p", more)


def test_a_pattern_for_the_whole_disk_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configfile.glob, "iglob", lambda _: (f"/{i}" for i in itertools.count()))
    with pytest.raises(ConfigError, match="matches more than 10,000 paths"):
        configfile.load(file, "p", ["candidates=['/*/*/*']"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: " + "[" * 100_000, "line 1: .*nested more than 100 deep"),
        ("".join(" " * i + "a:\n" for i in range(1000)), "line 10.: .*nested more than 100 deep"),
        ("a:\n  " + "- " * 50_000, "line 2: .*nested more than 100 deep"),
        ("a: " + "9" * 5001, "line 1: '9+…' cannot be read as int"),
        ("a: 0x" + "f" * 5001, "more than 400 digits"),
        ("[" + "a, " * 200_000 + "]", "more than 100,000 values"),
        ("a: " + "b" * 2**20, "more than 1,048,576 bytes"),
        ("a: !!bool x", "'x' cannot be read as bool"),
        ('pipelines:\n  p: {description: "\\0"}', "a text holds half a character or a NUL"),
    ],
    ids=lambda value: value[:12],
)
def test_a_file_without_end_is_one_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "pipelines.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        configfile.load(path, "p")
    assert len(str(caught.value)) < 500


def test_a_bound_on_memory_is_in_no_key(file: Path):
    plain = configfile.load(file, "p")
    assert "max_row_bytes" not in public(plain)["data"]
    raised = configfile.load(file, "p", ["data.max_row_bytes=1000000000"])
    assert public(raised)["data"]["max_row_bytes"] == 10**9


def test_a_password_does_not_come_by_the_command_line(file: Path):
    with pytest.raises(
        ConfigError, match=r"--set tracking\.uri: a password on the command"
    ) as caught:
        configfile.load(file, "p", ["tracking.uri=http://me:horse@host"])
    assert "horse" not in str(caught.value)
