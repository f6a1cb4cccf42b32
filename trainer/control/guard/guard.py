"""The guard, which warns, cuts a source, rolls back or stops when held-out real data shows that damage is done.

What it monitors is in ``trainer.control.guard.statistics``, how evidence accumulates in
``trainer.control.guard.detector``, which source an alarm is attributed to in ``trainer.control.guard.attribution``;
here is what it does about it. A source that two consecutive measurements show to be harmful is cut without waiting for
an alarm. Alarms escalate: a source to which the damage is attributed is cut; without one, first warn and freeze the
shares, then roll back to the last healthy state and quarantine the source that the signs point to, then stop. Where
nothing is lost yet that a rollback would restore (held-out loss stands while synthetic loss falls, or falls more slowly
than forecast), it only warns and cuts. The policy proposes; the guard may veto.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.base.records import Evaluation, Observation, Verdict
from trainer.control.guard import attribution, statistics
from trainer.control.guard.attribution import Attribution
from trainer.control.guard.config import GuardConfig, detector_settings
from trainer.control.guard.detector import Score
from trainer.control.guard.state import GuardState
from trainer.control.guard.statistics import Monitored

HEADLINES = {  # what has happened, by the statistic with the most evidence
    "mean": "Held-out loss has risen",
    "tail": "The tail loss (worst 10 % of held-out documents) has risen",
    "gap": "Held-out loss stands, and synthetic loss falls away from it",
    "progress": "Held-out loss falls more slowly than forecast",
}
DAMAGE = ("mean", "tail")  # what a rollback can restore


def why_unusable(evaluation: Evaluation) -> str | None:
    """Why nothing can be decided on an evaluation (losses that are not finite, no tokens); None when it is usable."""
    num_bad = int((~np.isfinite(evaluation.loss_sum_nats)).sum())
    if num_bad:
        return f"the loss of {num_bad} of its {len(evaluation.loss_sum_nats)} documents is not finite"
    if int(evaluation.tokens.min()) < 1:
        return "a document has no tokens"
    return None


def judge(config: GuardConfig, state: GuardState, observation: Observation) -> tuple[GuardState, Verdict]:
    """The verdict on ``observation``: ``ok``, ``warn`` (freeze), ``cut`` (with the source), ``rollback`` or ``stop``;
    pure.

    An evaluation that is not usable (see ``why_unusable``) leaves the state as it is.
    """
    if not config.enabled:
        return state, Verdict(action="ok", reason="The guard is off.")
    reason = why_unusable(observation.evaluation)
    if reason is not None:
        return state, _cannot_judge(reason)
    state = replace(state, attribution=attribution.record(state.attribution, observation))
    harm = _harm(config, state, observation)
    num_documents = len(observation.evaluation.loss_sum_nats)
    if num_documents < config.min_documents:  # source values do not depend on them
        return state, harm or _cannot_judge(f"it has {num_documents} documents, the guard needs {config.min_documents}")
    monitor, monitored = statistics.monitor(
        detector_settings(config),
        state.monitor,
        observation,
        slice_error=config.advanced.slice_error,
        hold=state.freeze_left > 0,  # after an alarm nothing counts as normal until the freeze is over
    )
    state, evidence = replace(state, monitor=monitor), _evidence(config, monitored)
    if harm is not None:
        return replace(state, monitor=statistics.reset_evidence(monitor)), replace(harm, evidence=evidence)
    if monitored.log_evidence >= math.log(config.alarm_at) or monitored.risen_slices:
        return _alarm(config, state, observation, monitored, evidence)
    return _no_alarm(config, state, monitored, evidence)


def _no_alarm(
    config: GuardConfig, state: GuardState, monitored: Monitored, evidence: dict[str, Any]
) -> tuple[GuardState, Verdict]:
    """One evaluation more since the last alarm: ``ok``, or ``warn`` on some evidence or while shares stay frozen."""
    was_frozen, freeze_left = state.freeze_left > 0, max(0, state.freeze_left - 1)
    state = replace(
        state,
        alarm_count=_remembered_alarms(config, state),
        evaluations_since_alarm=state.evaluations_since_alarm + 1,
        freeze_left=freeze_left,
    )
    if not monitored.ready:
        needed = config.advanced.min_evaluations
        reason = f"The guard has {monitored.num_evaluations} of the {needed} evaluations it needs."
        return state, Verdict(action="ok", reason=reason, evidence=evidence)
    if monitored.log_evidence >= math.log(config.warn_at):
        reason = f"Not yet certain: {_headline(monitored)}: {_in_words(evidence)}."
        return state, Verdict(action="warn", reason=reason, evidence=evidence)
    if was_frozen:
        reason = f"Synthetic shares stay frozen after an alarm, for {freeze_left} more evaluations."
        return state, Verdict(action="warn", reason=reason, evidence=evidence)
    return state, Verdict(action="ok", reason=f"Held-out loss is healthy: {_in_words(evidence)}.", evidence=evidence)


def _remembered_alarms(config: GuardConfig, state: GuardState) -> int:
    return state.alarm_count if state.evaluations_since_alarm < config.advanced.memory_evaluations else 0


def _harm(config: GuardConfig, state: GuardState, observation: Observation) -> Verdict | None:
    """The cut of a source that measured source values show to be harmful; None where there is none, or where the recipe
    forbids it.
    """
    advanced = config.advanced
    harmful = attribution.harmful_source(
        state.attribution, observation, z=advanced.attribution_z, value_below=advanced.cut_below
    )
    if harmful is None or not config.cut:
        return None
    source, because = harmful
    return Verdict(action="cut", reason=f"{source} is harmful: {because}.", source=source, evidence={"usable": False})


def _cannot_judge(reason: str) -> Verdict:
    return Verdict(action="ok", reason=f"The guard cannot judge the evaluation: {reason}.", evidence={"usable": False})


def _evidence(config: GuardConfig, monitored: Monitored) -> dict[str, Any]:
    """What was monitored in plain numbers: first of the mean, then of each statistic that is judged, then of slices."""
    mean = monitored.scores["mean"]
    evidence: dict[str, Any] = {
        "nats_per_token": float(mean.value[0]),
        "num_evaluations": monitored.num_evaluations,
        "warn_at": config.warn_at,
        "alarm_at": config.alarm_at,
    }
    if monitored.ready:
        evidence |= {
            "last_healthy_step": monitored.healthy_step,  # a rollback should go to the last checkpoint until then
            "expected_nats_per_token": float(mean.expected[0]),
            "jitter_sd": float(mean.jitter[0]),
            "z": float(mean.z[0]),
            "evidence": _exp(monitored.log_evidence),
            "strongest": monitored.strongest,
            "statistics": {name: _score_json(score) for name, score in monitored.scores.items() if score.ready[0]},
        }
    if monitored.slices:
        evidence["slices"] = {name: _exp(log_evidence) for name, log_evidence in monitored.slices.items()}
        # e-BH, for a single slice; several are discovered with less each
        evidence["slice_alarm_at"] = len(monitored.slices) / config.advanced.slice_error
    if monitored.not_judged:
        evidence["not_judged"] = dict(monitored.not_judged)
    return evidence


def _score_json(score: Score) -> dict[str, float]:
    return {
        "value": float(score.value[0]),
        "expected": float(score.expected[0]),
        "jitter_sd": float(score.jitter[0]),
        "correlation": float(score.correlation[0]),
        "z": float(score.z[0]),
        "evidence": _exp(float(score.log_evidence[0])),
    }


def _exp(log_evidence: float) -> float:
    """Evidence itself, finite whatever its logarithm."""
    return math.exp(min(log_evidence, 700.0))


def _alarm(
    config: GuardConfig, state: GuardState, observation: Observation, monitored: Monitored, evidence: dict[str, Any]
) -> tuple[GuardState, Verdict]:
    """The next escalation; the evidence is reset, so that what is done can take effect."""
    state = replace(
        state,
        monitor=statistics.reset_evidence(state.monitor),
        alarm_count=_remembered_alarms(config, state) + 1,
        evaluations_since_alarm=0,
        freeze_left=config.advanced.freeze_evaluations,
    )
    attributed = attribution.attribute(
        state.attribution,
        observation,
        z=config.advanced.attribution_z,
        value_below=config.advanced.attribute_below,
        num_held_back=monitored.num_held_back,
    )
    evidence = {
        **evidence,
        "alarm_count": state.alarm_count,
        "sources": {name: dict(figures) for name, figures in attributed.sources.items()},
    }
    if monitored.risen_slices:
        evidence["risen_slices"] = list(monitored.risen_slices)
    headline = f"{_headline(monitored)}: {_in_words(evidence)}"
    is_damage = monitored.strongest in DAMAGE or bool(monitored.risen_slices)
    state, verdict = _escalate(config, state, attributed, headline, is_damage=is_damage)
    return state, replace(verdict, evidence=evidence)


def _escalate(
    config: GuardConfig, state: GuardState, attributed: Attribution, headline: str, *, is_damage: bool
) -> tuple[GuardState, Verdict]:
    """What is done: ``cut`` names a source, ``rollback`` the one to quarantine where there is one."""
    source, suspected = (attributed.attributed, attributed.suspected) if config.cut else (None, None)
    if source is not None:
        reason = f"{headline}; attributed to {source}: {attributed.because}."
        return state, Verdict(action="cut", reason=reason, source=source)
    if state.alarm_count > 1:
        headline = f"{headline}, for the {_ordinal(state.alarm_count)} time"
        if is_damage and state.num_rollbacks < config.max_rollbacks:
            cause = f"{suspected} is suspected: {attributed.because}" if suspected else "attributed to no source"
            state = replace(state, num_rollbacks=state.num_rollbacks + 1)
            return state, Verdict(action="rollback", reason=f"{headline}; {cause}.", source=suspected)
        if suspected is not None:
            reason = f"{headline}; {suspected} is suspected: {attributed.because}."
            return state, Verdict(action="cut", reason=reason, source=suspected)
        if is_damage and config.stop:
            return state, Verdict(action="stop", reason=f"{headline}, and nothing has helped.")
    reason = f"{headline}; attributed to no source, none is harmful beyond its error."
    return state, Verdict(action="warn", reason=reason)


def _headline(monitored: Monitored) -> str:
    if monitored.risen_slices:
        names = ", ".join(monitored.risen_slices)
        return f"Held-out loss of {'slice' if len(monitored.risen_slices) == 1 else 'slices'} {names} has risen"
    return HEADLINES[monitored.strongest]


def _in_words(evidence: Mapping[str, Any]) -> str:
    if "statistics" not in evidence:
        return f"{evidence['nats_per_token']:.4f} nats per token"
    reference = "forecast" if evidence["strongest"] == "progress" else "expected"
    statistic = evidence["statistics"].get(evidence["strongest"], evidence["statistics"]["mean"])
    return (
        f"{statistic['value']:.4f} nats per token, {statistic['expected']:.4f} {reference}"
        f" (jitter {statistic['jitter_sd']:.4f}, z {statistic['z']:.1f}, evidence {evidence['evidence']:.3g}"
        f" of {evidence['alarm_at']:g})"
    )


def _ordinal(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")
