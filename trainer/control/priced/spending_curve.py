"""When to draw scarce tokens: a curve of shares over the rest of a run, and the shadow price that clears the budget.

What a step does to the final model is partly forgotten at every step after it, so the learning-rate schedule says how
much of it is left at the end. A rule that looks one evaluation ahead draws scarce data first and is the worst of all
(experiments: no better than no real data); a rule that waits for the very end wastes them on steps too small to teach.
"""

# P parts of the rest of a run, in order

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from trainer.base.records import FloatArray

FORGOTTEN = -300.0  # ln of what is left of a step that counts for nothing, but can still be divided by
MOST_CONTRACTION = 0.99  # of curvature times rate: beyond 1 a step would overshoot and the kernel change its sign
LEAST_WEIGHT = 1e-12  # of the best part: keeps powers of the kernel above zero


@dataclass(frozen=True, kw_only=True)
class RestOfRun:
    """The rest of a run in parts: ``steps`` [P] (fractions count), ``rates`` [P] learning rate."""

    steps: FloatArray
    rates: FloatArray

    @property
    def total_steps(self) -> float:
        """Steps until the end."""
        return float(self.steps.sum())


@dataclass(frozen=True, kw_only=True)
class SpendingCurve:
    """``shares`` [P] that use up a budget over the rest of a run.

    ``marginal`` is the kernel (against the best part's) at which a token is just drawn; 0 where the budget does not
    bind, so that a token has no price.
    """

    shares: FloatArray
    marginal: float


def rest_of_run(rates: Sequence[float], *, num_steps: int, progress: float) -> RestOfRun:
    """The rest of a run of ``num_steps`` from ``progress`` on, in the parts of ``rates`` (evenly spaced; none: level).

    The current part counts with what is left of it.
    """
    rates_P = np.asarray(rates if len(rates) else [1.0], dtype=np.float64)
    edges = np.linspace(0.0, 1.0, len(rates_P) + 1)
    steps_left = np.clip(edges[1:] - np.maximum(edges[:-1], progress), 0.0, None) * num_steps
    return RestOfRun(steps=steps_left[steps_left > 0], rates=rates_P[steps_left > 0])


def kernel(rest: RestOfRun, curvature: float) -> FloatArray:
    """What is left at the end of a step made in each part [P]: c = eta prod_later (1 - h eta), h the ``curvature``.

    Of SGD on a quadratic of curvature h this is exact (d final / d gradient of that step).
    """
    forgetting = rest.steps * np.log1p(-np.minimum(curvature * rest.rates, MOST_CONTRACTION))
    later = np.cumsum(forgetting[::-1])[::-1] - forgetting / 2
    kept_rate_P: FloatArray = rest.rates * np.exp(np.maximum(later, FORGOTTEN))
    return kept_rate_P


def noise_rate(rest: RestOfRun, curvature: float) -> float:
    """The learning rate at which gradient noise is priced against the mean gradient over the rest of a run.

    The mean part of a step is left at the end with weight c = eta prod (1 - h eta), the squared noise with q = eta^2
    prod (1 - h eta)^2 = c^2; the ratio of their sums is eta / (2 - h eta) at a constant rate, half of what a rule that
    looks one step ahead (PiKE, arXiv 2502.06244) would say, and falls with the rate.
    """
    kernel_P = kernel(rest, curvature)
    forgetting = 2 * np.log1p(-np.minimum(curvature * rest.rates, MOST_CONTRACTION))
    # mean of prod^2 over a part against the square of its middle: sinh(x)/x with x the forgetting over half the part
    half = np.abs(forgetting) * rest.steps / 2
    squares = kernel_P**2 * np.where(half > 1e-6, np.sinh(np.minimum(half, 300.0)) / np.maximum(half, 1e-6), 1.0)
    quarter = half / 2
    means = kernel_P * np.where(quarter > 1e-6, np.sinh(np.minimum(quarter, 300.0)) / np.maximum(quarter, 1e-6), 1.0)
    return float((rest.steps * squares).sum() / (rest.steps * means).sum())


def spend(
    rest: RestOfRun, weights: FloatArray, budget_steps: float, *, concentration: float, floor: float, ceiling: float
) -> SpendingCurve:
    """The curve that uses up ``budget_steps`` (tokens left over tokens of a step) where ``weights`` [P] are greatest.

    s = min(ceiling, max(floor, ceiling (w / m)^concentration)) with the margin m that uses up just the budget: the
    demand of isoelastic utility, sum of w s^(1 - 1/k), at a price m; k = 0 is level, k -> inf draws only above the
    margin. The margin is found by bisection, which is dual ascent carried to its end, at every evaluation, with what
    was really used. A floor beyond the budget gives way.
    """
    from scipy.optimize import brentq  # half a second to import: only where a budget binds

    floor = min(floor, budget_steps / rest.total_steps)
    log_demand = concentration * np.log(np.maximum(weights / weights.max(), LEAST_WEIGHT))

    def shares(log_scale: float) -> FloatArray:
        curve: FloatArray = np.clip(ceiling * np.exp(np.minimum(log_scale + log_demand, 0.0)), floor, ceiling)
        return curve

    def excess(log_scale: float) -> float:
        return float((shares(log_scale) * rest.steps).sum()) - budget_steps

    highest = -float(log_demand.min())
    lowest = float(np.log(max(floor, LEAST_WEIGHT) / max(ceiling, LEAST_WEIGHT))) - 1.0
    if excess(highest) <= 0:
        return SpendingCurve(shares=shares(highest), marginal=0.0)
    if excess(lowest) >= 0:
        return SpendingCurve(shares=shares(lowest), marginal=inf)
    log_margin = float(brentq(excess, lowest, highest, xtol=1e-10))
    return SpendingCurve(
        shares=shares(log_margin), marginal=float(np.exp(-log_margin / concentration)) if concentration else 1.0
    )
