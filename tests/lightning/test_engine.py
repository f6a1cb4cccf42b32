"""The engine `lightning` makes the run that `accelerate` makes: samples, decisions, losses, and how it ends."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.together.launches import (
    ALIGNED,
    FEEDBACK,
    Ended,
    Live,
    Place,
    Strike,
    by_step,
    decisions,
    free_port,
    lines,
    outcome,
    predicted,
    reached,
    wait_until,
)
from trainer.base.errors import UserError
from trainer.engines.launch import NUM_PROCESSES_VARIABLE
from trainer.lightning.strategies import STRATEGY_VARIABLE, check_launch

ENGINE = "engine=lightning"
STEPS = list(range(1, 51))


def torchrun(
    place: Place,
    run: Path,
    *sets: str,
    module: Sequence[str] = ("trainer",),
    extra: dict[str, str] | None = None,
) -> Live:
    """Two processes by `torchrun -m -- trainer fit`, as a user would launch them."""
    where = ["--nproc_per_node", "2", "--master_port", str(free_port())]
    overrides = [word for override in (ENGINE, *sets) for word in ("--set", override)]
    words = [sys.executable, "-m", "torch.distributed.run", *where, "-m", "--", *module]
    return place.process([*words, "fit", str(place.recipe), "--run", str(run), *overrides], extra)


def decided(run: Path) -> list[tuple[int, str, dict[str, int], str]]:
    return [(line["step"], line["action"], line["shares"], line["reason"]) for line in decisions(run)]


def model(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def assert_same_run(run: Path, twin: Path, world_size: int) -> None:
    assert lines(run, "start")[0]["world_size"] == world_size
    assert by_step(run, "batch_hash") == by_step(twin, "batch_hash")
    assert by_step(run, "counts") == by_step(twin, "counts")
    assert decided(run) == decided(twin)
    losses, expected = by_step(run, "loss"), by_step(twin, "loss")
    assert list(losses) == list(expected)
    assert max(abs(losses[step] / expected[step] - 1) for step in expected) < 1e-4
    for mine, other in zip(lines(run, "evaluation"), lines(twin, "evaluation"), strict=True):
        assert mine["nats_per_token"] == pytest.approx(other["nats_per_token"], rel=1e-4)


@pytest.fixture(scope="module")
def lightning(place: Place, alone: Path) -> Path:
    """The 50 steps of `alone`, under Lightning in one process."""
    run = place.folder / "lightning"
    ended = place.fit(run, ENGINE).wait()
    assert ended.code == 0, ended.output
    return run


def test_one_process_trains_bit_for_bit_as_under_accelerate(lightning: Path, alone: Path) -> None:
    assert by_step(lightning, "loss") == by_step(alone, "loss")
    assert by_step(lightning, "grad_norm") == by_step(alone, "grad_norm")
    assert_same_run(lightning, alone, 1)
    assert [line["nats_per_token"] for line in lines(lightning, "test")] == [
        line["nats_per_token"] for line in lines(alone, "test")
    ]
    assert {step: int(batch_hash) for step, batch_hash in by_step(lightning, "batch_hash").items()} == predicted(
        lightning
    )
    assert (lightning / "model" / "model.safetensors").read_bytes() == (
        alone / "model" / "model.safetensors"
    ).read_bytes()


def test_two_processes_train_on_the_same_samples_to_the_same_losses(place: Place, alone: Path) -> None:
    run = place.folder / "lightning-ddp"
    ended = torchrun(place, run).wait()
    assert ended.code == 0, ended.output
    assert_same_run(run, alone, 2)


def test_a_killed_run_resumes_bit_for_bit(place: Place, lightning: Path) -> None:
    run = place.folder / "lightning-killed"
    ended = place.fit(run, ENGINE, strike=Strike(run.with_name("lightning.alive"), "decision", 5)).wait()
    assert ended.code == -signal.SIGKILL
    ended = place.fit(run, ENGINE).wait()
    assert ended.code == 0, ended.output
    assert lines(run, "start")[1]["resumed_from"] == "step-00000020"
    for field in ("batch_hash", "loss", "grad_norm"):
        assert by_step(run, field) == by_step(lightning, field), field
    assert decided(run) == decided(lightning)
    assert (run / "model" / "model.safetensors").read_bytes() == (
        lightning / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_step_saves_and_exits_with_75(place: Place, alone: Path, number: int) -> None:
    run = place.folder / f"lightning-{number}"
    live = place.fit(run, ENGINE)
    assert wait_until(live, reached(run, 7)), live.wait().output
    live.send(number)
    ended = live.wait()
    assert ended.code == 75, ended.output
    assert outcome(run)["state"] == "interrupted"
    assert (run / "checkpoints" / f"step-{outcome(run)['step']:08d}").is_dir()


@pytest.mark.slow
def test_a_signal_to_the_launcher_ends_all_ranks_with_a_checkpoint(place: Place, alone: Path) -> None:
    run = place.folder / "lightning-ddp-signal"
    live = torchrun(place, run)
    assert wait_until(live, reached(run, 7)), live.wait().output
    live.send(signal.SIGTERM)
    live.wait()
    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("interrupted", 75)
    ended = torchrun(place, run).wait()
    assert ended.code == 0, ended.output
    assert_same_run(run, alone, 2)


BLOW_UP = ["training.learning_rate=1.0e+30", "training.max_grad_norm=1.0e+30", "training.schedule={kind: constant}"]


def assert_blown_up(ended: Ended, run: Path) -> None:
    assert ended.code != 0
    nonfinite_lines = lines(run, "nonfinite")
    assert [line["step"] for line in nonfinite_lines] == [nonfinite_lines[0]["step"] + number for number in range(3)]
    assert "not finite 3 steps in a row" in outcome(run)["reason"]
    assert not any(by_step(run, "updated")[line["step"]] for line in nonfinite_lines)


def test_a_step_that_is_not_finite_updates_no_weights(place: Place, alone: Path) -> None:
    run = place.folder / "lightning-blown-up"
    assert_blown_up(place.fit(run, ENGINE, *BLOW_UP).wait(), run)
    assert outcome(run)["exit_code"] == 1


@pytest.mark.slow
def test_no_rank_updates_its_weights_when_a_step_is_not_finite(place: Place, alone: Path) -> None:
    run = place.folder / "lightning-ddp-blown-up"
    assert_blown_up(torchrun(place, run, *BLOW_UP).wait(), run)


@pytest.mark.slow
def test_evidence_is_measured_and_followed_as_under_accelerate(place: Place, alone: Path) -> None:
    ours, theirs = place.folder / "evidence-accelerate", place.folder / "evidence-lightning"
    assert place.fit(ours, *FEEDBACK).wait().code == 0
    assert place.fit(theirs, *FEEDBACK, ENGINE).wait().code == 0
    assert [line["source_value"] for line in lines(theirs, "evaluation")] == [
        line["source_value"] for line in lines(ours, "evaluation")
    ]
    assert any(line["source_value"] for line in lines(ours, "evaluation"))
    assert by_step(theirs, "loss") == by_step(ours, "loss")


@pytest.mark.slow
def test_alignments_are_measured_and_followed_as_under_accelerate(place: Place, alone: Path) -> None:
    ours, theirs = place.folder / "aligned-accelerate", place.folder / "aligned-lightning"
    assert place.fit(ours, *ALIGNED).wait().code == 0
    assert place.fit(theirs, *ALIGNED, ENGINE).wait().code == 0
    assert [line["gradient_alignment"] for line in lines(theirs, "evaluation")] == [
        line["gradient_alignment"] for line in lines(ours, "evaluation")
    ]
    assert decided(theirs) == decided(ours)
    assert by_step(theirs, "loss") == by_step(ours, "loss")


@pytest.mark.slow
def test_the_parity_recipe_gives_the_same_run_under_both_engines(place: Place) -> None:
    recipe, runs = Path("recipes/parity.yaml"), [place.folder / "parity-a", place.folder / "parity-l"]
    for run, engine in zip(runs, ("accelerate", "lightning"), strict=True):
        ended = place.command("fit", str(recipe), "--run", str(run), "--set", f"engine={engine}").wait(600)
        assert ended.code == 0, ended.output
    assert_same_run(runs[1], runs[0], 1)
    assert [line["action"] for line in decisions(runs[0])].count("move") > 1


@pytest.mark.slow
def test_a_run_goes_back_once_and_on_as_under_accelerate(place: Place, alone: Path) -> None:
    from tests.together.test_loop import DAMAGE

    ours, theirs = place.folder / "damaged-accelerate", place.folder / "damaged-lightning"
    assert place.fit(ours, *DAMAGE).wait().code == 0
    assert place.fit(theirs, *DAMAGE, ENGINE).wait().code == 0
    assert len(lines(theirs, "rollback")) == 1
    assert by_step(theirs, "loss") == by_step(ours, "loss")


def test_a_run_may_not_change_its_engine(place: Place, lightning: Path) -> None:
    ended = place.fit(lightning, "training.steps=60").wait()
    assert ended.code == 2
    assert "engine: 'lightning' -> 'accelerate'" in ended.output


# Launches


def test_accelerate_launch_is_refused_with_the_remedy(place: Place) -> None:
    run = place.folder / "lightning-under-accelerate"
    ended = place.launch(run, ENGINE, options=["--num_processes", "1", "--num_machines", "1"]).wait()
    assert ended.code != 0
    assert outcome(run)["exit_code"] == 2
    assert outcome(run)["traceback"] is None
    assert "the launch is Accelerate's" in ended.output
    assert "torchrun --nproc_per_node N -m -- trainer fit RECIPE" in ended.output
    assert not (run / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({STRATEGY_VARIABLE: "fsdp"}, "not a supported strategy"),
        ({"PL_TRAINER_PRECISION": "64", "PL_TRAINER_DEVICES": "2"}, "PL_TRAINER_DEVICES, PL_TRAINER_PRECISION"),
        ({STRATEGY_VARIABLE: "ddp"}, "no launcher started any"),
        ({STRATEGY_VARIABLE: "model_parallel"}, "no launcher started any"),
        ({"MASTER_ADDR": "127.0.0.1"}, "MASTER_ADDR is set but WORLD_SIZE is not"),
        ({NUM_PROCESSES_VARIABLE: "four"}, "is not a number"),
        ({NUM_PROCESSES_VARIABLE: "4"}, "asks for 4 processes, but 1 started"),
        ({NUM_PROCESSES_VARIABLE: "2", "WORLD_SIZE": "3"}, "asks for 2 processes, but 3 started"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "WORLD_SIZE": "2"}, "the launch is Accelerate's"),
    ],
)
def test_a_launch_that_would_train_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")] + ["WORLD_SIZE", "MASTER_ADDR"]:
        monkeypatch.delenv(name, raising=False)
    check_launch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        check_launch()


# Spread over the ranks

FEW = ["training.steps=12", "evaluation.every_steps=3", "checkpoint.every_steps=6"]


def sharded(place: Place, run: Path, strategy: str, *sets: str) -> Live:
    """Two processes under a strategy that spreads the model; DeepSpeed's is let through on CPUs."""
    module = ("tests.lightning.zero_on_cpus",) if strategy.startswith("deepspeed") else ("trainer",)
    return torchrun(place, run, *sets, module=module, extra={STRATEGY_VARIABLE: strategy})


def test_fsdp2_trains_on_the_same_samples_to_the_same_losses(place: Place, alone: Path) -> None:
    twin, run = place.folder / "few", place.folder / "few-fsdp2"
    assert place.fit(twin, *FEW, ENGINE).wait().code == 0
    ended = sharded(place, run, "model_parallel", *FEW).wait()
    assert ended.code == 0, ended.output
    assert_same_run(run, twin, 2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"])
def test_zero_trains_on_the_same_samples_to_the_same_losses(place: Place, alone: Path, strategy: str) -> None:
    pytest.importorskip("deepspeed", reason="NOT TESTED: pip install -e '.[all,dev]'")
    run = place.folder / strategy
    ended = sharded(place, run, strategy).wait()
    assert ended.code == 0, ended.output
    assert_same_run(run, alone, 2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_stage_1", "deepspeed_stage_3"])
def test_zero_begins_with_the_weights_that_every_engine_begins_with_under_bf16(place: Place, strategy: str) -> None:
    pytest.importorskip("deepspeed", reason="NOT TESTED: pip install -e '.[all,dev]'")
    still = ["training.precision=bf16", "training.steps=1", "training.learning_rate=1.0e-30"]
    still += ["training.schedule={kind: constant}"]
    twin, run = place.folder / f"still-alongside-{strategy}", place.folder / f"still-{strategy}"
    assert place.fit(twin, *still, ENGINE).wait().code == 0
    ended = sharded(place, run, strategy, *still).wait()
    assert ended.code == 0, ended.output
    assert model(run) == model(twin)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "model_parallel", "deepspeed_stage_3"])
def test_what_two_processes_saved_one_resumes(place: Place, alone: Path, strategy: str) -> None:
    run = place.folder / f"stopped-{strategy}"
    live = sharded(place, run, strategy)
    assert wait_until(live, reached(run, 12)), live.wait().output
    live.send(signal.SIGTERM)
    live.wait()
    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("interrupted", 75)
    ended = place.fit(run, ENGINE).wait()
    assert ended.code == 0, ended.output
    assert [line["world_size"] for line in lines(run, "start")] == [2, 1]
    assert by_step(run, "batch_hash") == by_step(alone, "batch_hash")
    assert decided(run) == decided(alone)
    assert max(abs(by_step(run, "loss")[step] / loss - 1) for step, loss in by_step(alone, "loss").items()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["model_parallel", "deepspeed_stage_2"])
def test_no_rank_updates_a_sharded_model_when_a_step_is_not_finite(place: Place, alone: Path, strategy: str) -> None:
    run = place.folder / f"blown-up-{strategy}"
    assert_blown_up(sharded(place, run, strategy, *BLOW_UP).wait(), run)


@pytest.mark.slow
def test_evidence_is_the_same_when_the_weights_are_spread(place: Place, alone: Path) -> None:
    twin, run = place.folder / "spread-twin", place.folder / "spread"
    assert place.fit(twin, *FEEDBACK).wait().code == 0
    assert sharded(place, run, "model_parallel", *FEEDBACK).wait().code == 0
    assert [line["shares"] for line in decisions(run)] == [line["shares"] for line in decisions(twin)]
    assert by_step(run, "batch_hash") == by_step(twin, "batch_hash")


def test_deepspeed_is_refused_on_cpus_before_anything_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRATEGY_VARIABLE, "deepspeed_stage_2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="CUDA devices only"):
        check_launch()
