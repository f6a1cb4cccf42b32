"""Measurements of sources: what a run makes of them follows from its recipe, and one from outside is one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.records import Kind
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.eval_batches import HeldOutText
from trainer.evaluate.evidence.measurement import FORGETTING, GRADIENT_ALIGNMENT, SOURCE_VALUE, MeasuredRun
from trainer.evaluate.measurements import fewest_validation_documents, measurement_costs, plan_measurements
from trainer.evaluate.schedule import Times

LENGTH = 16
KINDS: Mapping[str, Kind] = {"web": "real", "written": "synthetic"}
EVERYTHING = {SOURCE_VALUE: 0.1, GRADIENT_ALIGNMENT: 0.0, FORGETTING: 0.1}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Samples of a source, times a factor."""

    value: float


class Sizes:
    """A measurement from outside: how large each source is."""

    class Config(Config):
        """Its settings."""

        kind: str
        factor: float = 1.0

    cost_tokens = 0.0

    def __init__(self, sources: Mapping[str, Any], factor: float, times: Times) -> None:
        self.sources, self.factor, self.times = sources, factor, times

    @classmethod
    def plan(cls, config: Any, run: MeasuredRun, *, text: HeldOutText, sources: Mapping[str, Any]) -> "Sizes":
        """Due at every evaluation."""
        every = run.evaluation.every_steps
        return cls(sources, config.factor, Times(start=1, end=run.num_steps, every_steps=every))

    def __call__(
        self, port: Any, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, Size]:
        """The samples of the live segments."""
        sizes = {name: sum(self.sources[name][number].num_samples for number in live) for name, live in sources.items()}
        return {name: Size(value=self.factor * size) for name, size in sizes.items()}


class NoPlan:
    """No measurement."""


def run_of(needed_from: Mapping[str, float], **evaluation: Any) -> MeasuredRun:
    return MeasuredRun(
        evaluation=EvaluationConfig.model_validate({"every_steps": 10, **evaluation}),
        kinds=KINDS,
        needed_from=needed_from,
        num_steps=400,
        global_batch=32,
        sequence_length=LENGTH,
    )


def planned(worlds: Any, run: MeasuredRun, num_documents: int = 900) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    part = worlds.Documents(rng.integers(1, 50, (num_documents, 20)).tolist())
    text = HeldOutText(part=part, seed=1, sequence_length=LENGTH, end_of_document=0, batch_rows=8)
    sources = {name: [worlds.Block(rng.integers(1, 50, (30, LENGTH)))] for name in KINDS}
    return plan_measurements(run, text=text, sources=sources)


def test_a_run_makes_the_measurements_that_are_needed_and_no_other(worlds: Any) -> None:
    assert planned(worlds, run_of({})) == {}
    assert planned(worlds, run_of({SOURCE_VALUE: 0.0})).keys() == {SOURCE_VALUE}
    assert planned(worlds, run_of(EVERYTHING)).keys() == EVERYTHING.keys()
    assert planned(worlds, run_of({}, gradient_alignment={"enabled": "on"})).keys() == {GRADIENT_ALIGNMENT}
    assert planned(worlds, run_of(EVERYTHING, source_value={"enabled": "off"})).keys() == {GRADIENT_ALIGNMENT}


def test_the_cost_that_is_shown_before_the_run_is_that_of_its_measurements(worlds: Any) -> None:
    run = run_of(EVERYTHING)
    measurements = planned(worlds, run)
    costs = {kind: measurement.times.count * measurement.cost_tokens for kind, measurement in measurements.items()}
    assert measurement_costs(run) == pytest.approx(costs)
    assert all(costs.values())
    assert measurement_costs(run_of({})) == {}


def test_too_little_held_out_text_is_refused_before_the_run(worlds: Any) -> None:
    for kind in EVERYTHING:
        with pytest.raises(UserError, match="the validation part is too small"):
            planned(worlds, run_of({kind: 0.0}), num_documents=3)


def test_the_documents_said_to_be_needed_are_just_enough(worlds: Any) -> None:
    for kind in (SOURCE_VALUE, FORGETTING):
        run = run_of({kind: 0.0})
        fewest = fewest_validation_documents(run)
        assert planned(worlds, run, num_documents=fewest).keys() == {kind}
        with pytest.raises(UserError, match="the validation part is too small"):
            planned(worlds, run, num_documents=fewest - 1)
    assert fewest_validation_documents(run_of({})) == 0


def test_the_part_of_the_budget_that_is_said_to_fit_fits(worlds: Any) -> None:
    fewer = fewest_validation_documents(run_of({SOURCE_VALUE: 0.0}, every_steps=40)) // 2
    with pytest.raises(UserError, match="max_compute_share by") as error:
        planned(worlds, run_of({SOURCE_VALUE: 0.0}, every_steps=40), num_documents=fewer)
    part = float(str(error.value).partition("max_compute_share by ")[2].partition(",")[0])
    smaller = {"max_compute_share": 0.1 * part}
    run = run_of({SOURCE_VALUE: 0.0}, every_steps=40, source_value=smaller)
    assert planned(worlds, run, num_documents=fewer)


def test_a_measurement_from_outside_is_planned_with_its_own_settings(worlds: Any) -> None:
    kind = "tests.evaluate.test_measurements:Sizes"
    run = run_of({}, measurements=[{"kind": kind, "factor": 2}])
    (measurement,) = planned(worlds, run).items()
    assert measurement[0] == kind
    assert measurement[1](None, step=10, sources={"web": [0]}, global_batch=32) == {"web": Size(value=60.0)}
    assert [step for step in range(1, 25) if measurement[1].times.due(step, step)] == [10, 20]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "tests.evaluate.test_measurements:Sizes", "faktor": 2}, "faktor"),
        ({"kind": "tests.evaluate.test_measurements:NoPlan"}, "lacks plan"),
        ({"kind": "source_value"}, "source_value"),
    ],
)
def test_a_measurement_that_cannot_be_made_is_refused_with_the_recipe(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_of({}, measurements=[entry])
