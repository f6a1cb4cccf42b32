"""kill -9 at live moments of one run, resumed each time until it is finished, against an uninterrupted twin.

`python -m tests.together.kill9 --kills 20` prints one line per kill (step reached, what the process was doing) and how
many cells (step x field) came out bit-equal. Kills come at random moments after the first step; those aimed at an
evaluation, a save or a decision wait for its first trace and then strike. What a process was doing when it died is read
from what it left behind, not from what was aimed at.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.together.launches import EVALUATE_EVERY, SAVE_EVERY, Place, Strike, lines, wait_until, weights, write_recipe

AIMS = ("anywhere", "save", "evaluation", "decision")
FIELDS = ("batch_hash", "counts", "shares", "loss", "grad_norm", "learning_rate", "epochs", "tokens", "updated")


@dataclass(frozen=True)
class Kill:
    """Where a process was when it died."""

    aim: str
    step: int
    phase: str


def kill_once(
    place: Place, run: Path, aim: str, generator: random.Random, *sets: str, most_delay_s: float = 1.0
) -> Kill | None:
    """Start or resume the run and kill it at a live moment; None when it finished before."""
    alive = run.with_name(f"{run.name}.alive")
    alive.unlink(missing_ok=True)
    strike = Strike(alive, "evaluation", generator.randint(2, 4)) if aim == "decision" else Strike(alive)
    live = place.fit(run, *sets, strike=strike)
    if wait_until(live, alive.exists) and aim != "decision":
        if aim == "anywhere":
            time.sleep(generator.uniform(0.0, most_delay_s))
        if wait_until(live, lambda: _in_sight(aim, run)):
            live.send(signal.SIGKILL)
    ended = live.wait()
    if ended.code == 0:
        return None
    if ended.code != -signal.SIGKILL:
        raise AssertionError(f"the run ended by itself with {ended.code}:\n{ended.output}")
    return Kill(aim, max((line["step"] for line in lines(run, "step")), default=0), phase_of(run))


def _in_sight(aim: str, run: Path) -> bool:
    if aim == "save":
        return any((run / "checkpoints").glob(".step-*.partial"))
    return aim == "anywhere" or _evaluation_is_due(lines(run)[-1])


def _evaluation_is_due(last: dict[str, Any]) -> bool:
    return last["kind"] == "step" and last["step"] % EVALUATE_EVERY == 0


def phase_of(run: Path) -> str:
    """What a killed process was doing, from what it left behind."""
    if any((run / "checkpoints").glob(".step-*")):
        return "inside a save"
    last = lines(run)[-1]
    if last["kind"] == "evaluation":
        return "between reading and decision"
    if _evaluation_is_due(last):
        return "inside an evaluation"
    return {"step": "between steps", "decision": "after a decision", "checkpoint": "after a save"}.get(
        last["kind"], last["kind"]
    )


def finish(place: Place, run: Path, *sets: str) -> None:
    """Resume without another kill."""
    ended = place.fit(run, *sets).wait()
    if ended.code != 0:
        raise AssertionError(f"the resumed run ended with {ended.code}:\n{ended.output}")


def compare(run: Path, twin: Path) -> dict[str, tuple[int, int]]:
    """Equal and all cells of each field of the journal, of decisions and evaluations, and of the last checkpoint."""
    mine, expected = lines(run, "step"), lines(twin, "step")
    fields = {
        field: (sum(a[field] == b[field] for a, b in zip(mine, expected, strict=False)), max(len(mine), len(expected)))
        for field in ("step", *FIELDS)
    }
    for kind in ("decision", "evaluation", "deficit", "test"):
        left, right = (_without_clock(lines(folder, kind)) for folder in (run, twin))
        fields[kind] = (sum(a == b for a, b in zip(left, right, strict=False)), max(len(left), len(right)))
    (name, tensors), (twin_name, expected_tensors) = weights(run), weights(twin)
    fields["saved tensors"] = (
        sum(name == twin_name and tensors.get(key) == value for key, value in expected_tensors.items()),
        len(tensors.keys() | expected_tensors.keys()),
    )
    return fields


def _without_clock(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in records]


def kill_many(place: Place, run: Path, kills: int, seed: int, *sets: str) -> list[Kill]:
    """So many kills of one run, aimed in turn, then its end; fewer when it finishes before."""
    generator, finished = random.Random(seed), list[Kill]()
    while len(finished) < kills and (kill := kill_once(place, run, AIMS[len(finished) % len(AIMS)], generator, *sets)):
        finished.append(kill)
        print(f"{len(finished):>4}  step {kill.step:>4}  {kill.phase} (aimed at: {kill.aim})", flush=True)
    finish(place, run, *sets)
    return finished


def main() -> int:
    """Print the table; 1 when a cell differs or too few kills hit a live run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=15 * SAVE_EVERY)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the server that the processes are forked from
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), write_recipe(Path(folder)))
        steps = f"training.steps={arguments.steps}"
        finish(place, place.folder / "twin", steps)
        kills = kill_many(place, place.folder / "killed", arguments.kills, arguments.seed, steps)
        cells = compare(place.folder / "killed", place.folder / "twin")
    for field, (equal, total) in cells.items():
        print(f"{field:>16}  {equal} of {total} equal")
    return int(len(kills) < arguments.kills or any(equal != total for equal, total in cells.values()))


if __name__ == "__main__":
    sys.exit(main())
