"""One run, submitted to a real SLURM of two nodes, through everything that SLURM does to a run: a time limit, a
preemption, a node's crash. Against an uninterrupted single process that replays its decisions.

`python -m tests.tools.slurm.proof` prints each fact with what was seen; exit code 1 when one does not hold.
``--output`` also writes them as JSON. Nothing is sent by hand: the warning is SLURM's own for a time limit that comes
near, the preemption another job's, and the crash ends all processes of a node together.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.together.launches import SAVE_EVERY, Place, by_step, lines, outcome, predicted, write_recipe
from tests.tools.slurm.cluster import Cluster, NoClusterError, cluster, events, said, step_of, submitted

WARN_S = 60  # SLURM looks at time limits every 30 s
APART = 30  # steps of undisturbed training before each blow
STEPS = 1500
PATIENCE_S = 900.0  # on a busy machine


@dataclass
class Facts:
    """What must hold, and what was seen."""

    told: list[dict[str, Any]] = field(default_factory=list)

    def hold(self, what: str, seen: object, holds: bool) -> None:
        """Note a fact."""
        self.told.append({"what": what, "seen": seen, "holds": holds})
        print(f"{'ok  ' if holds else 'MISS'}  {what}: {seen}", flush=True)

    @property
    def misses(self) -> int:
        """Facts that do not hold."""
        return sum(not fact["holds"] for fact in self.told)


@dataclass(frozen=True)
class Blow:
    """One blow: the last step in the journal when the job ended, where it resumed, and how long each took."""

    reached: int
    resumed_from: int
    away_s: float
    events: list[str]  # of the start that was hit, after its start

    @property
    def lost(self) -> int:
        """Steps that had to be trained again."""
        return self.reached - self.resumed_from


def strike(slurm: Cluster, run: Path, job: str, blow: Callable[[], None], repair: Callable[[], None]) -> Blow:
    """Let the run train undisturbed, strike, and wait until it trains again."""
    slurm.wait(job, until=lambda: len(lines(run, "start")) > 0, patience_s=300)
    start, begun, base = len(events(run, "start")), len(lines(run, "start")), step_of(run)
    slurm.wait(job, until=lambda: step_of(run) >= base + APART, patience_s=300)
    blow()
    slurm.wait(job, until=lambda: slurm.state(job) == "PENDING", patience_s=300)
    struck_s, reached = time.monotonic(), step_of(run)
    repair()
    slurm.wait(job, until=lambda: len(lines(run, "start")) > begun, patience_s=300)
    resumed = lines(run, "start")[-1]["resumed_from"]
    event_names = [
        event["event"] for event in events(run) if event.get("restart") == start - 1 and event["event"] != "start"
    ]
    return Blow(reached, int(resumed.removeprefix("step-")), time.monotonic() - struck_s, event_names)


def time_limit(slurm: Cluster, run: Path, job: str) -> Blow:
    """Move the end near; SLURM warns ``WARN_S`` before it."""
    end = datetime.now() + timedelta(hours=1)

    def blow() -> None:
        near = datetime.now() + timedelta(seconds=WARN_S + 5)
        slurm.ask("scontrol", "update", f"JobId={job}", f"EndTime={near.isoformat(timespec='seconds')}")

    def repair() -> None:
        slurm.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={(end - datetime.now()).seconds // 60}")

    return strike(slurm, run, job, blow, repair)


def preemption(slurm: Cluster, run: Path, job: str) -> tuple[Blow, str]:
    """A more urgent job takes a node."""
    other = list[str]()

    def blow() -> None:
        words = ["--partition=urgent", "--nodes=1", "--exclusive", "--output=/dev/null", "--wrap=sleep 5"]
        other.append(slurm.ask("sbatch", "--parsable", *words))

    struck = strike(slurm, run, job, blow, lambda: None)
    return struck, slurm.state(other[0])


def node_crash(slurm: Cluster, run: Path, job: str, node: str) -> Blow:
    """A node loses its power, and comes back when SLURM has noticed."""
    return strike(slurm, run, job, lambda: slurm.crash(node), lambda: slurm.revive(node))


def prove(slurm: Cluster, place: Place, facts: Facts, steps: int) -> None:
    """The whole chain."""
    run, twin = place.folder / "run", place.folder / "twin"
    job = submitted(
        slurm.submit(place, run, f"training.steps={steps}", more=["--warn-before", str(WARN_S)], limit="30")
    )
    facts.hold("submitted by `trainer submit` on two nodes, job", job, job.isdigit())

    limit = time_limit(slurm, run, job)
    facts.hold("warned of the time limit: events", limit.events, limit.events == ["warned", "requeue"])
    facts.hold("... steps lost", limit.lost, limit.lost == 0)
    preempted, other = preemption(slurm, run, job)
    facts.hold("preempted by an urgent job, which came to run: its state", other, other in ("RUNNING", "COMPLETED"))
    facts.hold("... events", preempted.events, preempted.events == ["warned", "requeue"])
    facts.hold("... steps lost", preempted.lost, preempted.lost == 0)
    for node, role in (("node2", "a node"), ("node1", "the node of the batch script")):
        crashed = node_crash(slurm, run, job, node)
        facts.hold(f"{role} crashed: steps lost", crashed.lost, 0 <= crashed.lost <= SAVE_EVERY)
        facts.hold("... seconds from requeue to training", round(crashed.away_s, 1), crashed.away_s < 120)

    state = slurm.wait(job, patience_s=400)
    facts.hold("the job's state in the end", state, state == "COMPLETED")
    facts.hold("the run's state in the end", outcome(run)["state"], outcome(run)["state"] == "finished")
    starts = lines(run, "start")
    facts.hold("starts of the job", len(events(run, "start")), len(events(run, "start")) == 5)
    worlds = [line["world_size"] for line in starts]
    facts.hold("processes at each start", worlds, set(worlds) == {2})
    jobs = [(line["environment"]["slurm_job"], line["environment"].get("slurm_restarts", "0")) for line in starts]
    facts.hold("job and restart in the journal", jobs, jobs == [(job, str(number)) for number in range(5)])
    left = processes_of(run)
    facts.hold("processes left", left, left == [])

    ended = place.fit(twin, f"training.steps={steps}", more=["--ledger", str(run)]).wait(PATIENCE_S)
    facts.hold("an uninterrupted single process replays it: exit code", ended.code, ended.code == 0)
    mine, theirs, foreseen = by_step(run, "batch_hash"), by_step(twin, "batch_hash"), predicted(run)
    equal = sum(mine.get(step) == theirs[step] for step in theirs)
    facts.hold(f"steps of {steps} with the twin's samples (fed)", equal, equal == len(mine) == steps)
    equal = sum(int(mine[step]) == foreseen[step] for step in mine)
    facts.hold(f"steps of {steps} as ledger and store predict", equal, equal == len(foreseen) == steps)


def processes_of(run: Path) -> list[str]:
    """Command lines of this machine's processes that name the run."""
    processes = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(run) in words and int(file.parent.name) != os.getpid():
            processes.append(words.strip())
    return processes


def _try(slurm: Cluster, place: Place, facts: Facts, steps: int) -> None:
    try:
        prove(slurm, place, facts, steps)
    except (AssertionError, TimeoutError) as error:
        facts.hold("the chain continues", str(error), holds=False)
        print(said(place.folder / "run"), file=sys.stderr)


def main() -> int:
    """Print the facts; 1 when one does not hold. Where there can be no cluster that is printed, and 0 returned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help="on a fast machine more: SLURM warns up to 30 s late, and the run must not be finished by then",
    )
    parser.add_argument("--output", type=Path, help="also write the facts as JSON")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    facts, started_s = Facts(), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, cluster() as slurm:
            _try(slurm, Place(Path(folder), write_recipe(Path(folder))), facts, arguments.steps)
    except NoClusterError as error:
        print(f"NOT TESTED, NO SLURM: {error}", file=sys.stderr)
        return 0
    seconds = round(time.monotonic() - started_s)
    print(f"{len(facts.told) - facts.misses} of {len(facts.told)} facts hold, {seconds} s")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"seconds": seconds, "facts": facts.told}, indent=1) + "\n")
    return int(facts.misses > 0)


if __name__ == "__main__":
    sys.exit(main())
