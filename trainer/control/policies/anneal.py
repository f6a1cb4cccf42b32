"""The policy that anneals to real text: over a stated part of the run the real share goes to a stated value.

What practice does without measuring anything: the best text last, while the learning rate falls (the annealing phase of
Llama 3, arXiv 2407.21783, and of OLMo 2, arXiv 2501.00656). With p the progress and x = (p - from) / (to - from) in
[0, 1], the real share is r(p) = r0 + (r1 - r0) f(x), where f(x) = x (linear) or (1 - cos(pi x)) / 2 (cosine). Within
real and within synthetic the sources keep the proportions they start with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, fsum, pi
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainer.base import config as base
from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.policies.protocol import PlainState, no_needs, unexplained
from trainer.mixture.shares import is_whole, rounded, step_of, with_real

Part = Annotated[float, Field(ge=0, le=1)]


class AnnealConfig(base.Config):
    """Move the real share from that of the recipe to another one, over a part of the run."""

    kind: Literal["anneal"]
    real_share: Part = Field(default=1.0, description="share of all real sources together, at the end")
    start: Part = Field(default=0.0, description="progress at which the change begins")
    end: Part = Field(default=1.0, description="progress at which it is complete")
    shape: Literal["linear", "cosine"] = Field(default="linear", description="of the change between the two")

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start {self.start:g} must lie before end {self.end:g}")
        return self

    @field_validator("real_share")
    @classmethod
    def _is_kept(cls, share: float) -> float:
        if not is_whole(share):
            raise ValueError(
                f"shares are kept in whole millionths, which {share:.12g} is not; the nearest is {share:.6f}"
            )
        return share


@dataclass(frozen=True, kw_only=True)
class AnnealState(PlainState):
    """The shares at the start of the run, in millionths."""

    start: Mapping[str, int]


kind = "anneal"
Config = AnnealConfig
State = AnnealState
needs = no_needs
explain = unexplained


def begin(config: AnnealConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> AnnealState:
    """Remember the start; ``UserError`` when a kind that is to have a share has none at the start."""
    for kind, share_of_kind in (("real", config.real_share), ("synthetic", 1 - config.real_share)):
        if share_of_kind > 0 and not any(share for name, share in shares.items() if kinds[name] == kind):
            raise UserError(
                f"control.policy.real_share: no {kind} source has a share to grow from",
                got=config.real_share,
                remedy=f"Give a {kind} source a share in mixture.shares, or change real_share.",
            )
    return AnnealState(start=dict(shares))


def propose(config: AnnealConfig, state: AnnealState, observation: Observation) -> tuple[AnnealState, Proposal]:
    """The point of the curve at ``observation.progress``; sources at 0, for they were cut, are passed over."""
    place = min(1.0, max(0.0, (observation.progress - config.start) / (config.end - config.start)))
    part = place if config.shape == "linear" else (1 - cos(pi * place)) / 2
    start = {name: state.start[name] / SHARE_ONE for name in observation.shares}
    real = _real(config, start, observation.kinds, part)
    remaining = {name: share for name, share in start.items() if observation.shares[name] > 0}
    if {observation.kinds[name] for name, share in remaining.items() if share > 0} != {"real", "synthetic"}:
        return state, Proposal(
            shares=dict(observation.shares), reason="Only one kind of data is left, so the shares stay."
        )
    step = step_of([*observation.shares.values(), *state.start.values(), round(config.real_share * SHARE_ONE)])
    targets = {**dict.fromkeys(observation.shares, 0.0), **with_real(remaining, observation.kinds, real)}
    shares = rounded(targets, step=step)
    reason = (
        f"At progress {observation.progress:.3f} the real share is due to be {real:.{3 if step > 1 else 6}f}, "
        f"on its way to {config.real_share:g}."
    )
    return state, Proposal(
        shares=shares, reason=reason, evidence={"progress": observation.progress, "real_share": real}
    )


def mean_shares(config: AnnealConfig, start: Mapping[str, float], kinds: Mapping[str, Kind]) -> dict[str, float]:
    """The share of each source over the whole run, from its share at the start: both shapes are half way on average."""
    part = (config.end - config.start) / 2 + 1 - config.end
    return with_real(start, kinds, _real(config, start, kinds, part))


def _real(config: AnnealConfig, start: Mapping[str, float], kinds: Mapping[str, Kind], part: float) -> float:
    """The real share when a part of the change is made."""
    before = fsum(share for name, share in start.items() if kinds[name] == "real")
    return before + (config.real_share - before) * part
