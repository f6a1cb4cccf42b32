"""What became of the real data: figures that follow from epochs, sizes and the discount on repeats."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.journals import step_line, written
from trainer.base.records import Decision
from trainer.report.history import read_history
from trainer.report.real_data import real_note, real_rows
from trainer.tracking.journal import Journal
from trainer.tracking.schema import JoinLine, RetireLine

REPEATS = 15.387756  # of arXiv 2305.16264


def test_repeats_are_discounted_and_the_plan_stands_below(decisions: list[Decision], tmp_path: Path) -> None:
    folder = written(tmp_path, decisions, {"real": "real", "more": "real", "synthetic": "synthetic"})
    journal = Journal(folder / "journal.jsonl")
    epochs = {"real": 3.0, "more": 0.5, "synthetic": 0.1}
    shares = {"real": 600_000, "more": 100_000, "synthetic": 300_000}
    journal.write(step_line(2000, counts={"real": 2}, shares=shares, epochs=epochs))
    journal.close()
    run = read_history(folder)
    rows = {row["name"]: row for row in real_rows(run)}
    assert list(rows) == ["real", "more", "all", "as planned"]
    thrice = 1000 + 1000 * REPEATS * (1 - math.exp(-2 / REPEATS))
    assert rows["real"] == {
        "name": "real", "tokens": "1,000", "epochs": "3.00", "drawn": "3,000", "effective": f"{round(thrice):,}",
        "repeat": f"{math.exp(-2 / REPEATS):.2f}",
    }  # fmt: skip
    assert (rows["more"]["drawn"], rows["more"]["effective"], rows["more"]["repeat"]) == ("500", "500", "1.00")
    assert (rows["all"]["tokens"], rows["all"]["drawn"], rows["all"]["epochs"]) == ("2,000", "3,500", "1.75")
    assert (rows["as planned"]["epochs"], rows["as planned"]["drawn"]) == ("1.00", "2,000")
    assert "Of 1,600 real samples that may be drawn, 1,600 had been by the last decision" in real_note(run)


def test_a_run_whose_policy_plans_nothing_tells_what_was_used(tell: Callable[..., Path]) -> None:
    run = read_history(tell(steps=50))
    [row] = real_rows(run)
    assert (row["name"], row["epochs"]) == ("wikipedia", f"{run.steps.epochs[-1, 0]:.2f}")
    assert real_note(run) == ""


@pytest.mark.parametrize("kind", ["synthetic", "real"])
def test_a_run_without_real_data_or_steps_has_figures_as_far_as_they_go(tmp_path: Path, kind: str) -> None:
    rows = list(real_rows(read_history(written(tmp_path, [], {"a": kind}))))
    assert [row["epochs"] for row in rows] == (["0.00"] if kind == "real" else [])


def test_what_was_drawn_of_retired_segments_counts(tmp_path: Path) -> None:
    """Of 500 samples in all, 2 tokens each, 300 were drawn thrice before they retired, and 100 of the rest once."""
    folder = written(tmp_path, [], {"real": "real", "made": "synthetic"})
    journal = Journal(folder / "journal.jsonl")
    shares = {"real": 1_000_000, "made": 0}
    journal.write(step_line(1, counts={"real": 900}, shares=shares, epochs={"real": 3.0}))
    journal.write(JoinLine(step=1, source="real", segment=1, num_samples=200))
    journal.write(RetireLine(step=1, source="real", segment=0))
    journal.write(step_line(2, counts={"real": 100}, shares=shares, epochs={"real": 0.5}))
    journal.close()
    [row] = real_rows(read_history(folder))
    assert (row["drawn"], row["tokens"], row["epochs"]) == ("2,000", "1,000", "2.00")
