"""Excess loss: sources further above the loss they should reach get more (DoReMi in the form of Sheared-LLaMA).

DoReMi (Xie et al., arXiv 2305.10429) raises domains whose loss exceeds that of a reference model; Sheared-LLaMA (Xia
et al., arXiv 2310.06694; released as princeton-nlp/LLM-Shearing, `DynamicLoadingCallback.update_proportion`) does it in
the run itself, against a target loss for each domain, at each evaluation and without clipping at 0:

    pi <- (1 - c) softmax(ln pi + eta (loss - target)) + c / K          eta = 1, c = 1e-4

over the K sources drawn. The loss is the training loss since the evaluation before; a source without one keeps its
last. Targets are stated in the recipe, or fitted: until progress ``fit_until`` the shares stay and a power law is
fitted to the losses of each source, whose value at the end of the run is its target (the authors fit theirs to other
models of the family).

It looks at each source by itself: what training on a synthetic source does to real text it cannot see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, check_bounds, check_names, drawn, kept_within
from trainer.control.policies.protocol import PlainState, loss_needs, unexplained
from trainer.control.policies.published.losses import mean_losses
from trainer.control.policies.published.power_law import MIN_POINTS, fit


class DoremiConfig(Bounds):
    """Share to the sources whose training loss lies furthest above its target."""

    kind: Literal["doremi"]
    targets: dict[str, float] | None = Field(
        default=None, description="loss that each source should reach, nats per token"
    )
    fit_until: float | None = Field(
        default=None, gt=0, lt=1, description="progress until which targets are fitted, in place of stating them"
    )
    eta: float = Field(default=1.0, gt=0, description="step size of the exponential update, per nat of excess")
    smoothing: float = Field(default=1e-4, ge=0, lt=1, description="part that is divided equally")

    @model_validator(mode="after")
    def _one_way_to_a_target(self) -> Self:
        if (self.targets is None) == (self.fit_until is None):
            raise ValueError("doremi needs either targets or fit_until, and not both")
        return self


@dataclass(frozen=True, kw_only=True)
class DoremiState(PlainState):
    """Target and last loss of each source, nats per token; ``history``: losses until targets are fitted."""

    targets: Mapping[str, float] | None
    losses: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


kind = "doremi"
Config = DoremiConfig
State = DoremiState
needs = loss_needs
explain = unexplained


def begin(config: DoremiConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> DoremiState:
    """The targets, if they are stated. ``UserError`` for bounds and targets that do not match the sources."""
    check_bounds(config, shares)
    if config.targets is not None:
        check_names("targets", config.targets, shares)
        if missing := [name for name in drawn(shares) if name not in config.targets]:
            raise UserError(
                f"control.policy.targets has no loss for {', '.join(missing)}",
                got=config.targets,
                remedy="Give each source its target in nats per token, or fit_until to have them fitted.",
            )
    return DoremiState(targets=config.targets)


def propose(config: DoremiConfig, state: DoremiState, observation: Observation) -> tuple[DoremiState, Proposal]:
    """Shares after one exponential update with the excess losses; those in force while targets are being fitted."""
    new = mean_losses(observation)
    state = replace(state, losses={**state.losses, **new})
    if config.fit_until is not None and state.targets is None:
        state = replace(state, history=[*state.history, {"progress": observation.progress, "losses": new}])
        if observation.progress < config.fit_until:
            reason = f"Target losses are fitted from progress {config.fit_until:g} on (now {observation.progress:.3f})."
            return state, Proposal(shares=dict(observation.shares), reason=reason)
        fitted = _fitted(state.history, drawn(observation.shares))
        if fitted is None:
            reason = f"Fewer than {MIN_POINTS} losses of some source, too few to fit its target."
            return state, Proposal(shares=dict(observation.shares), reason=reason)
        state = replace(state, targets=fitted, history=())
    names, targets = drawn(observation.shares), state.targets or {}
    excess = {name: state.losses[name] - targets[name] if name in state.losses else 0.0 for name in names}
    logit_K = np.array([np.log(observation.shares[name] / SHARE_ONE) + config.eta * excess[name] for name in names])
    weight_K = np.exp(logit_K - logit_K.max())
    share_K = (1 - config.smoothing) * weight_K / weight_K.sum() + config.smoothing / len(names)
    weights = dict(zip(names, share_K.tolist(), strict=True))
    evidence = {
        "sources": {
            name: {
                "loss": state.losses.get(name),
                "target": targets[name],
                "excess": excess[name],
                "weight": weights[name],
            }
            for name in names
        }
    }
    most = max(names, key=excess.__getitem__)
    reason = f"{most} is furthest above its target, by {excess[most]:.3f} nats per token."
    return state, Proposal(shares=kept_within(config, weights, observation.shares), reason=reason, evidence=evidence)


def _fitted(history: Sequence[Mapping[str, Any]], names: list[str]) -> dict[str, float] | None:
    """The loss of each source at progress 1, by its power law over progress; None when one cannot be fitted."""
    targets = {}
    for name in names:
        points = [(row["progress"], row["losses"][name]) for row in history if name in row["losses"]]
        law = fit([place for place, _ in points], [loss for _, loss in points])
        if law is None:
            return None
        targets[name] = law(1.0)
    return targets
