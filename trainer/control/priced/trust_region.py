"""How far shares go on evidence: exponentiated gradient inside a trust region that the evidence itself sizes.

log p_k += e_k gap_k, KL(new | old) <= radius. Two things keep it from swinging: gaps are measured against the greatest
one seen, so that steps shrink as a run comes near the place where all sources are worth the same; and a source whose
gap changes its sign goes half as far next time (Rprop, Riedmiller and Braun 1993). The radius is ``trust`` for
evidence that just counts and grows with its square, like the log likelihood ratio z^2/2 that the gap is not zero (0.02
at 1.5 standard errors is a fiftieth of it). So a doubtful gap moves little, and a source that is plainly worthless is
at its floor after one decision or two: under a fixed 0.02 it takes eight, and tokens wasted by then are not won back
(experiments: E11).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, fsum, log

from trainer.control.priced.estimates import Estimate

MOST_WIDENING = 100.0  # of the radius: at 0.02 that is enough to go from 0.8 to 0.01 at once
FIRST_REACH, LEAST_REACH = 2.0, 0.1  # of the log-share of the source with the greatest gap
SHRINK, GROW = 0.5, 1.2
SCALE_MEMORY = 0.98  # the greatest gap seen fades, so that what happened long ago does not make steps small


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How far each source may go (``reach``), on which side of the others it was, and the greatest gap seen."""

    reach: Mapping[str, float]
    sides: Mapping[str, int]
    scale: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """New shares (sum as before), the pace after, and whether the trust region held the step back."""

    shares: dict[str, float]
    pace: Pace
    radius: float
    divergence: float
    is_held_back: bool


def step(shares: Mapping[str, float], known: Mapping[str, Estimate], pace: Pace, *, z: float, trust: float) -> Step:
    """``shares`` after the evidence; sources whose gap is within ``z`` standard errors of zero do not move of
    themselves."""
    counted = {name: gap for name, gap in known.items() if gap.significance > z and shares.get(name, 0.0) > 0}
    scale = max([SCALE_MEMORY * pace.scale, *(abs(gap.value) for gap in counted.values())])
    reach, sides = dict(pace.reach), dict(pace.sides)
    for name, gap in counted.items():
        side = 1 if gap.value > 0 else -1
        before = reach.get(name, FIRST_REACH)
        turned = sides.get(name, 0) * side
        reach[name] = max(LEAST_REACH, before * SHRINK) if turned < 0 else min(FIRST_REACH, before * GROW**turned)
        sides[name] = side
    after = Pace(reach=reach, sides=sides, scale=scale)
    if not counted:
        return Step(shares=dict(shares), pace=after, radius=0.0, divergence=0.0, is_held_back=False)
    surest = max(gap.significance for gap in counted.values())
    radius = trust * min((surest / z) ** 2, MOST_WIDENING)
    way = {name: reach[name] * gap.value / scale for name, gap in counted.items()}
    whole = _gone(shares, way, 1.0)
    if divergence(whole, shares) <= radius:
        return Step(shares=whole, pace=after, radius=radius, divergence=divergence(whole, shares), is_held_back=False)
    from scipy.optimize import brentq  # half a second to import: only where a step is held back

    part = float(brentq(lambda part: divergence(_gone(shares, way, part), shares) - radius, 0.0, 1.0, xtol=1e-9))
    return Step(shares=_gone(shares, way, part), pace=after, radius=radius, divergence=radius, is_held_back=True)


def divergence(new: Mapping[str, float], old: Mapping[str, float]) -> float:
    """KL(new | old) in nats, of shares that sum to the same."""
    return fsum(share * log(share / old[name]) for name, share in new.items() if share > 0)


def _gone(shares: Mapping[str, float], way: Mapping[str, float], part: float) -> dict[str, float]:
    weights = {name: share * exp(part * way.get(name, 0.0)) for name, share in shares.items()}
    scale = fsum(shares.values()) / fsum(weights.values())
    return {name: weight * scale for name, weight in weights.items()}
