"""The policy that follows a drawn curve: shares piecewise linear in progress, whatever is measured.

Annealing to real data, a synthetic warm start and the published fixed curricula are all such curves. The curve starts
at the recipe's ``mixture.shares`` at progress 0 and stays at its last point to the end.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.base import config as base
from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.bounds import check_names
from trainer.control.policies.protocol import PlainState, no_needs, unexplained
from trainer.mixture.shares import HALF_A_MILLIONTH, millionths, rounded, step_of


class SchedulePoint(base.Config):
    """The shares at one moment of the run."""

    at: float = Field(ge=0, le=1, description="progress of the run: 0 at its start, 1 at its end")
    shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        description="share of every source, in whole millionths; sums to 1"
    )

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = fsum(self.shares.values())
        if abs(total - 1) > HALF_A_MILLIONTH:
            raise ValueError(f"shares at {self.at} must sum to 1, got {total:.9g}")
        millionths(self.shares)  # a ValueError of its own
        return self


class ScheduleConfig(base.Config):
    """Shares that change linearly between the given points."""

    kind: Literal["schedule"]
    points: tuple[SchedulePoint, ...] = Field(
        min_length=1,
        description="the curve, in order of `at`: from mixture.shares at 0 to the first point, level after the last",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        places = [point.at for point in self.points]
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise ValueError(f"points must be in rising order of `at`, got {places}")
        return self


@dataclass(frozen=True, kw_only=True)
class ScheduleState(PlainState):
    """The shares at the start of the run, in millionths."""

    start: Mapping[str, int]


kind = "schedule"
Config = ScheduleConfig
State = ScheduleState
needs = no_needs
explain = unexplained


def begin(config: ScheduleConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> ScheduleState:
    """Remember the curve's start; ``UserError`` for unknown or missing sources and for a start that is not
    ``shares``."""
    for point in config.points:
        check_names(f"points: the point at {point.at}", point.shares, shares)
        for name in shares:
            if name not in point.shares:
                raise UserError(
                    f"control.policy.points: the point at {point.at} has no share for source {name!r}",
                    remedy="Give every source a share at every point; 0 is allowed.",
                )
    first = config.points[0]
    if first.at == 0 and millionths(first.shares) != dict(shares):
        raise UserError(
            "control.policy.points: the point at 0 differs from mixture.shares, which are in force at the start",
            got=first.shares,
            remedy="Make the two equal, or leave the point at 0 out.",
        )
    return ScheduleState(start=dict(shares))


def propose(config: ScheduleConfig, state: ScheduleState, observation: Observation) -> tuple[ScheduleState, Proposal]:
    """The point of the curve at ``observation.progress``, linear between its neighbors, in thousandths or, where a
    point is finer, in millionths."""
    points = [(point.at, dict(point.shares)) for point in config.points]
    if points[0][0] > 0:
        points.insert(0, (0.0, {name: share / SHARE_ONE for name, share in state.start.items()}))
    written = [round(share * SHARE_ONE) for _, point in points for share in point.values()]
    step = step_of([*observation.shares.values(), *written])
    right = bisect_right([at for at, _ in points], observation.progress)
    before_at, before = points[right - 1]
    right_at, after = points[min(right, len(points) - 1)]
    part = (observation.progress - before_at) / (right_at - before_at) if right_at > before_at else 0.0
    targets = {name: before[name] * (1 - part) + after[name] * part for name in observation.shares}
    reason = (
        f"The schedule is at progress {observation.progress:.3f}, between its points at {before_at:g} and {right_at:g}."
    )
    if right_at == before_at:
        reason = f"The schedule is at progress {observation.progress:.3f}, at or after its last point at {before_at:g}."
    evidence = {"progress": observation.progress, "targets": targets}
    return state, Proposal(shares=rounded(targets, step=step), reason=reason, evidence=evidence)
