"""The command line: ``lensllm plan|run|ablate|replay|status|report|ui|deploy|serve|verify|gc``.

Every command has ``--help`` with an example, and all but those that serve have ``--json``.

Exit codes: 0; 1 if cells failed while others went on; 2 with one sentence for a mistake that the
user can mend; 130 after an interruption.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from flows.cli.interruption import INTERRUPTED, interruptible
from flows.running.terminal import SafeConsole
from flows.server import environment
from lensllm.config import configfile
from lensllm.config.sections import Law, Pipeline, Ranking
from lensllm.core.errors import LensError
from lensllm.core.secrets import mask
from lensllm.store.artifacts import Store

if TYPE_CHECKING:
    from flows.running.terminal import Tally

FILE = Path("pipelines.yaml")
ARTIFACTS = Path("artifacts")
_DECIDE, _WATCH, _SCHEDULE, _MAINTAIN = "Decide", "Watch", "Schedule", "Maintain"  # help's groups

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Decide which pretrained language model to fine-tune on your data.",
)
# Piped output is read by people too: 80 columns would fold the tables.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 110
out = SafeConsole(highlight=False, width=_width)
err = SafeConsole(stderr=True, highlight=False)


def _pipelines(context: typer.Context) -> list[str]:
    """Pipelines of the configuration file, for the shell to complete; none if it has an error."""
    with suppress(LensError):
        return list(configfile.names(Path(context.params.get("file") or FILE)))
    return []


Name = Annotated[
    str,
    typer.Argument(help="A pipeline of the configuration file.", autocompletion=_pipelines),
]
Names = Annotated[
    list[str],
    typer.Argument(
        help="Pipelines; none: all that have a schedule.",
        show_default=False,
        autocompletion=_pipelines,
    ),
]
File = Annotated[Path, typer.Option("--file", "-f", help="Configuration file.")]
Artifacts = Annotated[Path, typer.Option(envvar="LENSLLM_ARTIFACTS", help="Folder of all results.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a setting.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_in_use = ExitStack()  # leases that a command holds until it ends


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"lensllm {version('lensllm')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """Release the command's leases when it ends."""
    context.with_resource(_in_use)


@app.command(rich_help_panel=_DECIDE)
def plan(
    name: Name,
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Measure the candidates' throughput here, about 20 steps each."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run would compute, reuse and cost, before a second of training.

    Example: [cyan]lensllm plan demo --set sweep.seeds=3[/cyan]
    """
    from flows.cli import screens
    from flows.running.slots import slots_of
    from tasks.planning import estimate
    from tasks.planning.plan import make_plan
    from tasks.planning.preflight import preflight

    settings, store = _open(file, name, overrides, artifacts)
    slots = slots_of(settings.engine)[0]
    found = preflight(make_plan(settings, store))
    made = make_plan(settings, store)  # the data is there now: its sizes are checked
    if probe:
        from flows.cli.probing import measure

        with interruptible(err):
            measure(made, err)
    forecast = estimate.forecast(made, slots)
    machine = forecast.as_dict | found.as_dict
    _print(as_json, lambda: machine, lambda: screens.plan(name, forecast, found))


@app.command(rich_help_panel=_DECIDE)
def run(
    name: Name,
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Rank the candidates; finished work is reused, interrupted work goes on.

    Example: [cyan]lensllm run demo --set sweep.seeds=3[/cyan]
    """
    settings, store = _open(file, name, overrides, artifacts)
    with interruptible(err):
        from flows.cli import screens
        from flows.cli.summary import summarise
        from flows.running.slots import slots_of

        arguments = (name, str(file.absolute()), str(store.root), overrides)
        slots = slots_of(settings.engine)[0]
        outcome, tally = _launch("rank", arguments, slots, store, as_json)
        summary = summarise(outcome, tally)
        _print(as_json, lambda: summary.as_dict, lambda: screens.ranking(summary, out.width))
    raise typer.Exit(1 if summary.failures else 0)


@app.command(rich_help_panel=_DECIDE)
def ablate(
    name: Name,
    over: Annotated[
        list[str], typer.Option(metavar="KEY.PATH=VALUE,VALUE", help="Values of a setting to try.")
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would train, and train nothing.")
    ] = False,
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Rank the candidates with other settings too, every combination of them, and say what moves.

    Example: [cyan]lensllm ablate demo --over law.tau=3,8 --over finetune.learning_rate=5e-4[/cyan]
    """
    from flows.cli import ablation
    from flows.running.slots import slots_of
    from lensllm.config import grid

    points = grid.read(file, name, over, overrides)
    store = _hold(_store(artifacts))
    plans, slots = ablation.plans(points, store), slots_of(points[0].config.engine)[0]
    effort = ablation.Effort.of(plans, store)
    if dry_run:
        from tasks.planning import estimate

        minutes = estimate.minutes(plans, slots)
        machine = {**vars(effort), "expected_minutes": minutes, "slots": slots}
        _print(as_json, lambda: machine, lambda: f"{effort}, about {minutes:.1f} minutes")
        return
    (err if as_json else out).print(f"{effort}.")
    with interruptible(err):
        arguments = (name, str(file.absolute()), str(store.root), over, overrides)
        done, tally = _launch("ablate", arguments, slots, store, as_json)
        summary = ablation.summarise(done, store, tally)
        _print(as_json, lambda: summary.as_dict, lambda: ablation.screen(summary, out.width))
    raise typer.Exit(1 if done.failures else 0)


@app.command(rich_help_panel=_DECIDE)
def replay(
    table: Annotated[str, typer.Argument(help="flan, gigaword, or a .csv, .tsv, .parquet file.")],
    budget: Annotated[
        int | None, typer.Option(help="Largest size known. Default: an eighth of the target.")
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="Size to rank for. Default: the table's largest.")
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="Whose ranking is the answer.")
    ] = Ranking().predictor,
    all_budgets: Annotated[
        bool, typer.Option("--all-budgets", help="Score every predictor at every budget.")
    ] = False,
    policy: Annotated[
        str, typer.Option(help="all, adaptive or halving: who gets larger subsets.")
    ] = "all",
    prior: Annotated[
        str, typer.Option(help="default, or store: learn it from past curves.")
    ] = "default",
    gamma: Annotated[int, typer.Option(help="γ of AtS: fewest points of its line.")] = Law().gamma,
    tau: Annotated[
        float, typer.Option(help="τ of AtS: residual at which its walk stops.")
    ] = Law().tau,
    artifacts: Artifacts = ARTIFACTS,
    as_json: AsJson = False,
) -> None:
    """Rank candidates from a table of losses measured elsewhere, without any model.

    Example: [cyan]lensllm replay flan --budget 25600[/cyan]
    """
    from lensllm.config.configfile import replay as read

    settings = read(
        {
            "table": table,
            "budget": budget,
            "target": target,
            "all_budgets": all_budgets,
            "policy": policy,
            "ranking": {"predictor": predictor, "prior": prior},
            "law": {"gamma": gamma, "tau": tau},
        }
    )
    store = _hold(_store(artifacts))
    from tasks.planning.replay import check, name_of

    check(settings, store)
    with interruptible(err):
        from flows.cli import screens
        from flows.cli.summary import summarise

        arguments = (name_of(settings), settings.model_dump(mode="json"), str(store.root))
        outcome, tally = _launch("replay", arguments, 1, store, as_json)
        summary = summarise(outcome, tally)
        _print(as_json, lambda: summary.as_replay, lambda: screens.ranking(summary, out.width))


@app.command(rich_help_panel=_WATCH)
def status(
    name: Name,
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show which cells are done, running or still to come; works beside a running command.

    Example: [cyan]lensllm status demo[/cyan]
    """
    from flows.cli import status as states
    from flows.running import journal
    from tasks.planning.plan import make_plan

    settings, store = _open(file, name, overrides, artifacts)
    cells = states.grid(make_plan(settings, store), journal.read(store, name))
    _print(as_json, lambda: cells.as_dict, lambda: states.screen(name, cells, out.width))


@app.command(rich_help_panel=_DECIDE)
def report(
    name: Name,
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Print the last ranking again and where its report page is.

    Example: [cyan]lensllm report demo[/cyan]
    """
    from flows.cli import screens
    from flows.cli.summary import reread

    settings, store = _open(file, name, overrides, artifacts)
    summary = reread(name, settings, store)
    _print(as_json, lambda: summary.as_dict, lambda: screens.ranking(summary, out.width))


@app.command(rich_help_panel=_WATCH)
def ui(
    artifacts: Artifacts = ARTIFACTS,
    prefect_port: Annotated[int | None, typer.Option(help="Default: a free port.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Default: a free port.")] = None,
) -> None:
    """Serve the Prefect and MLflow pages on this machine until Ctrl-C.

    Example: [cyan]lensllm ui --prefect-port 4200[/cyan]
    """
    environment.restrict(artifacts)
    store = Store(artifacts)
    store.prepare()
    environment.prepare(artifacts)
    from flows.cli.ui import serve

    serve(artifacts, prefect_port, mlflow_port)


@app.command(rich_help_panel=_SCHEDULE)
def deploy(
    names: Names = [],  # noqa: B006
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    pool: Annotated[
        str, typer.Option(help="Work pool whose workers run the pipelines; made if missing.")
    ] = "lensllm",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the deployments and register none.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register the pipelines that have a schedule, or those named, with your Prefect server.

    Example: [cyan]lensllm deploy demo --dry-run[/cyan]
    """
    from flows.schedules import deploy as deploying

    store = _store(artifacts)
    found = deploying.deployments(file, store, names)
    if dry_run:
        print(deploying.prefect_yaml(found, pool, store), end="")
        return
    deploying.require_server()
    path = deploying.write(found, pool, store)
    deploying.register(path, pool)
    gone = [] if names else deploying.remove_others(found)
    machine = {
        "file": str(path),
        "pool": pool,
        "deployments": [{"pipeline": d.pipeline, **d.schedule.model_dump()} for d in found],
        "removed": gone,
    }
    lines = [f"{d.pipeline}: {d.when}" for d in found]
    lines += [f"{name}: has no schedule any more, removed" for name in gone]
    lines += [f"Their runs wait for a worker: prefect worker start --pool {pool} --type process"]
    _print(as_json, lambda: machine, lambda: "\n".join(map(escape, lines)))


@app.command(rich_help_panel=_SCHEDULE)
def serve(
    names: Names = [],  # noqa: B006
    file: File = FILE,
    artifacts: Artifacts = ARTIFACTS,
    prefect_port: Annotated[int | None, typer.Option(help="Default: a free port.")] = None,
) -> None:
    """Run the pipelines that have a schedule, or those named, on this machine until Ctrl-C.

    Example: [cyan]lensllm serve --prefect-port 4200[/cyan]
    """
    from flows.schedules import deploy as deploying

    store = _store(artifacts)
    found = deploying.deployments(file, store, names)
    from flows.schedules.serve import serve as start

    start(found, store, out, prefect_port)


@app.command(rich_help_panel=_MAINTAIN)
def verify(
    artifacts: Artifacts = ARTIFACTS,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; otherwise only list.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every artefact: its files, its key and its tables. Exit code 1 if any is damaged.

    Example: [cyan]lensllm verify --repair[/cyan]
    """
    from flows.cli import verify as checking

    store = Store(artifacts.absolute())
    store.prepare()
    _hold(store, alone=repair)
    with err.status("reading every artefact …"):
        found = checking.verify(store, repair=repair)
    _print(as_json, lambda: found.as_dict, lambda: checking.screen(found))
    raise typer.Exit(1 if found.damaged and not repair else 0)


@app.command(rich_help_panel=_MAINTAIN)
def gc(
    files: Annotated[
        list[Path], typer.Option("--file", "-f", help="Configuration file; may be repeated.")
    ] = [FILE],  # noqa: B006
    artifacts: Artifacts = ARTIFACTS,
    delete: Annotated[bool, typer.Option(help="Delete; otherwise only list.")] = False,
    as_json: AsJson = False,
) -> None:
    """List (or --delete) artefacts that no pipeline of the configuration files refers to.

    Example: [cyan]lensllm gc --file pipelines.yaml --file mine.yaml --delete[/cyan]
    """
    from flows.cli import screens
    from flows.cli.summary import garbage

    environment.restrict(artifacts)
    store = _hold(_store(artifacts), alone=delete)
    found = garbage(files, store)
    if delete:
        for ref in found.refs:
            store.remove(ref)
    _print(as_json, lambda: found.as_dict, lambda: screens.garbage(found, deleted=delete))


def _open(file: Path, name: str, overrides: list[str], artifacts: Path) -> tuple[Pipeline, Store]:
    from tasks.planning.plan import check

    settings = configfile.load(file, name, overrides)
    store = _hold(_store(artifacts))
    check(settings, store)
    return settings, store


def _store(artifacts: Path) -> Store:
    environment.restrict(artifacts)
    store = Store(artifacts.absolute())
    store.prepare()
    environment.prepare(store.root)
    return store


def _hold(store: Store, *, alone: bool = False) -> Store:
    """Lease ``store`` until the command ends: no other command deletes, or uses it if ``alone``."""
    command = mask(shlex.join(["lensllm", *sys.argv[1:]]))
    _in_use.enter_context(store.alone(command) if alone else store.using(command))
    return store


def _launch(
    flow: str, arguments: Sequence[Any], slots: int, store: Store, as_json: bool
) -> tuple[Any, Tally]:
    """Run a flow; with ``as_json`` its progress goes to standard error."""
    from flows.running.launch import launch

    return launch(flow, arguments, slots, store, err if as_json else out)


def _print(as_json: bool, machine: Callable[[], Any], person: Callable[[], Any]) -> None:
    """Print what ``machine`` gives as JSON, or what ``person`` gives as text."""
    if as_json:
        print(json.dumps(machine(), indent=2, allow_nan=False))
    else:
        out.print(person())


def main() -> None:
    """Run the command that ``sys.argv`` names; always ends in ``SystemExit``."""
    try:
        app(prog_name="lensllm")
    except LensError as error:
        err.print(f"[bold red]error:[/bold red] {escape(mask(str(error)))}", soft_wrap=True)
        sys.exit(2)


def script() -> None:
    """Entry point of the console script: ``main`` in a process that has no other work."""
    try:
        main()
    except SystemExit as end:
        others = [t for t in threading.enumerate() if t is not threading.main_thread()]
        is_done = end.code in (None, 0) and all(thread.daemon for thread in others)
        if is_done:
            atexit._run_exitfuncs()
        if is_done or end.code == INTERRUPTED:
            # Taking a million objects apart would last longer than a second, and a thread that an
            # interruption leaves in the middle of an import or a request may abort the process.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code or 0))
        raise
