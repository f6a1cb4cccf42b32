"""What a run learns of its sources reaches its journal and its policy, and changes nothing else."""

from pathlib import Path

import pytest

from tests.together.launches import ALIGNED, Place, by_step, decisions, lines


@pytest.fixture(scope="module")
def aligned(place: Place) -> Path:
    """A run whose policy follows the alignment of the sources."""
    run = place.folder / "aligned"
    ended = place.fit(run, *ALIGNED).wait()
    assert ended.code == 0, ended.output
    return run


def test_alignments_are_journalled_when_they_are_due_and_reach_the_policy(aligned: Path) -> None:
    measured = {
        line["step"]: line["gradient_alignment"] for line in lines(aligned, "evaluation") if line["gradient_alignment"]
    }
    assert list(measured) == [10, 20, 30, 40]
    by_policy = {line["step"]: line["evidence"]["policy"].get("sources", {}) for line in decisions(aligned)}
    for step, alignments in measured.items():
        assert alignments.keys() == {"real", "good", "bad"}
        for name, alignment in alignments.items():
            assert alignment["num_samples"] == 8
            assert alignment["variance"] > 0
            assert alignment["standard_error"] > 0
            assert by_policy[step][name]["inner_product"] == alignment["inner_product"]


def test_every_step_tells_the_loss_of_the_sources_it_drew(aligned: Path) -> None:
    for line in lines(aligned, "step"):
        drawn = {name for name, count in line["counts"].items() if count}
        assert line["source_loss"].keys() == drawn
        assert min(line["source_loss"].values()) <= line["loss"] <= max(line["source_loss"].values())


def test_measuring_alignments_changes_nothing_that_nobody_asked_to_change(place: Place, alone: Path) -> None:
    """The schedule asks for none: the same samples, losses and gradients, with or without."""
    run = place.folder / "measured-for-nothing"
    ended = place.fit(run, "evaluation.gradient_alignment={enabled: 'on', every_evaluations: 1, samples: 8}").wait()
    assert ended.code == 0, ended.output
    assert sum(bool(line["gradient_alignment"]) for line in lines(run, "evaluation")) == 9
    for field in ("batch_hash", "loss", "grad_norm"):
        assert by_step(run, field) == by_step(alone, field), field
