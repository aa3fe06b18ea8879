"""The sections of pipelines.yaml as types, the one source of parameters and schedules."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from lensllm.core.errors import listing, suggestion
from lensllm.core.secrets import mask
from lensllm.core.untrusted import short, shown

Policy = Literal["all", "adaptive", "halving"]
_CRON_FIELDS = 5  # a sixth would be seconds
# No real sweep comes near these limits: beyond them a plan takes hours, or all of the memory.
_MOST_CANDIDATES = 1_000
_MOST_SIZES = 1_000
_MOST_CELLS = 100_000
_MOST_EXAMPLES = 10**12
_MOST_MINUTES = 5_256_000  # ten years
_PATH_BYTES = 4096  # Linux takes fewer than that, and 255 between slashes
_NAME_BYTES = 200  # file systems take 255, and names get a suffix


def place(text: str) -> str:
    """``text``; raises ValueError if it can be no path."""
    if len(text.encode()) >= _PATH_BYTES or max(len(p.encode()) for p in text.split("/")) > 255:
        raise ValueError(f"{shown(text)} is too long for a path; check what it names")
    try:
        Path(text).expanduser()
    except RuntimeError:
        user = shown(text.partition("/")[0])
        raise ValueError(f"there is no home folder of {user}; write the whole path") from None
    return text


Place = Annotated[str, AfterValidator(place)]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Data(Section):
    """The data set that the candidates are fine-tuned on."""

    source: Place = "builtin:docstrings"
    """``builtin:docstrings`` or ``builtin:names``; a .jsonl, .json, .csv, .tsv, .parquet, .txt or
    .md file; a folder of such files, or a pattern such as ``data/*.jsonl``; ``hub:org/name`` of a
    Hugging Face data set, or ``hub:`` and the folder of a copy."""
    config: str | None = None
    """Hub data only: the configuration, where it has several."""
    split: str = "train"
    """Hub data only: the split to train on."""
    revision: str | None = None
    """Hub data only: branch, tag or commit; nothing: the main branch as it is now."""
    test_source: Place | None = None
    """A test set of its own, of the same kinds as ``source``; nothing: drawn from ``source``."""
    test_split: str | None = None
    """Hub data only: the split that is the test set."""
    validation_source: Place | None = None
    """A validation set of its own; nothing: drawn from the training examples."""
    validation_split: str | None = None
    """Hub data only: the split that is the validation set."""
    form: Literal["auto", "completion", "text", "messages"] = "auto"
    """Form of an example: a prompt with its completion, running text, or a chat. ``auto`` goes by
    the columns: those named below that are there, a chat before a pair before text."""
    prompt: str = "prompt"
    """Column the model reads, or a template over columns: ``"Question: {question}"``."""
    completion: str = "completion"
    """Column the model must produce, or a template; only its tokens carry loss."""
    text: str = "text"
    """Column of running text; all of its tokens carry loss."""
    messages: str = "messages"
    """Column of chats, lists of role and content; only the last answer's tokens carry loss."""
    stratify: str | None = None
    """Column whose values have the same shares in every subset, and in the test and validation sets
    that are drawn."""
    keep: int = Field(100_000, ge=10, le=10**9)
    """Most examples of a set that are kept, a uniform sample of the distinct ones: memory and
    tokenising are in proportion. ``sweep.target: full`` counts all of them."""
    max_row_bytes: int = Field(2**24, ge=1024, le=2**30)
    """Longest row of a data file, unpacked; a longer one is refused with its number. A bound on
    memory, and in no key."""
    packages: Annotated[tuple[str, ...], Field(max_length=_MOST_CANDIDATES)] = ("stdlib",)
    """Builtin data only: installed packages whose docstrings are mined."""
    validation_examples: int = Field(200, ge=1, le=10**9)
    """Held out of training to choose the best epoch."""
    test_examples: int = Field(500, ge=2, le=10**9)
    """Held out to measure the loss the ranking is about."""
    max_tokens: int = Field(128, ge=8, le=10**7)
    """Longer examples are cut by the same rule for every candidate, and counted."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        for role in ("test", "validation"):
            if getattr(self, f"{role}_source") and getattr(self, f"{role}_split"):
                raise ValueError(
                    f"{role}_source and {role}_split both say where the {role} set is; give one"
                )
        return self


def wrong_name(name: str, *, spaces: bool = False) -> str:
    """The rule for names that ``name`` breaks; "" where it is a name that files may have.

    >>> wrong_name("llama-3.2_1B"), wrong_name("Ωμέγα")
    ('', '')
    """
    inner = r"[\w.\- ]*" if spaces else r"[\w.\-]*"
    fits = re.fullmatch(rf"\w({inner}[\w\-])?", name)
    if fits and len(name) <= 80 and len(name.encode()) <= _NAME_BYTES:
        return ""
    letters = "'-', '_', '.' and spaces" if spaces else "'-', '_' and '.'"
    return (
        f"a name has letters, digits, {letters}, begins with a letter or digit, ends without a "
        f"point and has at most 80 characters and {_NAME_BYTES} bytes"
    )


def name_of(model: str) -> str:
    """The last part of a model's path or id, without revision and suffix."""
    model = re.sub(r"^([\w.\-]+/[\w.\-]+)@.*", r"\1", model)
    return model.rstrip("/").replace(":", "/").rsplit("/", 1)[-1].removesuffix(".gguf")


class Candidate(Section):
    """A pretrained model that might be fine-tuned."""

    name: str
    """Its name in tables and figures: letters, digits, ``-``, ``_`` and ``.``, a letter or digit
    first, no point last, at most 80 characters."""
    model: Place
    """``org/name`` on the Hugging Face hub, there ``org/name@revision`` too; a folder with a
    transformers checkpoint; a .gguf file; or ``builtin:NAME`` of those that come along. A ``*`` in
    a path stands for every checkpoint that it matches, each a candidate named by its folder."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub. It is resolved to a commit before anything
    runs; nothing: the main branch as it is then."""
    finetune: dict[str, Any] = Field(default_factory=dict)
    """Keys of ``finetune`` that this candidate overrides."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if wrong := wrong_name(name):
            raise ValueError(f"{shown(name)}: {wrong}; write {{name: …, model: …}}")
        return name

    @field_validator("finetune")
    @classmethod
    def _is_valid(cls, changes: dict[str, Any]) -> dict[str, Any]:
        FineTune.model_validate(changes)  # its error names the key that is wrong
        return changes


class Sweep(Section):
    """Which subsets every candidate is fine-tuned on."""

    min: int = Field(100, ge=2, le=_MOST_EXAMPLES)
    """Smallest training subset."""
    max: int = Field(800, ge=2, le=_MOST_EXAMPLES)
    """Largest training subset paid for: the budget."""
    growth: float = Field(2.0, gt=1.0, le=1e6)
    """Factor from one subset to the next; from ``min`` to ``max`` it makes at most 1,000 sizes, and
    sizes, candidates and seeds at most 100,000 cells."""
    zero_shot: bool = True
    """Measure the pretrained model too (D = 0)."""
    target: Annotated[int, Field(ge=2, le=_MOST_EXAMPLES)] | Literal["full"] = "full"
    """Training-set size the ranking is for; ``full`` is every training example."""
    measure_target: bool = False
    """Fine-tune every candidate at the target as well, to see whether the ranking was right."""
    seeds: int = Field(1, ge=1, le=1_000)
    """Repeats with another permutation of the data and another order of batches."""
    schedule: Literal["separate", "trunk"] = "separate"
    """Training of the subsets. ``separate``: each from the pretrained model, for
    ``finetune.epochs``. ``trunk``: one pass over the data that all subsets share, and from it a
    short branch for each; the target is still predicted for ``finetune.epochs``."""
    keep_trunks: bool = False
    """Keep all states of a trunk, so that a size in between can leave it later; else the latest of
    each candidate. A state takes twelve bytes per trained weight."""
    policy: Policy = "all"
    """Candidates that get the larger subsets. ``all``: every one, up to ``max``. ``adaptive``: from
    16 times ``min`` on only those that may still be the best, until little is left to gain.
    ``halving``: the better half of each round, by AtS."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The subset sizes paid for, ascending, without 0 and without the target."""
        sizes, size = [], float(self.min)
        while round(size) <= self.max:
            sizes.append(round(size))
            size *= self.growth
        return tuple(dict.fromkeys(sizes))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        count = math.log(self.max / self.min) / math.log1p(self.growth - 1) + 1
        if count > _MOST_SIZES:
            raise ValueError(
                f"growth ({self.growth}) makes {count:,.0f} sizes from min ({self.min}) to max "
                f"({self.max}), of at most {_MOST_SIZES:,}; raise growth"
            )
        if self.target != "full" and self.target <= self.max:
            raise ValueError(
                f"target ({self.target}) is not above the budget max ({self.max}); "
                "nothing is left to predict, raise target or lower max"
            )
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) beside every linear layer but the head, read when
    ``finetune.method`` is ``lora``."""

    rank: int = Field(16, ge=1, le=2**16)
    """Rank r of every adapter."""
    alpha: float = Field(32.0, gt=0, le=1e9)
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the adapters' input."""
    learning_rate: float = Field(2e-4, gt=0, le=1e38)
    """Peak of the schedule in place of ``finetune.learning_rate``, which suits full weights."""

    IN_EVERY_KEY: ClassVar = frozenset({"rank", "alpha", "dropout", "learning_rate"})


class FineTune(Section):
    """Training of a cell; a candidate may override single settings."""

    method: Literal["full", "lora"] = "full"
    """All weights, or low-rank adapters beside the linear layers."""
    lora: Lora = Lora()
    """Settings of the adapters; read with ``method: lora`` only."""

    learning_rate: float = Field(1e-3, gt=0, le=1e38)
    """Peak of the schedule, of AdamW."""
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1e38)], ...], Field(max_length=100)
    ] = ()
    """Peaks to choose from for each candidate, by the validation loss of its cells of the smallest
    size; of the adapters with ``method: lora``. Takes the place of the one above."""
    weight_decay: float = Field(0.01, ge=0, le=1e6)
    """Weight decay of AdamW, on every weight."""
    batch_size: int = Field(16, ge=1, le=10**6)
    """Examples of an optimiser step."""
    epochs: int = Field(3, ge=1, le=10**6)
    """Passes over the subset; the weights of the best one on the validation set are kept."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps with a rising learning rate; it then falls linearly to 0."""
    warmup_steps: int = Field(10, ge=0, le=10**6)
    """Steps of a trunk with a rising learning rate; it then stays at its peak."""
    clip: float = Field(1.0, gt=0, le=1e12)
    """Largest norm of a gradient."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` takes bfloat16 where it is faster and says why. Of matrix products; trained weights
    stay float32, frozen ones below adapters are bfloat16 too."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto`` takes PyTorch's fused attention where the architecture has it and says why."""

    # Settings that every key names. A setting added later belongs in no list: at its default it is
    # left out of keys, so that cells trained before it existed are found again. The default of such
    # a setting never changes; for another default the setting joins this list, which changes keys.
    IN_EVERY_KEY: ClassVar = frozenset(
        {"method", "lora", "learning_rate", "learning_rates", "weight_decay", "batch_size"}
        | {"epochs", "warmup", "clip", "precision", "attention"}
    )

    @property
    def peak(self) -> float:
        """The highest learning rate of the schedule, with this method."""
        return self.lora.learning_rate if self.method == "lora" else self.learning_rate

    @property
    def content(self) -> dict[str, Any]:
        """The settings that a trained cell depends on, as JSON values for its key.

        It has one learning rate, and the settings of adapters only with ``method: lora``.
        """
        return self._content(trunk=False)

    @property
    def trunk_content(self) -> dict[str, Any]:
        """The settings that a trunk and its branches depend on, as ``content``."""
        return self._content(trunk=True)

    def _content(self, *, trunk: bool) -> dict[str, Any]:
        unread = {"learning_rates", "learning_rate" if self.method == "lora" else "lora"}
        unread |= {"epochs", "warmup"} if trunk else {"warmup_steps"}
        content = {n: value for n, value in _key_content(self).items() if n not in unread}
        return {**content, "warmup_steps": self.warmup_steps} if trunk else content

    def with_learning_rate(self, rate: float) -> Self:
        """These settings with ``rate`` as the only learning rate."""
        changes: dict[str, Any] = {"learning_rate": rate}
        if self.method == "lora":
            changes = {"lora": self.lora.model_copy(update=changes)}
        return self.model_copy(update={"learning_rates": (), **changes})

    @field_validator("learning_rates", mode="after")
    @classmethod
    def _a_choice(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(rates) == 1 or len(set(rates)) < len(rates):
            raise ValueError("name at least two learning rates to choose from, each once")
        return tuple(sorted(rates))


def _key_content(section: Lora | FineTune) -> dict[str, Any]:
    """JSON values of a section without the later settings that are at their defaults."""
    named = {*section.IN_EVERY_KEY, *section.model_dump(exclude_defaults=True)}
    content = {k: v for k, v in section.model_dump(mode="json").items() if k in named}
    if isinstance(section, FineTune):
        content["lora"] = _key_content(section.lora)
    return content


class Kernel(Section):
    """The neural tangent kernel at the pretrained weights."""

    enabled: bool = True
    """Without it the LensLLM predictors are left out."""
    probes: int = Field(64, ge=4, le=10_000)
    """Training examples whose gradients span the kernel."""
    method: Literal["auto", "exact", "sketch"] = "auto"
    """``sketch`` projects the gradients at random: for many probes and large models. ``auto`` takes
    exact products while they are cheap and fit, and says why."""
    memory_gib: float = Field(8.0, gt=0, le=1e6)
    """Memory of the computation besides the model; the allocator may keep a little more."""
    pretraining_text: Place | None = None
    """Text like what the candidates were pretrained on, a few megabytes, for the overlap of both
    data: a .txt file with blank lines between texts, or a .jsonl, .csv or .parquet file with a
    column ``text``. Embedded candidates have their own; others without it have no overlap."""


class Curvature(Section):
    """The Hessian bound of chosen cells: a diagnostic, never a ranking."""

    sizes: Annotated[tuple[int, ...], Field(max_length=_MOST_SIZES)] = ()
    """Subset sizes whose cells are examined; each must be one of the sweep's. Three or more show
    how curvature changes with data. A size added later has its cells trained again."""
    examples: int = Field(8, ge=1, le=10**6)
    """Training examples among which each layer's largest vᵀH⁺v is sought."""
    mean_examples: int = Field(4, ge=1, le=10**6)
    """Examples, out of these, of whose mean loss the full curvature is measured: the cost is in
    proportion."""
    tolerance: float = Field(0.1, gt=0, le=1e6)
    """Error, as a share of vᵀ|H|v, at which a layer needs no further product."""
    lanczos_steps: int = Field(6, ge=2, le=10_000)
    """Most Hessian products of a layer behind vᵀH⁺v, its error as it may be."""
    trace_probes: int = Field(4, ge=2, le=10_000)
    """Random vectors behind a layer's trace."""


class HeavyTails(Section):
    """Heavy-tail exponents of the pretrained weights, a baseline that trains nothing."""

    enabled: bool = False
    """Needs the extra ``lensllm[heavy-tails]``; adds the predictors pl_alpha and e_tpl_lambda."""


class Law(Section):
    """Extrapolation of curves: the kernel's F in the LensLLM law, and AtS's line."""

    scale: Literal["scaled", "literal"] = "scaled"
    """``literal``: F of the probe set, as in the paper; ``scaled``: one factor per data set."""
    gamma: int = Field(3, ge=2, le=_MOST_SIZES)
    """γ of AtS: fewest points of its line. The line of 2 has no residuals, so none is added."""
    tau: float = Field(5.0, gt=0, le=1e9)
    """τ of AtS: how far the next smaller size may lie off the line, in standard deviations of the
    line's own residuals, to be accepted."""


class Ranking(Section):
    """From curves to a decision."""

    predictor: str = "stack"
    """The predictor whose ranking is the answer; all others are reported beside it."""
    metric: Literal["bits_per_byte", "nats_per_token"] = "bits_per_byte"
    """Loss to rank by; nats per token compare only candidates that share a tokenizer."""
    draws: int = Field(4000, ge=100, le=10**6)
    """Random draws behind P(best) and the intervals."""
    prior: Literal["default", "store"] = "default"
    """``store``: the finished curves of other data sets in the artifacts folder move the prior that
    hrb, blend and stack start from."""


class Engine(Section):
    """Processes, devices and limits of the cells."""

    kind: Literal["local", "ray"] = "local"
    """``local``: processes of this machine. ``ray``: a Ray cluster whose machines share the
    artifacts folder; needs the extra ``lensllm[ray]``."""
    ray_address: str = "auto"
    """Address of the cluster, ``host:port``; ``auto``: RAY_ADDRESS, or the cluster that this
    machine belongs to."""
    gpu_share: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Share of a GPU for a cell in a Ray cluster; ``auto``: the half, quarter or eighth that holds
    what the candidate's probe took, else all of it."""
    slots: Annotated[int, Field(ge=1, le=1_024)] | Literal["auto"] = "auto"
    """Cells at a time; ``auto`` is one per core, or one per GPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto`` takes CUDA, then Apple's MPS, then the CPU."""
    cell_timeout_minutes: float = Field(720.0, gt=0, le=_MOST_MINUTES)
    """A cell that takes longer is stopped and reported as failed; run again, it goes on."""
    checkpoint_minutes: float = Field(5.0, gt=0, le=_MOST_MINUTES)
    """A cell that takes longer keeps where it is this often, and goes on from there when it was
    interrupted."""
    memory_gib: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Memory that a slot's cell may allocate, on a CPU besides the worker's own; nothing: as much
    as there is. Batches are taken in parts that fit."""
    processes: int = Field(1, ge=1, le=1_024)
    """Processes of one cell, each on a GPU of its own: for models that do not fit on one."""


class Tracking(Section):
    """MLflow."""

    enabled: bool = True
    """Write runs to MLflow."""
    uri: str | None = None
    """Tracking server; the default is a SQLite file in the artifacts folder."""


class Schedule(Section):
    """Times at which a pipeline runs again, by ``lensllm deploy`` or ``lensllm serve``."""

    cron: str | None = None
    """Minute, hour, day of month, month, day of week: ``0 2 * * *`` is every night at two. Nothing:
    only by hand."""
    timezone: str = "UTC"
    """Time zone of ``cron``, such as ``Europe/Berlin``."""
    overlap: Literal["wait", "cancel"] = "wait"
    """A run that is due while the previous one is active waits for it, or is cancelled."""

    @field_validator("cron")
    @classmethod
    def _fires(cls, cron: str | None) -> str | None:
        how = "write minute, hour, day of month, month, day of week, e.g. '0 2 * * *'"
        if cron is not None and len(cron.split()) != _CRON_FIELDS:
            raise ValueError(f"'{short(cron)}' has not five fields; {how}")
        try:
            _ = cron and next(CronSim(cron, datetime.now()))
        except (CronSimError, StopIteration) as error:
            what = str(error).lower() or "no such day"
            raise ValueError(f"'{short(cron)}' never comes ({what}); {how}") from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        zones = available_timezones()
        if timezone not in zones:
            hint = suggestion(timezone, zones)
            raise ValueError(f"no time zone '{short(timezone)}'{hint}; e.g. UTC or Europe/Berlin")
        return timezone


class Pipeline(Section):
    """One pipeline, complete."""

    description: str = ""
    """Purpose of the pipeline."""
    seed: int = Field(0, ge=0, le=10**18)
    """The one seed every random stream is derived from."""
    data: Data = Data()
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1, max_length=_MOST_CANDIDATES)]
    """The models to rank: mappings as below, or just the models, then named by their last part."""
    sweep: Sweep = Sweep()
    finetune: FineTune = FineTune()
    kernel: Kernel = Kernel()
    curvature: Curvature = Curvature()
    heavy_tails: HeavyTails = HeavyTails()
    law: Law = Law()
    ranking: Ranking = Ranking()
    engine: Engine = Engine()
    tracking: Tracking = Tracking()
    schedule: Schedule = Schedule()

    def finetune_of(self, candidate: Candidate) -> FineTune:
        """``finetune`` with the overrides of ``candidate``."""
        shared, own = self.finetune.model_dump(), candidate.finetune
        both = {**shared, **own, "lora": {**shared["lora"], **own.get("lora", {})}}
        return FineTune.model_validate(both)

    @field_validator("candidates", mode="before")
    @classmethod
    def _named(cls, entries: Any) -> Any:
        """A plain string is a model whose name is its last part."""
        if not isinstance(entries, list | tuple):
            return entries
        if not entries:
            raise ValueError("name at least one model")
        return [{"name": name_of(e), "model": e} if isinstance(e, str) else e for e in entries]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.candidates]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"candidates: {listing(twice)} is listed twice; give it another name")
        sizes, sweep = self.sweep.sizes, self.sweep
        each = len(sizes) + sweep.zero_shot + sweep.measure_target
        if (cells := len(names) * each * sweep.seeds) > _MOST_CELLS:
            raise ValueError(
                f"sweep: {len(names):,} candidates at {each:,} sizes with {sweep.seeds:,} seeds "
                f"are {cells:,} cells, of at most {_MOST_CELLS:,}; lower sweep.seeds or raise "
                "sweep.growth"
            )
        if stray := [s for s in self.curvature.sizes if s not in sizes]:
            raise ValueError(
                f"curvature.sizes: {stray[0]} is not a size of the sweep; "
                f"choose from {listing(sizes)}"
            )
        if self.curvature.sizes and self.engine.processes > 1:
            raise ValueError(
                "curvature.sizes: the curvature of a cell needs all of its weights in one process; "
                "leave it out with engine.processes above 1"
            )
        return self


class Replay(Section):
    """A ranking from a table of losses measured elsewhere."""

    table: Place
    """``flan`` or ``gigaword``, or a .csv, .tsv or .parquet file."""
    target: int | None = Field(None, ge=2, le=_MOST_EXAMPLES)
    """Training-set size the ranking is for; nothing: the largest of the table."""
    budget: int | None = Field(None, ge=2, le=_MOST_EXAMPLES)
    """Largest size the predictors may know; nothing: an eighth of the target."""
    all_budgets: bool = False
    """Rank from every budget of at least five sizes up to ``budget``, too."""
    policy: Policy = "all"
    """Policy simulated on the table within ``budget``, as ``sweep.policy``."""
    seed: int = Field(0, ge=0, le=10**18)
    """Seed of the draws."""
    law: Law = Law()
    ranking: Ranking = Ranking()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.all_budgets and self.policy != "all":
            raise ValueError("--all-budgets asks what each budget says, --policy spends only one")
        return self


def public(pipeline: Pipeline | Replay) -> dict[str, Any]:
    """The resolved configuration as plain values, without credentials.

    It is in the keys of reports, which a bound on memory leaves as they are at its default.
    """
    content: dict[str, Any] = json.loads(mask(pipeline.model_dump_json()))
    if isinstance(pipeline, Pipeline) and pipeline.data.max_row_bytes == Data().max_row_bytes:
        del content["data"]["max_row_bytes"]
    return content
