"""Cells: a variant of a recipe with one seed, as an ordinary run of ``trainer fit`` in a folder of its own.

A cell that is finished is not run again, and one that was interrupted resumes, so a batch of cells can be stopped at
any time. What a cell came to is read from its run folder alone.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from trainer.tracking.schema import DecisionLine, EvaluationLine, StepLine, TestLine, read_journal

ROOT = Path(__file__).resolve().parents[1]


def run_missing(cells: Mapping[str, Sequence[str]], runs: Path, recipe: Path, *, jobs: int) -> None:
    """Run the cells (overrides by name) that are not finished, ``jobs`` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        for name, overrides in cells.items():
            if result(runs / name) is None:
                pool.submit(run, runs / name, overrides, recipe)


def run(folder: Path, overrides: Sequence[str], recipe: Path) -> None:
    """Train one cell, or resume it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commit.txt").write_text(commit())
    sets = [word for item in ["tracking.trackers=[]", *overrides] for word in ("--set", item)]
    command = [sys.executable, "-m", "trainer", "fit", str(recipe), "--run", str(folder), *sets]
    with (folder / "log.txt").open("a") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    print(f"{folder.parent.name}/{folder.name}: exit {code}", flush=True)


def commit() -> str:
    """Of the code that runs, marked where it was changed since; results are no code."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)experiments/results")
    return f"{head}{'-dirty' if changed else ''}" if head else os.environ.get("GIT_COMMIT", "unknown")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def result(folder: Path) -> dict[str, Any] | None:
    """What a finished cell says of itself; None before it is finished."""
    journal = folder / "journal.jsonl"
    if not journal.is_file():
        return None
    lines = list(read_journal(journal))
    test = next((line.figures for line in reversed(lines) if isinstance(line, TestLine)), None)
    if test is None:
        return None
    steps = [line for line in lines if isinstance(line, StepLine)]
    evaluations = [line for line in lines if isinstance(line, EvaluationLine)]
    moves = [line for line in lines if isinstance(line, DecisionLine) and line.action != "keep"]
    mixtures = [line.mixture for line in steps]
    counts = {name: sum(mixture.counts.get(name, 0) for mixture in mixtures) for name in mixtures[0].shares}
    lowest = {name: min(mixture.shares[name] for mixture in mixtures) / 1e6 for name in mixtures[0].shares}
    commit = folder / "commit.txt"
    return {
        "commit": commit.read_text() if commit.is_file() else "unknown",
        "validation_nats_per_token": evaluations[-1].figures.nats_per_token,
        "test_nats_per_token": test.nats_per_token,
        "test_bits_per_byte": test.bits_per_byte,
        "test_slices": {name: slice_.nats_per_token for name, slice_ in test.slices.items()},
        "worst_slice": None if test.worst_slice is None else asdict(test.worst_slice),
        "final_shares": {name: share / 1e6 for name, share in mixtures[-1].shares.items()},
        "lowest_shares": lowest,
        "drawn": {name: count / sum(counts.values()) for name, count in counts.items()},
        "epochs": dict(mixtures[-1].epochs),
        "evaluation_steps": [line.step for line in evaluations],
        "moves": [{"step": line.step, "action": line.action, "shares": dict(line.shares)} for line in moves],
        "steps": len(steps),
    }


def spread(values: Sequence[float]) -> str:
    """Mean and standard error."""
    return f"{mean(values):.3f} ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else f"{values[0]:.3f}"
