"""How fast the model forgets: the curvature h of the kernel (``trainer.control.priced.spending_curve``), configured or
measured in the run.

A forgetting probe (``trainer.evaluate.evidence.forgetting``) says which part of what a few steps taught is lost at each
step after them. Over the learning rate at that time this is h, a property of the model and not of the schedule, so
probes at different rates are pooled. It counts only where it is surely above zero. Where it is not, nobody knows which
steps matter: then the plan stays level, as it does where the model forgets nothing.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from trainer.base.records import Observation
from trainer.control.priced.estimates import SURE_Z, Estimate, inverse_variance_mean

MOST_PROBES = 40  # that are remembered
# Scarce data wait for the first probe, as a level plan would use a tenth of them or more on steps that are then
# forgotten.
LONGEST_WAIT = 0.25  # of progress, from when probes are needed


def with_probe(probes: Sequence[Estimate], observation: Observation) -> tuple[Estimate, ...]:
    """``probes`` and what this evaluation says of the curvature; what is not finite is left out."""
    rate = observation.horizon.rate_at(observation.progress)
    measured = observation.forgetting.values() if rate > 0 else ()
    fresh = [Estimate(value=probe.value / rate, standard_error=probe.standard_error / rate) for probe in measured]
    usable = [probe for probe in fresh if isfinite(probe.value + probe.standard_error) and probe.standard_error > 0]
    return (*probes, *usable)[-MOST_PROBES:]


def measured_curvature(probes: Sequence[Estimate]) -> Estimate | None:
    """The curvature that the probes say, pooled by precision; the error grows with their scatter."""
    return inverse_variance_mean({str(number): probe for number, probe in enumerate(probes)}) if probes else None


def curvature(configured: float | None, probes: Sequence[Estimate]) -> float | None:
    """h of the kernel: as ``configured``, else as measured where that is sure; None where it is not known."""
    measured = measured_curvature(probes)
    if configured is not None or measured is None:
        return configured
    return measured.value if measured.value > SURE_Z * measured.standard_error else None


def waits_until(needed_from: float | None, probes: Sequence[Estimate], observation: Observation) -> float:
    """Progress until which a plan that needs probes from ``needed_from`` on may wait for the first one.

    0 where none will come, or there is one.
    """
    last = observation.horizon.probes_until
    if needed_from is None or last is None or probes or not len(observation.horizon.rates):
        return 0.0
    return min(needed_from + LONGEST_WAIT, last)


def as_evidence(configured: float | None, probes: Sequence[Estimate]) -> dict[str, Any]:
    """The curvature in use, and what was measured, in how many probes."""
    measured = measured_curvature(probes)
    return {
        "curvature": curvature(configured, probes),
        "is_configured": configured is not None,
        "measured": None if measured is None else measured.to_json(),
        "num_probes": len(probes),
    }
