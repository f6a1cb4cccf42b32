"""The guard, which warns, cuts a source, rolls back or stops when held-out real data says that damage is done.

What it watches is in ``trainer.control.guard.statistics``, how evidence adds up in ``trainer.control.guard.detector``,
who is to blame in ``trainer.control.guard.attribution``; here is what it does about it. A source that two measurements
running prove to do harm is cut at once. An alarm climbs a ladder: a source that is proven to harm is cut; without a
proof, first warn and freeze the shares, then roll back to the last sound state and quarantine the source that the hints
point to, then stop. Where nothing is lost yet that going back would restore (held-out loss stands while synthetic loss
falls, or falls more slowly than forecast), it warns and cuts only. The policy proposes, the guard disposes.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.base.records import Evaluation, Observation, Verdict
from trainer.control.guard import attribution, statistics
from trainer.control.guard.attribution import Accusation
from trainer.control.guard.detector import DetectorSettings, Look
from trainer.control.guard.statistics import Findings

WHAT = {  # has happened, by the statistic with the most evidence
    "mean": "Held-out loss has risen",
    "tail": "The loss of the worst tenth of the held-out documents has risen",
    "gap": "Held-out loss stands, and synthetic loss falls away from it",
    "progress": "Held-out loss falls more slowly than forecast",
}
DAMAGE = ("mean", "tail")  # what a rollback can restore


class GuardConfig(Config):
    """When the guard speaks, and what it may do."""

    enabled: bool = Field(default=True, description="judge readings at all")
    min_evaluations: int = Field(default=10, ge=5, description="sound readings before a statistic is judged")
    min_documents: int = Field(default=30, ge=2, description="held-out documents below which a reading decides nothing")
    history_evaluations: int = Field(
        default=100, ge=8, description="sound readings from which expectation and jitter are estimated"
    )
    margin: float = Field(
        default=0.15, ge=0, description="rise that is tolerated for good, in jitter standard deviations"
    )
    warn_at: float = Field(default=10, gt=1, description="evidence (and least mean healthy readings) to a warning")
    alarm_at: float = Field(default=3000, gt=1, description="evidence (and least mean healthy readings) to an alarm")
    slice_error: float = Field(default=0.01, gt=0, lt=1, description="false discovery rate of slices said to rise")
    freeze_evaluations: int = Field(default=4, ge=0, description="readings for which shares stay frozen after an alarm")
    memory_evaluations: int = Field(
        default=40, ge=1, description="quiet readings after which earlier alarms are forgotten"
    )
    measure_source_value: bool = Field(
        default=False, description="measure the sources' worth for attribution also when the policy does not need it"
    )
    cut: bool = Field(default=True, description="may cut, or quarantine, a synthetic source that the evidence blames")
    attribution_z: float = Field(default=3.0, gt=0, description="standard errors beyond which a source is blamed")
    attribute_below: float = Field(
        default=0.25, description="worth below which a source can be blamed, in fresh real tokens"
    )
    cut_below: float = Field(
        default=-0.5,
        description="worth, in fresh real tokens: a source that lies below in two measurements running, together by"
        " attribution_z errors, is cut at once",
    )
    max_rollbacks: int = Field(default=1, ge=0, description="how often the guard may roll back in a run")
    stop: bool = Field(default=True, description="may stop the run when nothing else has helped")

    @model_validator(mode="after")
    def _orders_agree(self) -> Self:
        if self.warn_at >= self.alarm_at:
            raise ValueError(f"warn_at {self.warn_at:g} must be below alarm_at {self.alarm_at:g}")
        if self.min_evaluations > self.history_evaluations:
            raise ValueError(
                f"min_evaluations {self.min_evaluations} must not be above "
                f"history_evaluations {self.history_evaluations}"
            )
        return self


def settings_of(config: GuardConfig) -> DetectorSettings:
    """The numbers the detectors run on. Evaluations are suspicious from half a warning on."""
    return DetectorSettings(
        history_evaluations=config.history_evaluations,
        min_evaluations=config.min_evaluations,
        margin=config.margin,
        suspicion=math.log(max(config.warn_at / 2, 1.0)),
    )


def begin() -> dict[str, Any]:
    """The state of a guard that has seen nothing."""
    return {
        "watch": statistics.begin(), "sources": attribution.begin(), "strikes": 0, "quiet": 0, "frozen": 0, "rollbacks":
        0,
    }  # fmt: skip


def fault(evaluation: Evaluation) -> str | None:
    """Why nothing can be decided on a reading (numbers that are not finite, no tokens), or None when something can."""
    bad = int((~np.isfinite(evaluation.nats)).sum())
    if bad:
        return f"the loss of {bad} of its {len(evaluation.nats)} documents is not finite"
    if int(evaluation.tokens.min()) < 1:
        return "a document has no tokens"
    return None


def judge(config: GuardConfig, state: dict[str, Any], observation: Observation) -> tuple[dict[str, Any], Verdict]:
    """The verdict on ``observation``: ``ok``, ``warn`` (freeze), ``cut`` (with the source), ``rollback`` or ``stop``;
    pure.

    A reading that cannot decide (see ``fault``) leaves the state as it is.
    """
    if not config.enabled:
        return state, Verdict(action="ok", reason="The guard is off.")
    why_not = fault(observation.evaluation)
    if why_not is not None:
        return state, _cannot_judge(why_not)
    state = {**state, "sources": attribution.note(state["sources"], observation)}
    harm = _harm(config, state, observation)
    num_documents = len(observation.evaluation.nats)
    if num_documents < config.min_documents:  # which rehearsals do not read
        return state, harm or _cannot_judge(f"it has {num_documents} documents, the guard needs {config.min_documents}")
    state, findings = _watched(config, state, observation)
    figures = _figures(config, findings)
    if harm is not None:
        return {**state, "watch": statistics.forgive(state["watch"])}, replace(harm, evidence=figures)
    if findings.log_evidence >= math.log(config.alarm_at) or findings.risen_slices:
        return _alarmed(config, state, observation, findings, figures)
    strikes = state["strikes"] if state["quiet"] < config.memory_evaluations else 0
    frozen = max(0, state["frozen"] - 1)
    was_frozen = state["frozen"] > 0
    state = {**state, "strikes": strikes, "quiet": state["quiet"] + 1, "frozen": frozen}
    if not findings.ready:
        reason = f"The guard has {findings.num_evaluations} of the {config.min_evaluations} readings it needs."
        return state, Verdict(action="ok", reason=reason, evidence=figures)
    if findings.log_evidence >= math.log(config.warn_at):
        reason = f"Not yet sure: {_headline(findings)}: {_in_words(figures)}."
        return state, Verdict(action="warn", reason=reason, evidence=figures)
    if was_frozen:
        reason = f"Synthetic shares stay frozen after an alarm, {frozen} more readings."
        return state, Verdict(action="warn", reason=reason, evidence=figures)
    return state, Verdict(action="ok", reason=f"Held-out loss is in order: {_in_words(figures)}.", evidence=figures)


def _watched(config: GuardConfig, state: dict[str, Any], observation: Observation) -> tuple[dict[str, Any], Findings]:
    """State after the reading, and what was found; after an alarm nothing is normal until the freeze is over."""
    watched, findings = statistics.watch(
        settings_of(config),
        state["watch"],
        observation,
        slice_error=config.slice_error,
        hold=state["frozen"] > 0,
    )
    return {**state, "watch": watched}, findings


def _harm(config: GuardConfig, state: dict[str, Any], observation: Observation) -> Verdict | None:
    """The cut of a source that rehearsals prove to do harm; None where there is none, or the recipe forbids it."""
    found = attribution.harmful(state["sources"], observation, z=config.attribution_z, value_below=config.cut_below)
    if found is None or not config.cut:
        return None
    source, because = found
    return Verdict(action="cut", reason=f"{source} does harm: {because}.", source=source, evidence={"usable": False})


def _cannot_judge(why_not: str) -> Verdict:
    reason = f"The guard cannot judge the reading: {why_not}."
    return Verdict(action="ok", reason=reason, evidence={"usable": False})


def _figures(config: GuardConfig, findings: Findings) -> dict[str, Any]:
    """What was found in plain numbers: the mean's at the head, then every statistic that is judged, then slices."""
    mean = findings.looks["mean"]
    figures: dict[str, Any] = {
        "nats_per_token": float(mean.value[0]),
        "num_evaluations": findings.num_evaluations,
        "warn_at": config.warn_at,
        "alarm_at": config.alarm_at,
    }
    if findings.ready:
        figures |= {
            "anchor_step": findings.sound_step,  # a rollback should go to the last checkpoint at or before it
            "anchor_nats_per_token": float(mean.expected[0]),
            "jitter_sd": float(mean.jitter[0]),
            "z": float(mean.z[0]),
            "evidence": _plain(findings.log_evidence),
            "strongest": findings.strongest,
            "statistics": {name: _look(look) for name, look in findings.looks.items() if look.ready[0]},
        }
    if findings.slices:
        figures["slices"] = {name: _plain(log_evidence) for name, log_evidence in findings.slices.items()}
        figures["slice_alarm_at"] = len(findings.slices) / config.slice_error  # e-BH for one alone; of several, sooner
    if findings.not_judged:
        figures["not_judged"] = dict(findings.not_judged)
    return figures


def _look(look: Look) -> dict[str, float]:
    return {
        "value": float(look.value[0]),
        "expected": float(look.expected[0]),
        "jitter_sd": float(look.jitter[0]),
        "correlation": float(look.correlation[0]),
        "z": float(look.z[0]),
        "evidence": _plain(float(look.log_evidence[0])),
    }


def _plain(log_evidence: float) -> float:
    """Evidence itself, finite whatever its logarithm."""
    return math.exp(min(log_evidence, 700.0))


def _alarmed(
    config: GuardConfig, state: dict[str, Any], observation: Observation, findings: Findings, figures: dict[str, Any]
) -> tuple[dict[str, Any], Verdict]:
    """The next rung of the ladder; the evidence starts again from nothing, so that the remedy gets its chance."""
    strikes = (state["strikes"] if state["quiet"] < config.memory_evaluations else 0) + 1
    state = {
        **state,
        "watch": statistics.forgive(state["watch"]),
        "strikes": strikes,
        "quiet": 0,
        "frozen": config.freeze_evaluations,
    }
    accused = attribution.accuse(
        state["sources"],
        observation,
        z=config.attribution_z,
        value_below=config.attribute_below,
        num_aside=findings.num_aside,
    )
    figures = {**figures, "strikes": strikes, "sources": {name: dict(clues) for name, clues in accused.clues.items()}}
    if findings.risen_slices:
        figures["risen_slices"] = list(findings.risen_slices)
    what = f"{_headline(findings)}: {_in_words(figures)}"
    is_damage = findings.strongest in DAMAGE or bool(findings.risen_slices)
    return _rung(config, state, accused, what, figures, is_damage=is_damage)


def _rung(
    config: GuardConfig, state: dict[str, Any], accused: Accusation, what: str, figures: dict[str, Any], *,
    is_damage: bool,
) -> tuple[dict[str, Any], Verdict]:  # fmt: skip
    """What is done: ``cut`` names a source, ``rollback`` the one to quarantine where there is one."""
    again = state["strikes"] > 1
    guilty, suspect = (accused.guilty, accused.suspect) if config.cut else (None, None)
    times = f"for the {_nth(state['strikes'])} time"
    if guilty is not None:
        reason = f"{what}; {guilty} is to blame: {accused.because}."
        return state, Verdict(action="cut", reason=reason, source=guilty, evidence=figures)
    if again and is_damage and state["rollbacks"] < config.max_rollbacks:
        state = {**state, "rollbacks": state["rollbacks"] + 1}
        whom = f"{suspect} is suspected: {accused.because}" if suspect else "no source is to blame"
        return state, Verdict(
            action="rollback", reason=f"{what}, {times}, and {whom}.", source=suspect, evidence=figures
        )
    if again and suspect is not None:
        reason = f"{what}, {times}, and {suspect} is suspected: {accused.because}."
        return state, Verdict(action="cut", reason=reason, source=suspect, evidence=figures)
    if again and is_damage and config.stop:
        return state, Verdict(action="stop", reason=f"{what}, {times}, and nothing has helped.", evidence=figures)
    return state, Verdict(action="warn", reason=f"{what}; no source is to blame beyond the error.", evidence=figures)


def _headline(findings: Findings) -> str:
    if findings.risen_slices:
        names = ", ".join(findings.risen_slices)
        return f"Held-out loss of {'slice' if len(findings.risen_slices) == 1 else 'slices'} {names} has risen"
    return WHAT[findings.strongest]


def _in_words(figures: Mapping[str, Any]) -> str:
    if "statistics" not in figures:
        return f"{figures['nats_per_token']:.4f} nats per token"
    than = "forecast" if figures["strongest"] == "progress" else "before"
    observation = figures["statistics"].get(figures["strongest"], figures["statistics"]["mean"])
    return (
        f"{observation['value']:.4f} nats per token against {observation['expected']:.4f} {than}"
        f" (jitter {observation['jitter_sd']:.4f}, z {observation['z']:.1f}, evidence {figures['evidence']:.3g}"
        f" of {figures['alarm_at']:g})"
    )


def _nth(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")
