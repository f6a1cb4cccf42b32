"""Aioli, aimed at real text: sources gain share by how much trial steps on them lower the held-out real loss.

Aioli (Chen et al., arXiv 2411.05735; released as HazyResearch/aioli) learns A_ij, the drop of the validation loss of
group i after some steps of training on group j, and sets pi_j to exp(eta sum_i A_ij). Only held-out real loss counts
here, so there is one row i. The steps are our trial steps: on one source alone, from the present weights, and undone
afterwards. So no training is spent on them, they do not change what the next ones measure, and, being on one source
(their one_hot_factor 1), they need no system of equations to tell sources apart. As in the released code:

    A_j <- A_j - min(0, min_i A_i), then A_j <- A_j / sum_i A_i         (aioli_normalize_A)
    Abar_j <- (1 - ema) A_j + ema Abar_j                               (ema = 0.1)
    pi_j = pi0_j exp(eta Abar_j) / Z                                    (eta = 0.2)

with pi0 the shares at the start, equal ones in the original. A source value is a drop in units of what fresh real text
gains, a unit that the normalization removes. One update is made at each evaluation with a measurement.

Since the A_j sum to 1, shares move by a factor of exp(eta) at most: the rule leans, it does not decide. Without ema
(null) the factors add up over evaluations, pi_j <- pi_j exp(eta A_j) / Z, which the released code does too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import exp, inf
from typing import Literal

from pydantic import Field

from trainer.base.records import Kind, Observation, Proposal
from trainer.control.bounds import Bounds, check_bounds, drawn, kept_within, normalized
from trainer.control.policies.protocol import Needs, PlainState, unexplained
from trainer.control.source_scores import usable


class AioliConfig(Bounds):
    """Share by what trial steps on a source gain on held-out real text."""

    kind: Literal["aioli"]
    eta: float = Field(default=0.2, gt=0, description="step size of the exponential update")
    ema: float | None = Field(
        default=0.1, ge=0, lt=1, description="weight of earlier measurements; null: updates add up instead"
    )
    warm_up: float = Field(default=0.0, ge=0, lt=1, description="progress before which no source value is measured")


@dataclass(frozen=True, kw_only=True)
class AioliState(PlainState):
    """The start shares in millionths, and the averaged gain of each source."""

    start: Mapping[str, int]
    gains: Mapping[str, float] = field(default_factory=dict)


kind = "aioli"
Config = AioliConfig
State = AioliState
explain = unexplained


def begin(config: AioliConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> AioliState:
    """The start shares; ``UserError`` for bounds on unknown sources or against the start."""
    check_bounds(config, shares)
    return AioliState(start=dict(shares))


def needs(config: AioliConfig, max_epochs: float = inf) -> Needs:
    """Source values, after the warm-up."""
    return Needs(source_value_from=config.warm_up)


def propose(config: AioliConfig, state: AioliState, observation: Observation) -> tuple[AioliState, Proposal]:
    """Shares after the trial steps of this evaluation; those in force when not every source has a usable value."""
    names = drawn(observation.shares)
    source_value = {
        name: observation.source_value[name].value
        for name in names
        if name in observation.source_value and usable(observation.source_value[name])
    }
    if observation.progress < config.warm_up or len(source_value) < len(names):
        missing = [name for name in names if name not in source_value]
        reason = (
            f"No trial steps were made on {', '.join(missing)} at this evaluation." if missing else "It is too early."
        )
        return state, Proposal(shares=dict(observation.shares), reason=reason)
    lowest = min(0.0, *source_value.values())
    gains = {name: value - lowest for name, value in source_value.items()}
    if not any(gains.values()):
        return state, Proposal(shares=dict(observation.shares), reason="No trial steps gained anything.")
    gains = normalized(gains)
    base: Mapping[str, int] = observation.shares
    if config.ema is not None:
        before = state.gains
        gains = {name: (1 - config.ema) * gain + config.ema * before.get(name, gain) for name, gain in gains.items()}
        base = state.start
    weights = normalized({name: base[name] * exp(config.eta * gain) for name, gain in gains.items()})
    evidence = {
        "sources": {
            name: {"source_value": source_value[name], "gain": gains[name], "weight": weights[name]} for name in names
        }
    }
    reason = f"Trial steps gain most on {max(gains, key=gains.__getitem__)}."
    state = replace(state, gains=gains)
    return state, Proposal(shares=kept_within(config, weights, observation.shares), reason=reason, evidence=evidence)
