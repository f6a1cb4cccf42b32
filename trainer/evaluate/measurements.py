"""The measurements of a run: those built in, each where something needs it, and those that the recipe adds."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.evaluate.config import OUTSIDE_MEASUREMENTS
from trainer.evaluate.eval_batches import HeldOutText, SegmentRows
from trainer.evaluate.evidence import forgetting, gradient_alignment, source_value
from trainer.evaluate.evidence.measurement import (
    FORGETTING,
    GRADIENT_ALIGNMENT,
    SOURCE_VALUE,
    MeasuredRun,
    Measurement,
    PlansMeasurement,
)

MEASUREMENTS: Mapping[str, PlansMeasurement] = {
    SOURCE_VALUE: source_value.TokenSourceValue,
    GRADIENT_ALIGNMENT: gradient_alignment.TokenAlignment,
    FORGETTING: forgetting.TokenForgetting,
}


def plan_measurements(
    run: MeasuredRun, *, text: HeldOutText, sources: Mapping[str, Sequence[SegmentRows]]
) -> dict[str, Measurement]:
    """The measurements by kind that a run makes; ``UserError`` where the held-out text is too small for one."""
    evaluation = run.evaluation
    wanted: list[tuple[str, PlansMeasurement, Any]] = [
        (SOURCE_VALUE, MEASUREMENTS[SOURCE_VALUE], evaluation.source_value),
        (GRADIENT_ALIGNMENT, MEASUREMENTS[GRADIENT_ALIGNMENT], evaluation.gradient_alignment),
        (FORGETTING, MEASUREMENTS[FORGETTING], evaluation.source_value),  # it is sized by the same settings
        *((config.kind, OUTSIDE_MEASUREMENTS.resolve(config.kind), config) for config in evaluation.measurements),
    ]
    planned = {kind: part.plan(config, run, text=text, sources=sources) for kind, part, config in wanted}
    return {kind: measurement for kind, measurement in planned.items() if measurement is not None}


def measurement_costs(run: MeasuredRun) -> dict[str, float]:
    """Cost of each built-in measurement over the whole run, in tokens trained, by kind; those not needed are left out.

    It follows from counts alone, so that it can be shown before any data is prepared.
    """
    costs: dict[str, float] = {}
    length = run.sequence_length
    if (values := source_value.planned(run)) is not None:
        tokens = values[1].cost_tokens(num_sources=run.num_sources, sequence_length=length)
        costs[SOURCE_VALUE] = values[0].count * tokens
    if (aligned := gradient_alignment.planned(run)) is not None:
        tokens = gradient_alignment.cost_tokens(aligned[1], num_sources=run.num_sources, sequence_length=length)
        costs[GRADIENT_ALIGNMENT] = aligned[0].count * tokens
    if (probes := forgetting.planned(run)) is not None:
        costs[FORGETTING] = probes[0].count * forgetting.cost_tokens(probes[1], sequence_length=length)
    return costs


def fewest_validation_documents(run: MeasuredRun) -> int:
    """Documents of full length that the validation part needs for trial steps; 0 where no trial steps are made."""
    planned = [source_value.planned(run), forgetting.planned(run)]
    tokens = max((sizes[1].held_out_tokens(run.sequence_length) for sizes in planned if sizes is not None), default=0)
    return -(-tokens // (run.sequence_length + 1))
