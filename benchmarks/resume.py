"""From the ledger's file to the first batch, after 10, 1,000 and a million steps: it should not grow with the run.

The ledger is written by the code that writes a run's: facts of four sources, a mark every 1,000 steps, and a change of
shares every 10,000. What is timed is what a resume does with it: read and check the file, rebuild the ledger and its
digest, count from the last mark, and gather the first batch.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.figures import Figure, Result, alternated, figure, ratios
from benchmarks.segments import write_segment
from trainer.data.loader import Stream
from trainer.data.store import PreparedSegment, PreparedSource
from trainer.mixture.config import MixtureConfig
from trainer.mixture.ledger import Shares
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import SNAPSHOT_EVERY_STEPS, Plan
from trainer.runs.resume import RecordedLedger, open_ledger, segment_facts
from trainer.training.checkpoint import Checkpoint
from trainer.training.run import SavedOffsets

STEPS = (10, 1_000, 1_000_000)
SHARES_EVERY_STEPS = 10_000
SHARES = {"real": 0.4, "one": 0.3, "two": 0.2, "three": 0.1}
LENGTH = 128


class SingleProcess:
    """The part of an engine that the opening of a ledger asks for."""

    is_main, rank, world_size = True, 0, 1

    def broadcast(self, value: Any) -> Any:
        """The only process's value."""
        return value


def open_run(folder: Path, segments: dict[str, PreparedSegment], saved: Checkpoint | None) -> RecordedLedger:
    """The ledger of a run folder, through the code a run opens it with."""
    kinds = {name: "real" if name == "real" else "synthetic" for name in segments}
    sources = {name: PreparedSource(name, kinds[name], "CC0-1.0", (segment,)) for name, segment in segments.items()}
    one_segment_each = {name: SimpleNamespace(joins=()) for name in segments}
    return open_ledger(
        folder,
        SingleProcess(),
        saved,
        segments=segment_facts(SimpleNamespace(sources=sources), SimpleNamespace(sources=one_segment_each)),
        mixture=MixtureConfig(global_batch=32, shares=SHARES),
        micro_batch=32,
    )


def write_run(folder: Path, segments: dict[str, PreparedSegment], steps: int) -> Checkpoint:
    """A run folder with the ledger of ``steps`` steps, and the checkpoint after them."""
    ledger = open_run(folder, segments, None)
    plan = Plan(0, ledger)
    shares = plan.shares(1)
    for step in range(SNAPSHOT_EVERY_STEPS, steps + 1, SNAPSHOT_EVERY_STEPS):
        ledger.append(plan.snapshot(plan.state(step + 1)))
        if step % SHARES_EVERY_STEPS == 0:
            shares = {**shares, "one": shares["two"], "two": shares["one"]}
            ledger.append(Shares(step=step + 1, shares=shares, reason="one and two change places"))
    offset, digest = ledger.sync()
    return Checkpoint(
        folder=folder, step=steps, state={"files": SavedOffsets(ledger=offset, ledger_digest=digest).to_json()}
    )


def first_batch_s(folder: Path, segments: dict[str, PreparedSegment], saved: Checkpoint) -> float:
    """Seconds from the file to the first batch."""
    started_s = time.perf_counter()
    ledger = open_run(folder, segments, saved)
    plan = Plan(0, ledger)
    stream = Stream(
        plan,
        {(name, 0): segment for name, segment in segments.items()},
        state=plan.state(saved.step + 1),
        partition=RankPartition(rank=0, world_size=1, micro_batch=32),
        sequence_length=LENGTH,
        padding=0,
    )
    batch = stream.next()
    elapsed_s = time.perf_counter() - started_s
    stream.close()
    assert batch.step == saved.step + 1
    return elapsed_s


def run(rounds: int = 9, steps: tuple[int, ...] = STEPS) -> Result:
    """The three resumes take turns."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        segments = {
            source: write_segment(root / source, num_samples=20_000, sequence_length=LENGTH, seed=seed)
            for seed, source in enumerate(SHARES)
        }
        saved = {step: write_run(root / f"run-{step}", segments, step) for step in steps}
        measures = {
            str(step): partial(first_batch_s, checkpoint.folder, segments, checkpoint)
            for step, checkpoint in saved.items()
        }
        for measure in measures.values():
            measure()
        times = alternated(measures, rounds)
    first = str(steps[0])
    figures: list[Figure] = [
        figure(f"after {step:,} steps: ledger to first batch", [1e3 * value for value in times[str(step)]], "ms")
        for step in steps
    ]
    figures += [
        figure(f"after {step:,} steps over after {first}", ratios(times[str(step)], times[first]), "ratio")
        for step in steps[1:]
    ]
    return Result(
        title="resume to the first batch; flat is the claim",
        figures=figures,
        details={"ledger_bytes": {str(step): snapshot.state["files"]["ledger"] for step, snapshot in saved.items()}},
    )
