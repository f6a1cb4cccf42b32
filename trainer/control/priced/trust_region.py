"""How far shares move on evidence: exponentiated gradient inside a trust region that the evidence itself sizes.

log p_k += e_k advantage_k, KL(new | old) <= radius. Two things prevent oscillation: advantages are measured against the
greatest so far, so that steps shrink as a run comes near the place where all sources are worth the same; and a source
whose advantage changes its sign goes half as far next time (Rprop, Riedmiller and Braun 1993). The radius is ``trust``
for evidence that just counts and grows with its square, like the log likelihood ratio z^2/2 that the advantage is not
zero (0.02 at 1.5 standard errors is a fiftieth of it). So a doubtful advantage moves little, and a plainly worthless
source is at its floor after one decision or two: under a fixed 0.02 it takes eight, and tokens wasted by then are not
won back (experiments: E11).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import exp, fsum, log
from typing import Any, Self

from trainer.control.priced.estimates import Estimate

MOST_WIDENING = 100.0  # of the radius: at 0.02 that is enough to go from 0.8 to 0.01 in one step
FIRST_REACH, LEAST_REACH = 2.0, 0.1  # of the log-share of the source with the greatest advantage
SHRINK, GROW = 0.5, 1.2
SCALE_MEMORY = 0.98  # the greatest advantage so far decays, so that what happened long ago does not make steps small


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """The step size of each source (``reach``), the sign of its last advantage, and the greatest advantage so far."""

    reach: Mapping[str, float] = field(default_factory=dict)
    signs: Mapping[str, int] = field(default_factory=dict)
    scale: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The step sizes of which ``value`` is the ``to_json``."""
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Step:
    """New shares (sum as before), the step sizes after, and whether the trust region limited the step."""

    shares: dict[str, float]
    sizes: StepSizes
    radius: float
    divergence: float
    is_limited: bool


def step(
    shares: Mapping[str, float], advantages: Mapping[str, Estimate], sizes: StepSizes, *, z: float, trust: float
) -> Step:
    """``shares`` after the evidence; a source whose advantage is within ``z`` standard errors of zero stays in
    proportion to the others.
    """
    counted = {
        name: advantage
        for name, advantage in advantages.items()
        if advantage.significance > z and shares.get(name, 0.0) > 0
    }
    scale = max([SCALE_MEMORY * sizes.scale, *(abs(advantage.value) for advantage in counted.values())])
    reach, signs = dict(sizes.reach), dict(sizes.signs)
    for name, advantage in counted.items():
        sign = 1 if advantage.value > 0 else -1
        before = reach.get(name, FIRST_REACH)
        turned = signs.get(name, 0) * sign
        reach[name] = max(LEAST_REACH, before * SHRINK) if turned < 0 else min(FIRST_REACH, before * GROW**turned)
        signs[name] = sign
    after = StepSizes(reach=reach, signs=signs, scale=scale)
    if not counted:
        return Step(shares=dict(shares), sizes=after, radius=0.0, divergence=0.0, is_limited=False)
    surest = max(advantage.significance for advantage in counted.values())
    radius = trust * min((surest / z) ** 2, MOST_WIDENING)
    direction = {name: reach[name] * advantage.value / scale for name, advantage in counted.items()}
    full = _moved(shares, direction, 1.0)
    if divergence(full, shares) <= radius:
        return Step(shares=full, sizes=after, radius=radius, divergence=divergence(full, shares), is_limited=False)
    from scipy.optimize import brentq  # half a second to import: only where a step is limited

    part = float(brentq(lambda part: divergence(_moved(shares, direction, part), shares) - radius, 0.0, 1.0, xtol=1e-9))
    limited = _moved(shares, direction, part)
    return Step(shares=limited, sizes=after, radius=radius, divergence=radius, is_limited=True)


def divergence(new: Mapping[str, float], old: Mapping[str, float]) -> float:
    """KL(new | old) in nats, of shares that sum to the same."""
    return fsum(share * log(share / old[name]) for name, share in new.items() if share > 0)


def _moved(shares: Mapping[str, float], direction: Mapping[str, float], part: float) -> dict[str, float]:
    """``shares`` after ``part`` of a step in log-shares, with the sum that they had."""
    weights = {name: share * exp(part * direction.get(name, 0.0)) for name, share in shares.items()}
    scale = fsum(shares.values()) / fsum(weights.values())
    return {name: weight * scale for name, weight in weights.items()}
