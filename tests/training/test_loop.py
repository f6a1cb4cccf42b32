"""The loop in this process: what policy and guard learn of the training loss of each source (all steps since the
reading before, and no other), and which times it journals.
"""

import json
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.engines.steps import LENGTH, STORES, VOCABULARY, bench, training
from tests.evaluate.test_measurements import Size, Sizes
from trainer.base.records import Kind, Observation, SourceLoss
from trainer.control.config import ControlConfig
from trainer.control.controller import decide, initial_state
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.eval_batches import HeldOutText
from trainer.evaluate.held_out import evaluator_of_all
from trainer.evaluate.schedule import Times
from trainer.tracking.journal import Journal
from trainer.training import decide as decisions
from trainer.training.config import CheckpointConfig
from trainer.training.loop import train
from trainer.training.run import Outcome, Run, RunData, RunIO, RunSettings, RunState

EVERY, STEPS = 4, 11


class HeldOut:
    """Nine held-out documents of one sample's length."""

    tokens = np.random.default_rng(3).integers(1, VOCABULARY, 9 * LENGTH).astype(np.uint16)
    offsets = np.arange(10) * LENGTH
    num_bytes = np.full(9, 4 * LENGTH)
    slice_of = np.zeros(9, dtype=np.int64)
    slices = ("all",)
    ids = tuple(f"document {number}" for number in range(9))


@contextmanager
def run_in(folder: Path, stop_after: int | None = None) -> Any:
    """A run of eleven steps that reads after every fourth; it is asked to stop in the step after ``stop_after``."""
    folder.mkdir(exist_ok=True)
    with bench() as on:
        journal = Journal(folder / "journal.jsonl")
        text = HeldOutText(part=HeldOut(), seed=0, sequence_length=LENGTH, end_of_document=0, batch_rows=9)
        yield Run(
            settings=RunSettings(
                seed=1,
                num_steps=STEPS,
                evaluation=EvaluationConfig(every_steps=EVERY),
                control=ControlConfig(),
                checkpoint=CheckpointConfig(every_steps=10**6, keep=1),
            ),
            devices=on.engine,
            data=RunData(plan=on.stream.plan, stream=on.stream, evaluator=evaluator_of_all(text)),
            io=RunIO(
                folder=folder,
                journal=journal,
                sync_ledger=lambda: (0, ""),
                stop_requested=lambda: stop_after is not None and on.stream.state.step > stop_after + 1,
                warn=print,
            ),
        )
        journal.close()


@pytest.fixture
def observations(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """What control was shown."""
    decided_on: list[Observation] = []

    def watched(config: Any, state: Any, observation: Observation) -> Any:
        decided_on.append(observation)
        return decide(config, state, observation)

    monkeypatch.setattr(decisions, "decide", watched)
    return decided_on


def begun() -> RunState:
    kinds: dict[str, Kind] = {"real": "real", "made": "synthetic"}
    return RunState(control=initial_state(ControlConfig(), {"real": 600_000, "made": 400_000}, kinds).to_json())


def go_on(run: Run, state: RunState) -> tuple[RunState, Outcome]:
    return train(run, state, run.devices, training(steps=STEPS))  # type: ignore[arg-type]


def journalled(run: Run, kind: str) -> list[dict[str, Any]]:
    journal_lines = map(json.loads, (run.io.folder / "journal.jsonl").read_text().splitlines())
    return [line for line in journal_lines if line["kind"] == kind]


def summed(run: Run, steps: range) -> dict[str, SourceLoss]:
    """Losses of these steps: nats per token from the journal, tokens from the plan."""
    losses_by_step = {line["step"]: line["source_loss"] for line in journalled(run, "step")}
    sums = {}
    for number, name in enumerate(run.data.plan.sources):
        batches = {step: run.data.plan.batch(step) for step in steps}
        valid = {step: STORES[number].valid[batch.sample[batch.source == number]] for step, batch in batches.items()}
        tokens = {step: int((of - 1).sum()) for step, of in valid.items()}
        nats = sum(losses_by_step[step][name] * count for step, count in tokens.items())
        sums[name] = SourceLoss(loss_sum_nats=nats, tokens=sum(tokens.values()))
    return sums


def test_the_times_of_steps_and_evaluations_are_parts_of_the_whole(tmp_path: Path) -> None:
    with run_in(tmp_path) as run:
        began = time.monotonic()
        go_on(run, begun())
        whole = time.monotonic() - began
        parts = [line["seconds"] for kind in ("step", "evaluation") for line in journalled(run, kind)]
        assert 0 < sum(parts) <= whole


def assert_same(actual: Mapping[str, SourceLoss], expected: Mapping[str, SourceLoss]) -> None:
    assert actual.keys() == expected.keys()
    for name, loss in actual.items():
        assert loss.tokens == expected[name].tokens
        assert loss.loss_sum_nats == pytest.approx(expected[name].loss_sum_nats)


def test_control_sees_the_losses_of_all_steps_since_the_evaluation_before(
    tmp_path: Path, observations: list[Observation]
) -> None:
    with run_in(tmp_path) as run:
        go_on(run, begun())
        assert [observation.step for observation in observations] == [4, 8]
        for observation in observations:
            assert_same(observation.losses, summed(run, range(observation.step - EVERY + 1, observation.step + 1)))


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_run_that_was_stopped_shows_control_the_same_losses_bit_for_bit(
    tmp_path: Path, observations: list[Observation], stop_after: int
) -> None:
    with run_in(tmp_path / "whole") as run:
        go_on(run, begun())
    expected = [(observation.step, observation.losses) for observation in observations]
    observations.clear()
    with run_in(tmp_path / "parts", stop_after) as run:
        state, outcome = go_on(run, begun())
        assert outcome.state == "interrupted"
        (folder,) = (run.io.folder / "checkpoints").glob("step-*")
        saved = json.loads((folder / "state.json").read_text())
    with run_in(tmp_path / "parts") as run:
        run.devices.restore(folder)
        run.data.stream.state = run.data.plan.state(state.step + 1)
        run.data.stream.append([])
        assert RunState.from_json(saved).losses == state.losses
        go_on(run, RunState.from_json(saved))
    assert [(observation.step, observation.losses) for observation in observations] == expected


def test_a_step_that_was_left_out_adds_nothing(tmp_path: Path, observations: list[Observation]) -> None:
    with run_in(tmp_path) as run:
        parameter = next(iter(run.devices.sharding.model.parameters()))
        hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
        state, _ = go_on(replace(run, settings=replace(run.settings, num_steps=1)), begun())
        hook.remove()
        go_on(run, state)
        assert_same(observations[0].losses, summed(run, range(2, EVERY + 1)))


def test_a_measurement_from_outside_reaches_control_and_the_journal(
    tmp_path: Path, observations: list[Observation]
) -> None:
    every = Times(start=1, end=STEPS, every_steps=EVERY)
    with run_in(tmp_path) as run:
        sizes = Sizes({name: [SimpleNamespace(num_samples=30)] for name in ("real", "made")}, 2.0, every)
        go_on(replace(run, data=replace(run.data, measurements={"package.module:Sizes": sizes})), begun())
        lines = [line.get("measurements") for line in journalled(run, "evaluation")]
    measured = {name: Size(value=60.0) for name in ("real", "made")}
    assert [observation.evidence for observation in observations] == [{"package.module:Sizes": measured}] * 2
    expected = {"package.module:Sizes": {name: {"value": size.value} for name, size in measured.items()}}
    assert lines == [expected] * 2
