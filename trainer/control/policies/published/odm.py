"""Online Data Mixing: sources with a high training loss get more (Albalak, Pan, Raffel, Wang, arXiv 2312.02406).

A bandit whose arms are the sources and whose reward is their training loss, as in the released code
(alon-albalak/online-data-mixing). With K sources, t the training step and e_t = min(1/K, sqrt(ln K / (K t))):

    exp3           R_k += (loss_k / 10) / pi_k            pi_k = (1 - K e_t) exp(e_(t-1) R_k) / Z + e_t
    smoothed_mean  m_k  = 0.9 m_k + 0.1 exp(loss_k)       pi_k = (1 - K e_t) m_k / sum_j m_j + e_t

The first is the algorithm of the paper (EXP3, Auer et al. 2002), the second what was released for use, linear in a
smoothed perplexity. One update is made at each evaluation, with the mean loss since the one before: what the released
code does with its update_frequency set to the steps between evaluations, which also passes it the step as t. A source
without a loss keeps its reward.

What it cannot know: a high loss may be noise. It raises broken text as readily as hard text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Literal

import numpy as np
from pydantic import Field

from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, check_bounds, drawn, kept_within
from trainer.control.policies.protocol import PlainState, loss_needs, unexplained
from trainer.control.policies.published.losses import mean_losses

REWARD_SCALE = 10.0  # nats: what the released exp3 divides a loss by
SMOOTHING = 0.9


class OdmConfig(Bounds):
    """Share to the sources with a high training loss, by a bandit."""

    kind: Literal["odm"]
    rule: Literal["smoothed_mean", "exp3"] = Field(
        default="smoothed_mean", description="the update as released, or that of the paper"
    )
    warm_up: float = Field(
        default=0.05, ge=0, lt=1, description="progress before which the shares stay (the authors wait 2,000 steps)"
    )


@dataclass(frozen=True, kw_only=True)
class OdmState(PlainState):
    """The reward of each source, and the exploration of the update before."""

    rewards: Mapping[str, float] = field(default_factory=dict)
    exploration: float


kind = "odm"
Config = OdmConfig
State = OdmState
needs = loss_needs
explain = unexplained


def begin(config: OdmConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> OdmState:
    """No rewards yet; ``UserError`` for bounds on unknown sources or against the start."""
    check_bounds(config, shares)
    return OdmState(exploration=1 / max(1, len(drawn(shares))))


def propose(config: OdmConfig, state: OdmState, observation: Observation) -> tuple[OdmState, Proposal]:
    """The shares of the bandit after the losses since the evaluation before."""
    if observation.progress < config.warm_up:
        reason = f"Online data mixing waits until progress {config.warm_up:g} (now {observation.progress:.3f})."
        return state, Proposal(shares=dict(observation.shares), reason=reason)
    losses = mean_losses(observation)
    names = drawn(observation.shares)
    rewards = dict(state.rewards)
    for name in names:
        if name in losses:
            rewards[name] = _rewarded(config, rewards.get(name), losses[name], observation.shares[name] / SHARE_ONE)
    rewarded = [name for name in names if name in rewards]
    if not rewarded:
        reason = "No source has a training loss yet."
        return state, Proposal(shares=dict(observation.shares), reason=reason)
    exploration = min(1 / len(names), sqrt(log(len(names)) / (len(names) * max(1, observation.step))))
    # The reward of exp3 adds up and is scaled by the exploration before; that of the other is a logarithm already.
    scale = state.exploration if config.rule == "exp3" else 1.0
    logit_K = scale * np.array([rewards[name] for name in rewarded])
    part_K = np.exp(logit_K - logit_K.max())
    part_K /= part_K.sum()
    exploited = dict(zip(rewarded, part_K.tolist(), strict=True))
    weights = {name: (1 - len(names) * exploration) * exploited.get(name, 0.0) + exploration for name in names}
    state = OdmState(rewards=rewards, exploration=exploration)
    evidence = {
        "sources": {name: {"loss": losses.get(name), "weight": weights[name]} for name in names},
        "exploration": exploration,
    }
    reason = f"Online data mixing gives most to {max(weights, key=weights.__getitem__)}, by its training loss."
    return state, Proposal(shares=kept_within(config, weights, observation.shares), reason=reason, evidence=evidence)


def _rewarded(config: OdmConfig, before: float | None, loss: float, share: float) -> float:
    """The reward after ``loss``: the sum R_k, or ln m_k (a logarithm, so that no loss can overflow it)."""
    if config.rule == "exp3":
        return (before or 0.0) + loss / REWARD_SCALE / share
    new = log(1 - SMOOTHING) + loss
    return new if before is None else float(np.logaddexp(log(SMOOTHING) + before, new))
