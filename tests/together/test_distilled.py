"""A run that learns from a teacher, by the commands: it resumes, and what it was handed is what the store says."""

import signal
from pathlib import Path

import pytest

from tests.together.launches import Place, by_step, outcome, predicted, reached, wait_until
from trainer.tools.run_view import open_run


def sets(alone: Path) -> tuple[str, ...]:
    """A student of the model that another run has trained, with its tokenizer."""
    return (
        f"data.tokenizer={{pretrained: {alone / 'model'}}}",
        f"data.teacher={{model: {alone / 'model'}, top_k: 8, sources: [good]}}",
        "training.teacher_weight=0.5",
        "training.steps=20",
    )


def test_a_distilled_run_that_is_interrupted_resumes_with_the_same_steps_and_the_hashes_of_its_samples(
    place: Place, alone: Path
) -> None:
    whole, halved = place.folder / "distilled", place.folder / "distilled-halved"
    ended = place.fit(whole, *sets(alone)).wait()
    assert ended.code == 0, ended.output
    live = place.fit(halved, *sets(alone))
    assert wait_until(live, reached(halved, 7)), live.wait().output
    live.send(signal.SIGTERM)
    assert live.wait().code == 75
    resumed = place.fit(halved, *sets(alone)).wait()
    assert resumed.code == 0, resumed.output
    assert outcome(halved)["state"] == "finished"
    for figure in ("loss", "teacher_divergence", "batch_hash"):
        assert by_step(halved, figure) == by_step(whole, figure)
    divergences = by_step(whole, "teacher_divergence")
    assert all(value > 0 for value in divergences.values())
    assert divergences[20] < divergences[1]
    assert {step: int(value) for step, value in by_step(whole, "batch_hash").items()} == predicted(whole)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lightning"])
def test_a_distilled_run_has_the_same_steps_under_lightning(place: Place, alone: Path, engine: str) -> None:
    pytest.importorskip("pytorch_lightning", reason="NOT TESTED: pytorch_lightning is not installed")
    ours, theirs = place.folder / "distilled-ours", place.folder / f"distilled-{engine}"
    for run, more in ((ours, ()), (theirs, (f"engine={engine}",))):
        ended = place.fit(run, *sets(alone), *more).wait()
        assert ended.code == 0, ended.output
    assert by_step(theirs, "batch_hash") == by_step(ours, "batch_hash")
    assert by_step(theirs, "teacher_divergence") == pytest.approx(by_step(ours, "teacher_divergence"), rel=1e-5)
    assert open_run(theirs).batch(3) == open_run(ours).batch(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.teacher_weight=null", "has no effect without training.teacher_weight"),
        ("data.teacher=null", "has no effect without data.teacher"),
        ("training.teacher_weight=1.5", "training.teacher_weight"),
    ],
)
def test_a_teacher_without_a_weight_and_a_weight_without_a_teacher_are_mistakes(
    place: Place, alone: Path, tmp_path: Path, change: str, message: str
) -> None:
    ended = place.fit(tmp_path / "run", *sets(alone), change).wait()
    assert ended.code == 2
    assert message in ended.output
