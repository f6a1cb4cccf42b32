"""Online data mixing as `fms-acceleration-odm` releases it: another EXP3, without decay of its exploration.

From foundation-model-stack/fms-acceleration (plugins/online-data-mixing, `OnlineMixingDataset._update_weights`), with
its defaults gamma = 0.1 and eta = 0.3 and its reward TRAIN_LOSS, the last training loss of each of the K categories:

    w_k <- w_k exp(eta (r_k / pi_k) / K)           pi_k = (1 - gamma) w_k / sum_j w_j + gamma / K

with pi_k in the update the share under which the loss was measured. One update is made at each evaluation. Of the
plugin's rewards this is the one whose evidence is in a run anyway; there, a step's loss goes to the category that was
sampled last, here each source has its own. The weights are kept as logarithms, since the products of the original
overflow in long runs (a loss of 4 at a share of 0.1 with three arms multiplies by e^4 at each update); while they do
not, the shares are equal. They start from the shares of the recipe (`sampling_weights` there).

Rewards are never forgotten and each update adds one, so that small differences in loss add up to a mixture of one
source and the exploration: the longer it runs the more it believes that the highest loss is the best source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import Literal

import numpy as np
from pydantic import Field

from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, check_bounds, drawn, kept_within
from trainer.control.policies.protocol import PlainState, loss_needs, unexplained
from trainer.control.policies.published.losses import mean_losses


class FmsOdmConfig(Bounds):
    """Share to the sources with a high training loss, by the rule of fms-acceleration-odm."""

    kind: Literal["fms_odm"]
    gamma: float = Field(default=0.1, ge=0, le=1, description="part that is divided equally, to explore")
    eta: float = Field(default=0.3, gt=0, description="step size of the exponential update")


@dataclass(frozen=True, kw_only=True)
class FmsOdmState(PlainState):
    """The logarithm of each source's weight, and its last loss in nats per token."""

    log_weights: Mapping[str, float]
    losses: Mapping[str, float] = field(default_factory=dict)


kind = "fms_odm"
Config = FmsOdmConfig
State = FmsOdmState
needs = loss_needs
explain = unexplained


def begin(config: FmsOdmConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> FmsOdmState:
    """Weights at the start shares, no losses; ``UserError`` for bounds on unknown sources or against the start."""
    check_bounds(config, shares)
    return FmsOdmState(log_weights={name: log(shares[name] / SHARE_ONE) for name in drawn(shares)})


def propose(config: FmsOdmConfig, state: FmsOdmState, observation: Observation) -> tuple[FmsOdmState, Proposal]:
    """The shares of the bandit after one update with the last loss of every source."""
    losses = {**state.losses, **mean_losses(observation)}
    names = drawn(observation.shares)
    log_weights = {
        name: state.log_weights[name]
        + config.eta * losses.get(name, 0.0) / (observation.shares[name] / SHARE_ONE) / len(names)
        for name in names
    }
    greatest = max(log_weights.values())
    log_weights = {name: value - greatest for name, value in log_weights.items()}  # a common factor has no effect
    weight_K = np.exp(list(log_weights.values()))
    share_K = (1 - config.gamma) * weight_K / weight_K.sum() + config.gamma / len(names)
    weights = dict(zip(names, share_K.tolist(), strict=True))
    state = FmsOdmState(log_weights=log_weights, losses={name: losses[name] for name in names if name in losses})
    evidence = {"sources": {name: {"loss": losses.get(name), "weight": weights[name]} for name in names}}
    reason = f"The bandit gives most to {max(weights, key=weights.__getitem__)}, by its training loss."
    return state, Proposal(shares=kept_within(config, weights, observation.shares), reason=reason, evidence=evidence)
