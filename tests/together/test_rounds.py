"""Rounds of synthesis inside a run: what they make joins from an exact step, whatever happens to the run meanwhile."""

from pathlib import Path

import pytest

from tests.together.launches import Place, by_step, lines, predicted
from tests.together.rounds import STEPS, sets


@pytest.fixture(scope="module")
def own(place: Place) -> Path:
    """A run whose own model writes a generation every 8 steps."""
    run = place.folder / "own"
    ended = place.fit(run, *sets()).wait()
    assert ended.code == 0, ended.output
    return run


def joins(run: Path) -> list[tuple[int, int, int]]:
    """Step, segment and samples of the segments of `made` in the ledger."""
    return [
        (fact["step"], fact["segment"], fact["num_samples"])
        for fact in lines(run, file="ledger.jsonl")
        if fact["fact"] == "segment" and fact["source"] == "made"
    ]


def test_a_generation_joins_right_after_its_step_and_is_drawn(own: Path) -> None:
    assert [(step, segment) for step, segment, _ in joins(own)] == [(9, 0), (17, 1), (25, 2)]
    counts = by_step(own, "counts")
    assert all(not counts[step].get("made") for step in range(1, 9))
    assert all(counts[step]["made"] == 3 for step in range(9, STEPS + 1))  # a quarter of 12
    assert [line["state"] for line in lines(own, "round")] == ["begun", "written", "ended", "joined"] * 3


def test_batch_hashes_of_a_run_that_makes_its_own_data_are_what_ledger_and_stores_predict(own: Path) -> None:
    assert {step: int(batch_hash) for step, batch_hash in by_step(own, "batch_hash").items()} == predicted(own)
