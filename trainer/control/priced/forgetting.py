"""How fast the model forgets: the curvature h of the kernel (``trainer.control.priced.spending_curve``), told or
measured in the run.

A forgetting probe (``trainer.evaluate.evidence.forgetting``) says which part of what a few steps taught goes at each
step after them. Over the learning rate of then that is h, which is the model's and not the schedule's, so probes at
different rates are pooled. It counts only where it is surely above zero. Where it is not, nobody knows which steps
matter: then the plan stays level, as it does where the model forgets nothing.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from trainer.base.records import Observation
from trainer.control.priced.estimates import SURE_Z, Estimate, fused

MOST_PROBES = 40  # that are remembered
# What is scarce waits for the first probe, as a level plan would spend a tenth of it or more on steps that are then
# forgotten.
LONGEST_WAIT = 0.25  # of progress, from when probes are asked for


def noted(probes: Sequence[dict[str, Any]], observation: Observation) -> list[dict[str, Any]]:
    """``probes`` and what this reading says of the curvature; what is not finite is passed over."""
    rate = observation.horizon.rate_at(observation.progress)
    found = (
        [] if rate <= 0 else [(one.value / rate, one.standard_error / rate) for one in observation.forgetting.values()]
    )
    fresh = [
        {"value": value, "standard_error": error} for value, error in found if isfinite(value + error) and error > 0
    ]
    return [*probes, *fresh][-MOST_PROBES:]


def measured(probes: Sequence[dict[str, Any]]) -> Estimate | None:
    """The curvature that the probes say, pooled by precision; the error grows with their scatter."""
    return fused({str(number): Estimate(**one) for number, one in enumerate(probes)}) if probes else None


def curvature(told: float | None, probes: Sequence[dict[str, Any]]) -> float | None:
    """h of the kernel: what was ``told``, else what was measured and is sure; None where it is not known."""
    found = measured(probes)
    if told is not None or found is None:
        return told
    return found.value if found.value > SURE_Z * found.standard_error else None


def waits_until(needed_from: float | None, probes: Sequence[dict[str, Any]], observation: Observation) -> float:
    """Progress up to which a plan that asks ``needed_from`` some progress on may hope for a first probe; 0 where none
    will come, or there is one."""
    last = observation.horizon.probes_until
    if needed_from is None or last is None or probes or not len(observation.horizon.rates):
        return 0.0
    return min(needed_from + LONGEST_WAIT, last)


def as_evidence(told: float | None, probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the plan goes by, and what was measured, in how many probes."""
    found = measured(probes)
    return {
        "curvature": curvature(told, probes),
        "is_told": told is not None,
        "measured": None if found is None else found.as_evidence(),
        "num_probes": len(probes),
    }
