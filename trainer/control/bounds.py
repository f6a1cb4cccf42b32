"""Floors and ceilings that a recipe sets on single sources, and shares kept within them.

Every policy that moves shares takes the same two settings, so a bound means the same under each of them.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from math import fsum
from typing import Annotated, Self

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind
from trainer.mixture.shares import FUZZ, rounded, rounded_down, rounded_up, step_of, within

LEAST_WEIGHT = 1e-12  # of all: a weight of 0 keeps its floor, and can be scaled

Share = Annotated[float, Field(ge=0, le=1)]


class Bounds(Config):
    """The part of a policy's settings that bounds single sources."""

    floors: dict[str, Share] = Field(default_factory=dict, description="least share of single sources")
    ceilings: dict[str, Share] = Field(
        default_factory=dict, description="greatest share of single sources; 1 where none is given"
    )

    @model_validator(mode="after")
    def _floors_lie_below_ceilings(self) -> Self:
        for name, least in self.floors.items():
            if least > self.ceilings.get(name, 1.0):
                raise ValueError(f"the floor of {name}, {least}, lies above its ceiling, {self.ceilings[name]}")
        return self


def check_names(field: str, names: Mapping[str, object], shares: Mapping[str, int]) -> None:
    """``UserError`` when ``field`` of the policy names a source that is not in ``shares``."""
    for name in names:
        if name not in shares:
            near = get_close_matches(name, shares, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"The sources are {', '.join(shares)}."
            raise UserError(f"control.policy.{field} names an unknown source", got=name, remedy=remedy)


def check_bounds(bounds: Bounds, shares: Mapping[str, int]) -> None:
    """``UserError`` for bounds on unknown sources, or that the start ``shares`` (millionths) lie outside of."""
    check_names("floors", bounds.floors, shares)
    check_names("ceilings", bounds.ceilings, shares)
    for name, share in shares.items():
        if not bounds.floors.get(name, 0.0) - FUZZ <= share / SHARE_ONE <= bounds.ceilings.get(name, 1.0) + FUZZ:
            raise UserError(
                f"mixture.shares starts source {name!r} outside its floor and ceiling in control.policy",
                got=share / SHARE_ONE,
                remedy="Change the share, or the bounds.",
            )


def least_real_shares(real_floor: float, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, float]:
    """The floor of all real sources together, divided between them in proportion to their start ``shares``."""
    real = {name: share for name, share in shares.items() if kinds[name] == "real"}
    total = sum(real.values())
    return {name: real_floor * share / total for name, share in real.items()} if total else {}


def drawn(shares: Mapping[str, int]) -> list[str]:
    """The sources with a share above 0: only their shares can move, since a 0 is for good."""
    return [name for name, share in shares.items() if share > 0]


def kept_within(
    bounds: Bounds, weights: Mapping[str, float], shares: Mapping[str, int], *, least: float = 0.0
) -> dict[str, int]:
    """Shares in proportion to ``weights`` as far as the bounds allow, in millionths; sources without a weight get 0.

    Those outside a bound are put on it and the rest are scaled: s_k = min(c_k, max(f_k, lambda w_k)), with the lambda
    that makes them sum to 1. ``least`` is the floor of a source that has none by name, and no more than what the
    source has in ``shares`` now. Ceilings that leave less than 1 in all (sources were cut) give way in proportion.
    """
    positive = normalized({name: max(weight, 0.0) for name, weight in weights.items()})
    positive = {name: max(weight, LEAST_WEIGHT) for name, weight in positive.items()}
    step = step_within(bounds, shares)
    floors = {name: _floor(bounds, name, shares.get(name, 0), least, step) for name in weights}
    ceilings = {name: max(rounded_down(bounds.ceilings.get(name, 1.0), step), step) for name in weights}
    bounded = within(positive, floors, ceilings, total=SHARE_ONE)
    return rounded({name: bounded.get(name, 0.0) for name in shares}, step=step)


def step_within(bounds: Bounds, shares: Mapping[str, int]) -> int:
    """The step of a decision on ``shares``, in millionths: fine enough for them and for the bounds as written."""
    written = (*bounds.floors.values(), *bounds.ceilings.values())
    return step_of([*shares.values(), *(round(bound * SHARE_ONE) for bound in written)])


def _floor(bounds: Bounds, name: str, share: int, least: float, step: int) -> int:
    """In whole steps, at least one: a 0 is for good, and no policy means that. A floor by name always holds; the
    general one never forces a source up."""
    if name in bounds.floors:
        return max(step, rounded_up(bounds.floors[name], step))
    return max(step, min(share // step * step, rounded_up(least, step)))


def normalized(weights: Mapping[str, float]) -> dict[str, float]:
    """``weights`` divided by their sum."""
    total = fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
