"""Policy and guard make a decision: the policy proposes shares, the guard may veto, cut, roll back or stop.

Pure: configuration, state and observation in, state and decision out, all of them plain values, so that the same
evaluations give the same decisions on every machine and after every resume (the state goes into the checkpoint as JSON,
whose floats survive exactly).
"""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from math import inf
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Action, Decision, Kind, Observation, Proposal, Verdict
from trainer.control.config import ControlConfig
from trainer.control.guard import guard
from trainer.control.guard.state import GuardState
from trainer.control.policies import POLICIES, Needs
from trainer.control.state import ControlState
from trainer.mixture.shares import without


def initial_state(config: ControlConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> ControlState:
    """The state before the first evaluation, from the start ``shares`` in millionths; ``UserError`` where they
    contradict the policy's settings.
    """
    return ControlState(policy=POLICIES.resolve(config.policy.kind).begin(config.policy, shares, kinds))


def restored_state(config: ControlConfig, saved: Mapping[str, Any]) -> ControlState:
    """The state whose ``to_json`` was ``saved`` in a checkpoint of a run under ``config``."""
    policy = POLICIES.resolve(config.policy.kind).State.from_json(saved["policy"])
    return ControlState(policy=policy, guard=GuardState.from_json(saved["guard"]), cut=tuple(saved["cut"]))


def check_saved_state(config: ControlConfig, saved: Mapping[str, Any]) -> None:
    """``UserError`` where ``saved`` is not what ``to_json`` gives of a state under ``config``."""
    try:
        classes = {"policy": POLICIES.resolve(config.policy.kind).State, "guard": GuardState, "cut": list[str]}
        for name, cls in classes.items():
            if name == "cut" or is_dataclass(cls):
                TypeAdapter(cls).validate_python(saved[name])
        restored_state(config, saved)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in (name, *first["loc"]))
        raise UserError(f"the state of policy and guard: {field}: {first['msg']}", got=first["input"]) from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the state of policy and guard is not that of a run of this recipe: {error!r}") from None


def source_value_from(config: ControlConfig) -> float | None:
    """Progress from which source values have to be measured at each evaluation; None for never."""
    if config.guard.enabled and config.guard.measure_source_value:
        return 0.0
    return _needs(config).source_value_from


def gradient_alignment_from(config: ControlConfig) -> float | None:
    """Progress from which the alignment of the sources' gradients has to be measured; None for never."""
    return _needs(config).gradient_alignment_from


def forgetting_from(config: ControlConfig, max_epochs: float) -> float | None:
    """Progress from which the model's forgetting has to be measured, where real data may be repeated for ``max_epochs``
    epochs; None for never.
    """
    return _needs(config, max_epochs).forgetting_from


def reads_losses(config: ControlConfig) -> bool:
    """Whether the policy cannot work without the training loss by source."""
    return _needs(config).losses


def _needs(config: ControlConfig, max_epochs: float = inf) -> Needs:
    return POLICIES.resolve(config.policy.kind).needs(config.policy, max_epochs)


def decide(config: ControlConfig, state: ControlState, observation: Observation) -> tuple[ControlState, Decision]:
    """The decision on ``observation`` and the state after it; shares sum to ``SHARE_ONE`` and are in force from the
    next step on.

    An evaluation that is not usable keeps the shares and the state. Under a warning the policy may move, but not so
    that any synthetic source gains. A source that the guard cut stays at 0 for the rest of the run, whatever the policy
    proposes.
    """
    policy = config.policy.kind
    reason = guard.why_unusable(observation.evaluation)
    if reason is not None:
        return state, _decision(
            policy,
            observation,
            "keep",
            observation.shares,
            f"The evaluation decides nothing: {reason}.",
            {"usable": False},
        )
    guard_state, verdict = guard.judge(config.guard, state.guard, observation)
    policy_state, proposal = POLICIES.resolve(policy).propose(config.policy, state.policy, observation)
    _check_proposal(policy, proposal, observation)
    state = replace(state, guard=guard_state, policy=policy_state)
    evidence = {"policy": dict(proposal.evidence), "guard": dict(verdict.evidence)}
    match verdict.action:
        case "cut" | "rollback" | "stop":
            return _enforced(policy, state, observation, verdict, evidence)
        case "ok" | "warn":
            shares, reason = _permitted(state, observation, verdict, proposal)
            moved: Action = "keep" if shares == dict(observation.shares) else "move"
            action: Action = "warn" if verdict.action == "warn" else moved
            return state, _decision(policy, observation, action, shares, reason, evidence)


def _check_proposal(policy: str, proposal: Proposal, observation: Observation) -> None:
    """``UserError`` where a policy from outside proposes what are not shares of the sources."""
    shares = proposal.shares
    are_whole = all(isinstance(share, int) and share >= 0 for share in shares.values())
    if shares.keys() == observation.shares.keys() and are_whole and sum(shares.values()) == SHARE_ONE:
        return
    raise UserError(
        f"the policy {policy!r} does not propose a share for each source, in whole millionths that sum to {SHARE_ONE}",
        got=dict(shares),
        remedy="trainer.mixture.shares.rounded makes them of any positive numbers",
    )


def _permitted(
    state: ControlState, observation: Observation, verdict: Verdict, proposal: Proposal
) -> tuple[dict[str, int], str]:
    """The proposal without the sources that were cut, or the shares in force when a warning forbids it; and why."""
    in_force = dict(observation.shares)
    proposed = without(proposal.shares, state.cut, observation.kinds)
    if proposed is None:
        return in_force, f"{proposal.reason} Only sources that were cut would be left, so the shares stay."
    if verdict.action == "ok":
        return proposed, proposal.reason
    gaining = [name for name in proposed if observation.kinds[name] == "synthetic" and proposed[name] > in_force[name]]
    if gaining:
        return in_force, f"{verdict.reason} So {', '.join(gaining)} may not gain share now. {proposal.reason}"
    return proposed, f"{verdict.reason} {proposal.reason}"


def _enforced(
    policy: str, state: ControlState, observation: Observation, verdict: Verdict, evidence: dict[str, Any]
) -> tuple[ControlState, Decision]:
    """What the guard does, with the source that it cuts or quarantines at 0 for the rest of the run."""
    action: Action = verdict.action if verdict.action != "ok" else "keep"
    if verdict.source is None:
        return state, _decision(policy, observation, action, observation.shares, verdict.reason, evidence)
    cut = (*state.cut, verdict.source)
    shares = without(observation.shares, cut, observation.kinds)
    if shares is None:  # nothing would be left to train on
        reason = f"{verdict.reason} But {verdict.source} is the only source, so the shares stay."
        return state, _decision(
            policy, observation, "warn" if action == "cut" else action, observation.shares, reason, evidence
        )
    return replace(state, cut=cut), _decision(policy, observation, action, shares, verdict.reason, evidence)


def _decision(
    policy: str,
    observation: Observation,
    action: Action,
    shares: Mapping[str, int],
    reason: str,
    evidence: Mapping[str, Any],
) -> Decision:
    assert sum(shares.values()) == SHARE_ONE, f"shares must sum to {SHARE_ONE}, got {dict(shares)}"
    before = dict(observation.shares)
    return Decision(
        from_step=observation.step + 1,
        action=action,
        shares=dict(shares),
        reason=reason,
        policy=policy,
        evidence={**evidence, "shares_before": before, "progress": observation.progress},
    )
