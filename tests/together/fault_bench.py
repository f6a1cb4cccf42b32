"""Launches of two processes that a fault comes to: how they are started, struck, waited for, resumed and compared."""

import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.together.launches import SAVE_EVERY, Live, Place, by_step, lines, outcome, reached, wait_until, write_recipe

STEPS, STRIKE_STEP, TIMEOUT_S = 30, 12, 6
SETS = (f"training.steps={STEPS}", f"training.timeout_s={TIMEOUT_S}")
PROGRAM = "tests.together.faulty"
LAST_LINES = 20


class MissedError(AssertionError):
    """A promise was not kept."""


def expect(holds: object, what: str) -> None:
    """The fault's cell misses unless it holds."""
    if not holds:
        raise MissedError(what)


@dataclass(frozen=True)
class Bench:
    """Where the runs are made, and the run without a fault that they are compared with."""

    place: Place
    twin: Path

    def folder(self, name: str) -> Path:
        number = len(list(self.place.folder.glob(f"{name}-*")))
        return self.place.folder / f"{name}-{number}"


def open_bench(folder: Path) -> Bench:
    """A bench with its twin, trained in one process."""
    place = Place(folder, write_recipe(folder))
    ended = place.fit(folder / "twin", *SETS).wait()
    expect(ended.code == 0, ended.output)
    return Bench(place, folder / "twin")


@dataclass
class Launch:
    """A launch with a fault coming; ``figures`` are in seconds and steps."""

    run: Path
    live: Live
    at_file: Path
    family: list[psutil.Process] = field(default_factory=list)
    struck_s: float = 0.0

    def wait_for_step(self, step: int) -> None:
        expect(wait_until(self.live, reached(self.run, step)), f"ended before step {step}:\n{self.output()}")
        self.family = self._family()

    def ranks(self) -> list[psutil.Process]:
        """The processes of the ranks, by rank."""
        trained = [child for child in psutil.Process(self.live.pid).children() if "RANK" in child.environ()]
        return sorted(trained, key=lambda child: int(child.environ()["RANK"]))

    def strike(self, process: int, number: int) -> None:
        self.struck_s = time.time()
        os.kill(process, number)

    def _family(self) -> list[psutil.Process]:
        launcher = psutil.Process(self.live.pid)
        return [launcher, *launcher.children(recursive=True)]

    def wait_for_end(self) -> dict[str, float]:
        """Until the launcher and all its processes are gone; how long that took after the fault."""
        deadline = time.monotonic() + 120
        while self.live.code() is None:
            with suppress(psutil.Error):
                self.family = list({*self.family, *self._family()})
            expect(time.monotonic() < deadline, f"the launch still runs:\n{self.output()}")
            time.sleep(0.02)
        while left := [process for process in self.family if _lives(process)]:
            if time.monotonic() > deadline:
                names = [process.cmdline() for process in left]
                for process in left:
                    process.kill()
                raise MissedError(f"processes without a launcher are left: {names}")
            time.sleep(0.02)
        ended_s = time.time()
        if self.at_file.exists():
            self.struck_s = float(self.at_file.read_text())
        figures = {"ended_s": ended_s - self.struck_s}
        if (self.run / "outcome.json").exists():
            figures["named_s"] = (self.run / "outcome.json").stat().st_mtime - self.struck_s
        return figures

    def output(self) -> str:
        return self.live.log.read_text(errors="replace")

    def expect_cause(self, rank: int, *words: str) -> None:
        """The root cause is told once, in the last lines and in ``outcome.json``, with rank and host."""
        saved_outcome = outcome(self.run)
        expect(saved_outcome["state"] == "failed", f"the outcome is {saved_outcome}")
        expect(
            saved_outcome["rank"] == rank,
            f"rank {saved_outcome['rank']} is named, not {rank}: {saved_outcome['reason']}",
        )
        for word in words:
            expect(word in saved_outcome["reason"], f"{word!r} is not in the reason: {saved_outcome['reason']}")
        expect(saved_outcome["traceback"], "there is no stack")
        cause = f"rank {rank} on {platform.node()}: "
        last = self.output().rstrip().splitlines()[-LAST_LINES:]
        expect(sum(cause in line for line in last) == 1, f"not once in the last {LAST_LINES} lines:\n{self.output()}")
        expect(self.output().count(cause) == 1, f"told more than once:\n{self.output()}")


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def launch(
    bench: Bench,
    name: str,
    kind: str | None = None,
    *,
    rank: int | None = 1,
    step: int = STRIKE_STEP,
    sets: Sequence[str] = SETS,
    file: str | None = None,
    run: Path | None = None,
) -> Launch:
    """Two processes on a new run folder, with a fault of ``faulty`` coming; ``file`` is a launch file."""
    run = run or bench.folder(name)
    at_file = run.with_suffix(".at")
    extra = {"FAULT": json.dumps({"kind": kind, "rank": rank, "step": step}), "FAULT_AT": str(at_file)} if kind else {}
    options = ["--config_file", f"launch/accelerate/{file}", "--num_processes", "2"] if file else None
    if file and not file.startswith("zero"):  # Accelerate leaves DeepSpeed out where it is told to use the CPU
        extra["ACCELERATE_USE_CPU"] = "true"
    program = PROGRAM if kind else "trainer"
    live = bench.place.launch(run, *sets, processes=2, options=options, extra=extra, program=program)
    return Launch(run, live, at_file)


def launch_to_strike(bench: Bench, name: str, *, file: str | None = None, run: Path | None = None) -> Launch:
    """Two processes that have come to the step of the fault, and dawdle, for what is done to them from outside."""
    live = launch(bench, name, "dawdles", rank=None, file=file, run=run)
    live.wait_for_step(STRIKE_STEP)
    return live


def resumed(bench: Bench, run: Path) -> dict[str, float]:
    """Go on by the same command; every step must be that of the twin. How many steps were done twice."""
    last = max(by_step(run, "batch_hash"), default=0)
    ended = bench.place.fit(run, *SETS).wait()
    expect(ended.code == 0, f"the resumed run ended with {ended.code}:\n{ended.output}")
    as_twin(bench, run)
    start = lines(run, "start")[-1]["resumed_from"]
    lost = last - (int(start.removeprefix("step-")) if start else 0)
    expect(lost <= SAVE_EVERY, f"{lost} steps were lost")
    return {"steps_lost": lost}


def as_twin(bench: Bench, run: Path) -> None:
    """The run trained on what the twin trained on, step by step, and decided the same."""
    expect(by_step(run, "batch_hash") == by_step(bench.twin, "batch_hash"), "fed differs from the twin's")
    expect(by_step(run, "shares") == by_step(bench.twin, "shares"), "shares differ from the twin's")
