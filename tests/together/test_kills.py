"""A run that is killed with signal 9 and resumed is the run that was never killed: bit for bit."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.together.kill9 import compare, finish, kill_many, kill_once
from tests.together.launches import (
    FEEDBACK,
    Place,
    Strike,
    by_step,
    lines,
    outcome,
    predicted,
    reached,
    wait_until,
)

pytestmark = pytest.mark.faults


def test_kills_inside_save_evaluation_and_decision_leave_no_trace(place: Place, alone: Path) -> None:
    run = place.folder / "killed"
    kills = kill_many(place, run, 4, seed=3)
    phases = {kill.phase for kill in kills}
    assert {"between reading and decision", "inside a save"} <= phases, kills
    cells = compare(run, alone)
    assert all(equal == total for equal, total in cells.values()), cells
    assert not list((run / "checkpoints").glob(".step-*")), "a killed save left something behind"
    assert lines(run, "step", "journal.lost.jsonl"), "what a resume cuts off is kept"
    assert {line["step"]: int(line["batch_hash"]) for line in lines(run, "step")} == predicted(run)


def test_a_kill_before_the_first_checkpoint_starts_the_same_run_anew(place: Place, alone: Path) -> None:
    run, short = place.folder / "killed-early", "training.steps=50"
    ended = place.fit(run, short, strike=Strike(run.with_name("early.alive"), "decision", 1)).wait()
    assert ended.code == -9
    assert not list((run / "checkpoints").glob("step-*"))
    with (run / "journal.jsonl").open("ab") as journal, (run / "ledger.jsonl").open("ab") as ledger:
        journal.write(b'{"kind":"step","ste')  # torn: the newline that makes a line count is missing
        ledger.write(b'{"fact":"shares","step":6')
    finish(place, run, short)
    cells = compare(run, alone)
    assert all(equal == total for equal, total in cells.values()), cells


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(place: Place) -> None:
    twin, run, steps = place.folder / "long-twin", place.folder / "long-killed", "training.steps=150"
    finish(place, twin, steps)
    kills = kill_many(place, run, 20, 1, steps)
    assert len(kills) == 20
    assert {"between reading and decision", "inside a save", "inside an evaluation", "between steps"} <= {
        kill.phase for kill in kills
    }
    cells = compare(run, twin)
    assert all(equal == total for equal, total in cells.values()), cells


@pytest.mark.slow
def test_kills_leave_no_trace_in_a_run_that_is_steered_by_feedback(place: Place) -> None:
    twin, run = place.folder / "feedback-twin", place.folder / "feedback-killed"
    finish(place, twin, *FEEDBACK)
    assert len({str(line["shares"]) for line in lines(twin, "step")}) > 1, "feedback never moved a share"
    generator = random.Random(5)
    for aim in ("decision", "anywhere", "evaluation"):
        kill_once(place, run, aim, generator, *FEEDBACK)
    finish(place, run, *FEEDBACK)
    cells = compare(run, twin)
    assert all(equal == total for equal, total in cells.values()), cells


@pytest.mark.slow
def test_a_killed_rank_ends_the_launch_and_the_next_one_resumes(place: Place, alone: Path) -> None:
    run = place.folder / "killed-rank"
    live = place.launch(run, processes=2)
    assert wait_until(live, reached(run, 12)), live.wait().output
    ranks = [int(pid) for pid in Path(f"/proc/{live.pid}/task/{live.pid}/children").read_text().split()]
    os.kill(ranks[-1], signal.SIGKILL)
    assert live.wait().code != 0
    assert outcome(run)["state"] == "failed", "the rank that is left says how the run ended"
    assert place.launch(run, processes=2).wait().code == 0
    assert by_step(run, "batch_hash") == by_step(alone, "batch_hash")
    assert [line["shares"] for line in lines(run, "decision")] == [line["shares"] for line in lines(alone, "decision")]
