"""From an evaluation to shares: the main rank decides, every rank acts on the same decision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.base.records import Decision, Evaluation, Horizon, Observation, SourceLoss, SourceValue
from trainer.control.controller import decide, restored_state
from trainer.evaluate.evidence.measurement import FORGETTING
from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Shares
from trainer.tracking.schema import DecisionLine
from trainer.training import facts
from trainer.training.rollback import roll_back
from trainer.training.run import Outcome, Run, RunState


def decide_shares(
    run: Run,
    state: RunState,
    evaluation: Evaluation,
    *,
    losses: Mapping[str, SourceLoss],
    evidence: Mapping[str, Mapping[str, Any]],
) -> tuple[RunState, Outcome | None]:
    """Decide on the main rank, broadcast the decision, and act on it; all ranks call it together.

    ``losses`` are those of the sources since the evaluation before, ``evidence`` the measurements by kind.
    """
    decided: tuple[dict[str, Any], Decision, Sequence[Fact]] | None = None
    if run.devices.is_main:
        observation = _observation(run, state, evaluation, losses=losses, evidence=evidence)
        control = run.settings.control
        before = restored_state(control, state.control)
        retired: Sequence[Fact] = ()
        control_state, decision = decide(control, before, observation)
        if run.data.rounds is not None:
            control_state, decision, retired = run.data.rounds.reviewed(run, state, before, control_state, decision)
        decided = control_state.to_json(), decision, retired
    control_json, decision, retired = run.devices.broadcast(decided)
    state = replace(state, control=control_json, last_healthy_step=_last_healthy_step(state, decision.evidence))
    line = DecisionLine.of(decision, step=state.step)
    run.io.journal.write(line)
    if decision.action == "rollback":
        return roll_back(run, state, decision, retired), None
    if dict(decision.shares) != run.data.plan.shares(decision.from_step):
        shares = Shares(step=decision.from_step, shares=dict(decision.shares), reason=decision.reason)
        retired = [*retired, shares]
    if retired:
        facts.take(run, retired)
    if decision.action == "stop":
        return state, Outcome(state="stopped-by-guard", step=state.step, reason=decision.reason)
    return state, None


def _observation(
    run: Run,
    state: RunState,
    evaluation: Evaluation,
    *,
    losses: Mapping[str, SourceLoss],
    evidence: Mapping[str, Mapping[str, Any]],
) -> Observation:
    """What policy and guard may look at after the step of ``state``."""
    settings, plan, next_step = run.settings, run.data.plan, state.step + 1
    probe = run.data.measurements.get(FORGETTING)
    return Observation(
        step=state.step,
        progress=state.position / settings.num_steps,
        horizon=Horizon(
            num_steps=settings.num_steps,
            global_batch=plan.global_batch(next_step),
            rates=settings.rates,
            num_samples=lookups.live_sizes(plan, next_step),
            max_epochs=settings.max_epochs,
            prior_values=_prior_values(run, next_step),
            probes_until=None if probe is None else probe.times.last / settings.num_steps,
        ),
        evaluation=evaluation,
        losses=losses,
        evidence=evidence,
        shares=plan.shares(next_step),
        kinds=dict(zip(plan.sources, plan.kinds, strict=True)),
        epochs=lookups.epochs(plan, run.data.stream.state),
        live=lookups.live_segments(plan, next_step),
    )


def _prior_values(run: Run, step: int) -> dict[str, SourceValue]:
    """What the live segments of each source are worth together; as unsure as they are apart."""
    known, samples = run.data.prior_values, {(s.source, s.segment): s.num_samples for s in run.data.plan.segments}
    values = {}
    for source, live in lookups.live_segments(run.data.plan, step).items():
        segments = [(source, segment) for segment in live if (source, segment) in known]
        if not segments:
            continue
        weights = np.array([samples[segment] for segment in segments]) / sum(samples[segment] for segment in segments)
        means = np.array([known[segment].value for segment in segments])
        errors = np.array([known[segment].standard_error for segment in segments])
        mean = float(weights @ means)
        error = float(np.sqrt(weights @ (errors**2 + (means - mean) ** 2)))
        values[source] = SourceValue(value=mean, standard_error=error, num_samples=0)
    return values


def _last_healthy_step(state: RunState, evidence: Mapping[str, Any]) -> int:
    """The newest step that the guard takes for healthy after a decision; an evaluation that it cannot judge changes
    nothing.
    """
    guard = evidence.get("guard", {})
    if not evidence.get("usable", True) or not guard.get("usable", True):
        return state.last_healthy_step
    return int(guard.get("last_healthy_step", state.step))
