"""One sweep, killed at every moment of it, and what it ends with."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lensllm.core.processes import alive
from tests.e2e.conftest import COMMAND
from tests.e2e.kill_counts import Counts
from tests.e2e.kill_plan import BOTH, MOMENTS, ONE_OF_TWO, SERVER_FIRST, Kill, Plan
from tests.e2e.observe import (
    FINAL,
    Identity,
    artefacts,
    final_tables,
    leftovers,
    processes,
    seals,
)
from tests.e2e.victims import Command, Mlflow, send
from tests.stress import NAME
from tests.waiting import HANG_SECONDS, wait

_FRESH = ("imports", "server start")  # moments of a command that has just begun
_SHORT = (*_FRESH, "publishing", "printed")  # to be watched for alone
_STAGES = {
    "data": ("dataset", "sample"),
    "tokens": ("tokens",),
    "training": ("finetune",),
    "ranking": FINAL,
    "report": ("report",),
}
_COMPUTED = re.compile(r"^\[\d+/\d+\] (finetune .*) \([\d.]+ s\)", re.MULTILINE)


class Siege:
    """One sweep by ``commands`` commands at a time, started again when they have ended."""

    def __init__(
        self, file: Path, folder: Path, mlflow: Mlflow, seed: int, calm: Path, commands: int = 1
    ) -> None:
        self.artifacts, self.mlflow, self.calm = folder / "artifacts", mlflow, calm
        self.counts = Counts()
        self._arguments = [*COMMAND, "run", NAME, "--file", str(file), "--artifacts",
                           str(self.artifacts), "--set", f"tracking.uri={mlflow.uri}"]  # fmt: skip
        self._folder = folder
        self._draw = random.Random(seed)
        self._commands: list[Command | None] = [None] * commands
        self._finished: dict[Path, Identity] = {}
        self._wanted = {path.relative_to(calm) for path in artefacts(calm)}

    def endure(self, plan: Plan, moments: tuple[str, ...] = tuple(MOMENTS)) -> None:
        """A kill at each of ``moments``, in order; those of a beginning when a command begins, and
        MLflow's whenever it comes."""
        fresh = [moment for moment in moments if moment in _FRESH]
        later = [moment for moment in moments if moment not in _FRESH]
        self._draw.shuffle(fresh)
        while fresh or later:
            if not later:  # the others need a new command
                self._let_end()
            begun = self._start()
            first = begun and fresh and (not later or self._draw.random() < 0.5)
            queue = fresh if first else later
            any_time = {"MLflow"} & set(later) if queue[0] not in _SHORT else set()
            moment = self._await({queue[0], *any_time})
            (later if moment == "MLflow" else queue).remove(moment or queue[0])
            if moment:
                victim, way = plan.take(moment)
                if not self._kill(moment, victim, way):
                    plan.give_back(moment, (victim, way))

    def end(self) -> Counts:
        """Let the commands end, give another one, and count what is not as it should be."""
        self.mlflow.wait()
        self._let_end()
        self._commands = [None]
        self._start()
        (last,) = self._running()
        self._let_end()
        if last.process.returncode != 0:
            self.counts.odd.append(f"{self._folder.name}: the last command failed")
        self._watch()
        self._count()
        return self.counts

    # --- moments -------------------------------------------------------------------------------
    def _await(self, moments: set[str]) -> str | None:
        """Which of the moments comes first; None if all commands have ended or they are over."""
        runs = max(self.mlflow.runs(), self._draw.randrange(len(self._wanted) // 2))
        step = 0.001 if moments & {*_SHORT, "ranking"} else 0.01
        others = moments - {"MLflow"}
        deadline = time.monotonic() + HANG_SECONDS
        while self._running():
            for moment in sorted(moments):
                if self._is_now(moment, runs):
                    time.sleep(MOMENTS[moment][1] * self._draw.random())
                    return moment
            if others and all(self._is_over(moment) for moment in others):
                return None
            assert time.monotonic() < deadline, f"{moments}: not within {HANG_SECONDS:g} s"
            time.sleep(step)
        return None

    def _is_now(self, moment: str, runs: int) -> bool:
        match moment:
            case "imports":
                return True
            case "server start":
                return self._written_since(max, self.artifacts / "prefect" / "server.json")
            case "publishing":
                return bool(self._drafts())
            case "MLflow":
                return self.mlflow.runs() > runs
            case "shutdown":
                table = self.artifacts / "reports" / NAME / "predictions.csv"
                return self._written_since(min, table)
            case "printed":
                return any("This run computed" in command.said for command in self._running())
            case _:
                locks = [path.name for path in (self.artifacts / ".locks").glob("*-*")]
                return any(name.startswith(_STAGES[moment]) for name in locks)

    def _is_over(self, moment: str) -> bool:
        if moment == "server start":  # or the server of another command was found
            return all("Prefect UI" in command.said for command in self._running())
        stages = _STAGES.get("training" if moment == "publishing" else moment)
        if stages is None:
            return False
        wanted = [path for path in self._wanted if path.parts[0] in stages]
        return all((self.artifacts / path).exists() for path in wanted)

    def _written_since(self, which: Callable[..., float], path: Path) -> bool:
        """Whether a file is newer than the latest or the earliest start of what runs."""
        began = which((command.began for command in self._running()), default=time.time())
        return path.exists() and path.stat().st_mtime > began

    # --- commands ------------------------------------------------------------------------------
    def _start(self) -> bool:
        """Start what does not run; whether anything was."""
        idle = [i for i, command in enumerate(self._commands) if not (command and command.runs)]
        for i in idle:
            self._bury(self._commands[i])
            self.counts.commands += 1
            log = self._folder / f"command-{self.counts.commands:02}.log"
            self._commands[i] = Command(self._arguments, log, str(self._folder))
        return bool(idle)

    def _running(self) -> list[Command]:
        return [command for command in self._commands if command and command.runs]

    def _let_end(self) -> None:
        for i, command in enumerate(self._commands):
            if command:
                command.process.wait(HANG_SECONDS)
                self._bury(command)
                self._commands[i] = None

    def _bury(self, command: Command | None) -> None:
        """A command that nobody killed ends well, unless a worker of it was killed."""
        if command and command.process.returncode not in ((0, 1, 2) if command.hurt else (0,)):
            self.counts.odd.append(
                f"{command.log}: ended with {command.process.returncode}: {command.said[-500:]}"
            )

    # --- kills ---------------------------------------------------------------------------------
    def _kill(self, moment: str, victim: str, way: signal.Signals) -> bool:
        """Whether there was such a victim, at the latest a second later."""
        for _ in range(20):
            running = self._running()
            if not running:
                return False
            begin, names = time.monotonic(), [command.log.stem for command in running]
            if found := self._strike(moment, victim, way, running):
                with (self._folder / "kills.log").open("a") as log:
                    seconds = f"{time.monotonic() - begin:.1f} s"
                    print(time.strftime("%X"), seconds, moment, found, way.name, *names, file=log)
                self.counts.killed[moment, found, way] += 1
                self.counts.drafts += len(self._drafts()) if moment == "publishing" else 0
                self._watch()
                return True
            time.sleep(0.05)
        return False

    def _strike(
        self, moment: str, victim: str, way: signal.Signals, running: list[Command]
    ) -> str | None:
        """Send the signal; who got it."""
        server = self._server()
        match victim:
            case "MLflow server":
                self.mlflow.kill(way)
                self.mlflow.start()  # the sweep does not wait for it
            case "Prefect server":
                return victim if send(server, way) else None
            case "worker":
                command = self._draw.choice(running)
                workers = self._makers() if moment == "publishing" else command.workers()
                if not workers or not send(self._draw.choice(workers), way):
                    return None
                for command in running:
                    command.hurt = True
            case _:
                if victim == SERVER_FIRST:
                    if not send(server, signal.SIGKILL):
                        return None
                    time.sleep(self._draw.random())
                elif len(self._commands) > 1:
                    victim = BOTH if len(running) > 1 and self._draw.random() < 0.4 else ONE_OF_TWO
                if moment in ("imports", "server start") and victim != BOTH:
                    running = [max(running, key=lambda command: command.began)]
                elif victim != BOTH:
                    running = [self._draw.choice(running)]
                self._interrupt(running, (moment, victim, way))
        return victim

    def _interrupt(self, commands: list[Command], kill: Kill) -> None:
        """Kill commands and wait for their ends."""
        way = kill[2]
        begin = time.monotonic()
        for command in commands:
            command.process.send_signal(way)
        for command in commands:
            code = command.process.wait(HANG_SECONDS)
            if way != signal.SIGKILL:
                self.counts.ends.append((time.monotonic() - begin, kill))
            # 1: while it was loading; 0: it had just done all
            known = (130, -way, 1 if kill[0] in _FRESH else 130,
                     0 if kill[0] in ("shutdown", "printed", "MLflow") else 130)  # fmt: skip
            if code not in known:
                self.counts.odd.append(f"{command.log}, {kill}: ended with {code}: "
                                       f"{command.said[-500:]}")  # fmt: skip
            self._commands[self._commands.index(command)] = None

    def _drafts(self) -> list[str]:
        """Cells that are about to be published."""
        return [path.parent.name for path in self.artifacts.glob(".tmp/finetune-*/manifest.json")]

    def _makers(self) -> list[int]:
        """The processes that are about to publish them, which hold their locks."""
        inodes = set()
        for draft in self._drafts():
            with suppress(FileNotFoundError):
                inodes.add(str((self.artifacts / ".locks" / draft).stat().st_ino))
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return [int(fields[4]) for fields in held if fields[5].rpartition(":")[2] in inodes]

    def _server(self) -> int | None:
        """The process of the embedded server, if it is alive."""
        try:
            noted = json.loads((self.artifacts / "prefect" / "server.json").read_text())
        except (OSError, ValueError):
            return None
        return noted["pid"] if alive(noted["pid"], noted["start"]) else None

    # --- what is asked -------------------------------------------------------------------------
    def _watch(self) -> None:
        """What was finished is as it was."""
        now = dict(seal for path in artefacts(self.artifacts) for seal in seals(path))
        lost = [path for path, seal in self._finished.items() if now.get(path) != seal]
        self.counts.lost += [f"lost or changed: {path}" for path in lost]
        self._finished |= now

    def _count(self) -> None:
        counts, name = self.counts, self._folder.name
        counts.finished += len(self._finished)
        computed = sum((Counter(_COMPUTED.findall(log.read_text()))
                        for log in self._folder.glob("command-*.log")), Counter[str]())  # fmt: skip
        counts.twice += [f"{name}: computed {n} times: {c}" for c, n in computed.items() if n > 1]
        cells = {path.parent.name for path in self.artifacts.glob("finetune/*/manifest.json")}
        counts.unsaid += len(cells) - len(computed)
        found = final_tables(self.artifacts)
        counts.differing += [f"{name}: differs: {table}"
                             for table, content in final_tables(self.calm).items()
                             if found.get(table) != content]  # fmt: skip
        if cells != {p.name for p in self._wanted if p.parts[0] == "finetune"}:
            counts.odd.append(f"{name}: other cells than undisturbed")
        runs = {("", "FINISHED"): 1, **{(cell, "FINISHED"): 1 for cell in cells}}
        for run in (tracked := self.mlflow.tracked()).keys() | runs.keys():
            if tracked[run] != runs.get(run, 0):
                counts.left.append(f"{name}: MLflow has {tracked[run]} runs {run}")
        wait(lambda: not processes(str(self._folder)), f"{name}: the end of all processes")
        counts.left += [f"{name}: {file}" for file in leftovers(self.artifacts)]
