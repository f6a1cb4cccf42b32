"""The same command again on a run folder: what may change does, the rest is refused, nothing starts over in silence."""

import json
import shutil
from pathlib import Path

import pytest

from tests.together.launches import Place, lines


@pytest.fixture
def copied(place: Place, alone: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run of 50 steps to do things to."""
    return Path(shutil.copytree(alone, place.folder / request.node.name))


def test_a_finished_run_under_another_recipe_shows_the_difference(place: Place, copied: Path) -> None:
    ended = place.fit(copied, "training.learning_rate=0.01").wait()
    assert ended.code == 2
    assert "training.learning_rate: 0.003 -> 0.01" in ended.output


def test_another_global_batch_reads_the_same_held_out_documents(place: Place) -> None:
    run = place.folder / "another-batch"
    sized = ["evaluation.validation_documents=null", "evaluation.max_compute_share=1.0", "evaluation.source_samples=0"]
    assert place.fit(run, *sized, "training.steps=10").wait().code == 0
    ended = place.fit(run, *sized, "training.steps=20", "mixture.global_batch=24").wait()
    assert ended.code == 0, ended.output
    assert len({line["documents"] for line in lines(run, "evaluation")}) == 1


def test_a_first_attempt_that_fails_does_not_bind_the_folder(place: Place) -> None:
    run = place.folder / "failed-first"
    assert place.fit(run, "data.held_out.by=titel", "training.steps=6").wait().code == 2
    ended = place.fit(run, "training.steps=6").wait()
    assert ended.code == 0, ended.output


def test_a_replay_under_another_seed_is_refused(place: Place, alone: Path) -> None:
    ended = place.fit(place.folder / "other-seed", "seed=6", more=["--ledger", str(alone)]).wait()
    assert ended.code == 2
    assert "another seed" in ended.output


def test_a_replay_takes_the_starting_shares_and_batch_from_the_ledger(place: Place, alone: Path) -> None:
    run = place.folder / "other-start"
    sets = ["mixture.shares={real: 0.2, good: 0.4, bad: 0.4}", "mixture.global_batch=7"]
    ended = place.fit(run, *sets, more=["--ledger", str(alone)]).wait()
    assert ended.code == 0, ended.output
    assert [line["batch_hash"] for line in lines(run, "step")] == [line["batch_hash"] for line in lines(alone, "step")]


def test_a_run_whose_checkpoints_are_gone_does_not_start_over_in_silence(place: Place, copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    ended = place.fit(copied, "training.steps=60").wait()
    assert ended.code == 2
    assert "Bring the checkpoints folder back" in ended.output


def test_a_run_that_the_guard_stopped_stays_stopped(place: Place, copied: Path) -> None:
    path = copied / "outcome.json"
    outcome = json.loads(path.read_text())
    path.write_text(json.dumps({**outcome, "state": "stopped-by-guard", "reason": "held-out loss rises"}))
    ended = place.fit(copied, "training.steps=60").wait()
    assert ended.code == 3
    assert "remove its outcome.json" in ended.output


def test_auto_is_the_precision_that_the_run_began_with_wherever_it_resumes(place: Place) -> None:
    run = place.folder / "auto"
    fp32_only = {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": ""}
    assert place.fit(run, "training.precision=bf16", "training.steps=6", extra=fp32_only).wait().code == 0
    ended = place.fit(run, "training.precision=auto", "training.steps=8", extra=fp32_only).wait()
    assert ended.code == 0, ended.output
    assert "auto is bf16 as this run began" in ended.output
    assert "precision: bf16" in (run / "recipe.yaml").read_text()
    ended = place.fit(place.folder / "anew", "training.precision=auto", "training.steps=6", extra=fp32_only).wait()
    assert "auto is fp32 on this machine" in ended.output
