"""Policy and guard make a decision: the policy proposes shares, the guard disposes.

Pure: configuration, state and observation in, state and decision out, all of it plain values, so that the same readings
give the same decisions on every machine and after every resume (the state goes into the checkpoint as JSON, whose
floats survive exactly).
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from trainer.base.config import Config
from trainer.base.records import SHARE_ONE, Action, Decision, Kind, Observation, Proposal, Verdict
from trainer.control.guard import guard
from trainer.control.guard.guard import GuardConfig
from trainer.control.policies import POLICIES, ConstantConfig, PolicyConfig
from trainer.mixture.shares import without


class ControlConfig(Config):
    """How the shares are steered, and what guards the run."""

    policy: PolicyConfig = Field(default_factory=ConstantConfig, description="what proposes shares")
    guard: GuardConfig = Field(default_factory=GuardConfig, description="what may veto, cut, roll back or stop")


def initial_state(config: ControlConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The state before the first reading, from the start ``shares`` in millionths; ``UserError`` where they do not
    fit."""
    return {
        "policy": POLICIES[config.policy.kind].begin(config.policy, shares, kinds),
        "guard": guard.begin(),
        "cut": [],
    }


def source_value_from(config: ControlConfig) -> float | None:
    """Progress from which the worth of the sources has to be measured at each reading; None for never."""
    if config.guard.enabled and config.guard.measure_source_value:
        return 0.0
    return POLICIES[config.policy.kind].source_value_from(config.policy)


def gradient_alignment_from(config: ControlConfig) -> float | None:
    """Progress from which the alignment of the sources' gradients has to be measured; None for never."""
    return POLICIES[config.policy.kind].gradient_alignment_from(config.policy)


def forgetting_from(config: ControlConfig, max_epochs: float) -> float | None:
    """Progress from which it has to be measured how fast the model forgets, with so many epochs of real data allowed;
    None for never."""
    return POLICIES[config.policy.kind].forgetting_from(config.policy, max_epochs)


def reads_losses(config: ControlConfig) -> bool:
    """Whether the policy cannot work without the training loss by source."""
    return POLICIES[config.policy.kind].reads_losses


def decide(config: ControlConfig, state: dict[str, Any], observation: Observation) -> tuple[dict[str, Any], Decision]:
    """The decision on ``observation`` and the state after it; shares sum to ``SHARE_ONE`` and hold from the next step
    on.

    A reading that cannot decide keeps the shares and the state. Under a warning the policy may move, but not so that
    any synthetic source gains. A source that the guard cut stays at 0 for the rest of the run, whatever the policy
    proposes.
    """
    why_not = guard.fault(observation.evaluation)
    if why_not is not None:
        return state, _decision(
            observation, "keep", observation.shares, f"The reading decides nothing: {why_not}.", {"usable": False}
        )
    guard_state, verdict = guard.judge(config.guard, state["guard"], observation)
    policy_state, proposal = POLICIES[config.policy.kind].propose(config.policy, state["policy"], observation)
    state = {**state, "guard": guard_state, "policy": policy_state}
    evidence = {"policy": dict(proposal.evidence), "guard": dict(verdict.evidence)}
    match verdict.action:
        case "cut" | "rollback" | "stop":
            return _acted(state, observation, verdict, evidence)
        case "ok" | "warn":
            shares, reason = _allowed(state, observation, verdict, proposal)
            moved: Action = "keep" if shares == dict(observation.shares) else "move"
            action: Action = "warn" if verdict.action == "warn" else moved
            return state, _decision(observation, action, shares, reason, evidence)


def _allowed(
    state: dict[str, Any], observation: Observation, verdict: Verdict, proposal: Proposal
) -> tuple[dict[str, int], str]:
    """The proposal without the sources that were cut, or the shares in force when a warning forbids it; and why."""
    wanted = without(proposal.shares, state["cut"], observation.kinds)
    if wanted is None:
        return dict(
            observation.shares
        ), f"{proposal.reason} Only sources that were cut would be left, so the shares stay."
    if verdict.action == "ok":
        return wanted, proposal.reason
    gaining = [
        name for name in wanted if observation.kinds[name] == "synthetic" and wanted[name] > observation.shares[name]
    ]
    if gaining:
        return dict(
            observation.shares
        ), f"{verdict.reason} So {', '.join(gaining)} may not gain share now. {proposal.reason}"
    return wanted, f"{verdict.reason} {proposal.reason}"


def _acted(
    state: dict[str, Any], observation: Observation, verdict: Verdict, evidence: dict[str, Any]
) -> tuple[dict[str, Any], Decision]:
    """What the guard does, with the source that it blames or quarantines at 0, for good."""
    action: Action = verdict.action if verdict.action != "ok" else "keep"
    if verdict.source is None:
        return state, _decision(observation, action, observation.shares, verdict.reason, evidence)
    cut = [*state["cut"], verdict.source]
    shares = without(observation.shares, cut, observation.kinds)
    if shares is None:  # nothing would be left to train on
        reason = f"{verdict.reason} But {verdict.source} is all there is, so the shares stay."
        return state, _decision(
            observation, "warn" if action == "cut" else action, observation.shares, reason, evidence
        )
    return {**state, "cut": cut}, _decision(observation, action, shares, verdict.reason, evidence)


def _decision(
    observation: Observation, action: Action, shares: Mapping[str, int], reason: str, evidence: Mapping[str, Any]
) -> Decision:
    assert sum(shares.values()) == SHARE_ONE, f"shares must sum to {SHARE_ONE}, got {dict(shares)}"
    before = dict(observation.shares)
    return Decision(
        from_step=observation.step + 1,
        action=action,
        shares=dict(shares),
        reason=reason,
        evidence={**evidence, "shares_before": before, "progress": observation.progress},
    )
