"""Saving during training, and saving by several ranks: as crash-safe as saving alone."""

import random
import sys
from pathlib import Path

import pytest

from tests.together.kill9 import compare, finish, kill_many, kill_once
from tests.together.launches import Place, by_step, lines, outcome, predicted
from tests.together.parity import launch
from tests.together.test_loop import DAMAGE

BESIDE = "checkpoint.asynchronous=true"
ENGINES = ("cpu_processes", "fsdp2", "zero1", "zero2", "zero3")


def test_kills_while_a_thread_saves_leave_no_trace(place: Place, alone: Path) -> None:
    run, generator = place.folder / "alongside", random.Random(4)
    kills = [kill_once(place, run, "save", generator, BESIDE) for _ in range(2)]
    kills.append(kill_once(place, run, "decision", generator, BESIDE))
    assert "inside a save" in {kill.phase for kill in kills if kill}, kills
    finish(place, run, BESIDE)
    cells = compare(run, alone)
    assert all(equal == total for equal, total in cells.values()), cells
    assert {line["step"]: int(line["batch_hash"]) for line in lines(run, "step")} == predicted(run)
    stalls = [(line["stalled_seconds"], line["seconds"]) for line in lines(run, "checkpoint")]
    assert all(stalled < seconds for stalled, seconds in stalls)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_one_before(
    place: Place, alone: Path, asynchronous: str
) -> None:
    run = place.folder / f"no-room-{asynchronous}"
    sets = f"training.steps=20,checkpoint.asynchronous={asynchronous}".split(",")
    assert place.fit(run, *sets).wait().code == 0
    (run / "outcome.json").unlink()
    longer = [word for override in ("training.steps=40", sets[1]) for word in ("--set", override)]
    command = [sys.executable, "-m", "trainer", "fit", str(place.recipe), "--run", str(run), *longer]
    limited = ["bash", "-c", 'ulimit -f 200; exec "$0" "$@"', *command]  # KiB of a file; a checkpoint takes 380
    ended = place.process(limited).wait()
    assert ended.code == 1, ended.output
    assert "the checkpoint after step 30 could not be saved" in outcome(run)["reason"]
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000020"
    assert not (run / "checkpoints" / "step-00000030").exists()


def test_nothing_in_a_checkpoint_can_run(alone: Path) -> None:
    files = {path.suffix for path in (alone / "checkpoints" / "step-00000050").rglob("*")}
    assert files == {".json", ".safetensors"}, "a pickle runs what it likes when it is read"


@pytest.mark.slow
@pytest.mark.faults
def test_twelve_kills_of_a_run_that_saves_during_training_leave_no_trace(place: Place) -> None:
    twin, run, steps = place.folder / "alongside-twin", place.folder / "alongside-killed", "training.steps=150"
    finish(place, twin, steps)
    assert len(kill_many(place, run, 12, 2, steps, BESIDE)) == 12
    cells = compare(run, twin)
    assert all(equal == total for equal, total in cells.values()), cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_run_that_is_stopped_resumes_under_its_engine_and_ends_as_if_it_had_not_been(
    place: Place, alone: Path, name: str
) -> None:
    run = place.folder / f"legs-{name}"
    for steps in (15, 30, 50):  # the schedule follows the steps: only the samples and decisions can be compared
        (run / "outcome.json").unlink(missing_ok=True)
        ended = launch(place, name, run, f"training.steps={steps}", BESIDE)
        assert ended.code == 0, ended.output
    assert [line["step"] for line in lines(run, "step")] == list(range(1, 51))
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_rollback_goes_back_to_the_same_step_and_on_with_the_same_samples(
    place: Place, alone: Path, name: str
) -> None:
    plain, run = place.folder / "rolled-back-alone", place.folder / f"rolled-back-{name}"
    if not plain.exists():
        finish(place, plain, *DAMAGE)
    ended = launch(place, name, run, *DAMAGE)
    assert ended.code == 0, ended.output
    (rollback,) = lines(plain, "rollback")
    assert [(line["step"], line["to_step"]) for line in lines(run, "rollback")] == [
        (rollback["step"], rollback["to_step"])
    ]
    assert by_step(run, "batch_hash") == by_step(plain, "batch_hash")
    # The run is made to diverge, and sums in another order grow with it: late on, one warns where the other does not.
    assert by_step(run, "shares") == by_step(plain, "shares")
    first = rollback["step"] + 1
    assert by_step(run, "loss")[first] == pytest.approx(by_step(plain, "loss")[first], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_evaluate_reads_a_checkpoint_of_any_engine(place: Place, alone: Path, name: str) -> None:
    run = place.folder / f"evaluated-{name}"
    ended = launch(place, name, run, "training.steps=10")
    assert ended.code == 0, ended.output
    evaluated = place.command("evaluate", str(run)).wait()
    assert evaluated.code == 0, evaluated.output
    assert f"{lines(run, 'test')[-1]['nats_per_token']:.4f}" in evaluated.output
