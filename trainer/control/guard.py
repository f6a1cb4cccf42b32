"""The guard, which warns, cuts a source, rolls back or stops when held-out real data says that damage is done.

It compares each document with its own past, so that the spread between documents cancels, and puts the jitter between
checkpoints into the error (``trainer.control.detector``). An alarm climbs a ladder: with a source to blame, beyond
error, that source is cut; without one, first warn and freeze, then roll back, then stop. The policy proposes, the guard
disposes.
"""

# D held-out documents in document order

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from trainer.control.detector import LOG_EMPTY, MIN_DIFFERENCES, RATES, DetectorSettings, Look, Track, look
from trainer.control.pooling import Standing, remember, standings
from trainer.records import Config, FloatArray, Kind, Observation, Reading, Verdict


class GuardConfig(Config):
    """When the guard speaks, and what it may do."""

    enabled: bool = Field(default=True, description="judge readings at all")
    min_readings: int = Field(default=10, ge=5, description="healthy readings before the guard may act")
    min_documents: int = Field(default=30, ge=2, description="held-out documents below which a reading decides nothing")
    anchor_readings: int = Field(default=40, ge=3, description="accepted readings whose mean is the anchor")
    anchor_lag: int = Field(default=6, ge=0, description="newest readings kept out of the anchor")
    history_readings: int = Field(default=100, ge=8, description="accepted readings from which the jitter is estimated")
    margin: float = Field(
        default=0.85, ge=0, description="rise that is tolerated for good, in jitter standard deviations"
    )
    clip: float = Field(default=2.5, gt=0, description="most that one reading may count, in standard errors")
    warn_every: float = Field(default=10, gt=1, description="evidence (and least mean healthy readings) to a warning")
    alarm_every: float = Field(default=2000, gt=1, description="evidence (and least mean healthy readings) to an alarm")
    freeze_readings: int = Field(default=4, ge=0, description="readings for which shares stay frozen after an alarm")
    memory_readings: int = Field(
        default=40, ge=1, description="quiet readings after which earlier alarms are forgotten"
    )
    measure_worth: bool = Field(
        default=False, description="measure the sources' worth for attribution also when the policy does not need it"
    )
    cut: bool = Field(default=True, description="may cut a synthetic source that the evidence blames")
    blame_z: float = Field(default=3.0, gt=0, description="standard errors beyond which a source is blamed")
    blame_below: float = Field(
        default=0.25, description="worth below which a source can be blamed, in fresh real tokens"
    )
    max_rollbacks: int = Field(default=1, ge=0, description="how often the guard may roll back in a run")
    stop: bool = Field(default=True, description="may stop the run when nothing else has helped")

    @model_validator(mode="after")
    def _orders_agree(self) -> Self:
        if self.warn_every >= self.alarm_every:
            raise ValueError(f"warn_every {self.warn_every:g} must be below alarm_every {self.alarm_every:g}")
        if self.history_readings < self.anchor_readings + self.anchor_lag:
            raise ValueError(
                f"history_readings {self.history_readings} must hold anchor_readings {self.anchor_readings}"
                f" and anchor_lag {self.anchor_lag}"
            )
        if self.min_readings > self.history_readings:
            raise ValueError(
                f"min_readings {self.min_readings} must not be above history_readings {self.history_readings}"
            )
        return self


def settings_of(config: GuardConfig) -> DetectorSettings:
    """The numbers the detector runs on."""
    return DetectorSettings(
        anchor_readings=config.anchor_readings,
        anchor_lag=config.anchor_lag,
        history_readings=config.history_readings,
        min_readings=config.min_readings,
        margin=config.margin,
        clip=config.clip,
        suspicion=math.log(config.warn_every),
    )


def begin() -> dict[str, Any]:
    """The state of a guard that has seen nothing."""
    return {**_fresh_track(), "strikes": 0, "quiet": 0, "frozen": 0, "rollbacks": 0, "worths": []}


def fault(reading: Reading) -> str | None:
    """Why nothing can be decided on a reading (numbers that are not finite, no tokens), or None when something can."""
    bad = int((~np.isfinite(reading.nats)).sum())
    if bad:
        return f"the loss of {bad} of its {len(reading.nats)} documents is not finite"
    if int(reading.tokens.min()) < 1:
        return "a document has no tokens"
    return None


def judge(config: GuardConfig, state: dict[str, Any], seen: Observation) -> tuple[dict[str, Any], Verdict]:
    """The verdict on ``seen``: ``ok``, ``warn`` (freeze), ``cut`` (with the source), ``rollback`` or ``stop``; pure.

    A reading that cannot decide (see ``fault``) leaves the state as it is.
    """
    if not config.enabled:
        return state, Verdict(action="ok", reason="The guard is off.")
    why_not = fault(seen.reading)
    if why_not is None and len(seen.reading.nats) < config.min_documents:
        why_not = f"it has {len(seen.reading.nats)} documents, the guard needs {config.min_documents}"
    if why_not is not None:
        return state, Verdict(
            action="ok", reason=f"The guard cannot judge the reading: {why_not}.", evidence={"usable": False}
        )
    if len(state["documents"]) not in (0, len(seen.reading.nats)):
        state = {**state, **_fresh_track()}  # other held-out documents: there is nothing to pair them with
    state, found, figures = _looked(config, state, seen)
    log_evidence = float(found.log_evidence[0])
    if log_evidence >= math.log(config.alarm_every):
        return _alarmed(config, state, seen, figures)
    strikes = state["strikes"] if state["quiet"] < config.memory_readings else 0
    frozen = max(0, state["frozen"] - 1)
    was_frozen = state["frozen"] > 0
    state = {**state, "strikes": strikes, "quiet": state["quiet"] + 1, "frozen": frozen}
    if not bool(found.ready[0]):
        reason = f"The guard has {figures['num_readings']} of the {config.min_readings} readings it needs."
        return state, Verdict(action="ok", reason=reason, evidence=figures)
    if log_evidence >= math.log(config.warn_every):
        return state, Verdict(
            action="warn", reason=f"Held-out loss looks raised: {_in_words(figures)}.", evidence=figures
        )
    if was_frozen:
        reason = f"Synthetic shares stay frozen after an alarm, {frozen} more readings."
        return state, Verdict(action="warn", reason=reason, evidence=figures)
    return state, Verdict(action="ok", reason=f"Held-out loss is in order: {_in_words(figures)}.", evidence=figures)


def _fresh_track() -> dict[str, Any]:
    return {"means": [], "steps": [], "documents": [], "log_evidence": [LOG_EMPTY] * len(RATES)}


def _looked(
    config: GuardConfig, state: dict[str, Any], seen: Observation
) -> tuple[dict[str, Any], Look, dict[str, Any]]:
    """State after the reading, what the detector found, and its figures in plain numbers.

    The mean difference is weighted by tokens, like the loss that is reported; its variance is that of a ratio, sum
    w_i^2 (d_i - mean)^2 D / (D - 1) with w_i the document's part of the tokens (Cochran, Sampling Techniques, 6.4).
    Documents are paired with a running mean of their accepted losses, so that the state holds D numbers and not D times
    the anchor's readings.
    """
    settings = settings_of(config)
    reading = seen.reading
    loss_D = reading.nats / reading.tokens
    mean = reading.nats_per_token
    past_D = np.array(state["documents"] or loss_D, dtype=np.float64)
    pair_variance = _pair_variance(loss_D - past_D, reading.tokens / reading.tokens.sum())
    num_before = len(state["means"])
    means_SH = np.full((1, config.history_readings), np.nan)
    means_SH[0, config.history_readings - num_before :] = state["means"]
    track = Track(means=means_SH, log_evidence=np.array([state["log_evidence"]], dtype=np.float64))
    track, found = look(settings, track, np.array([mean]), np.array([pair_variance]))
    steps_before = state["steps"]
    if (
        float(found.log_evidence[0]) < settings.suspicion and not state["frozen"]
    ):  # after an alarm nothing is normal yet
        past_D = past_D + (loss_D - past_D) / min(num_before + 1, config.anchor_readings)
        means = [float(value) for value in track.means[0] if not np.isnan(value)]
        state = {**state, "means": means, "steps": [*steps_before, seen.step][-config.history_readings :]}
    state = {
        **state,
        "documents": past_D.tolist(),
        "log_evidence": track.log_evidence[0].tolist(),
        "worths": remember(state["worths"], seen),
    }
    figures: dict[str, Any] = {"nats_per_token": mean, "num_readings": num_before, "num_documents": len(loss_D)}
    if bool(found.ready[0]):
        figures |= {
            "anchor_nats_per_token": float(found.anchor[0]),
            "anchor_step": steps_before[-1 - min(config.anchor_lag, num_before - MIN_DIFFERENCES)],
            "difference": mean - float(found.anchor[0]),
            "jitter_sd": float(found.jitter[0]),
            "pair_standard_error": math.sqrt(pair_variance),
            "margin": config.margin * float(found.jitter[0]),
            "z": float(found.z[0]),
            "evidence": math.exp(min(float(found.log_evidence[0]), 700.0)),
            "warn_at": config.warn_every,
            "alarm_at": config.alarm_every,
        }
    return state, found, figures


def _pair_variance(difference_D: FloatArray, weight_D: FloatArray) -> float:
    mean = float((weight_D * difference_D).sum())
    num = len(difference_D)
    return float((weight_D**2 * (difference_D - mean) ** 2).sum() * num / (num - 1))


def _alarmed(
    config: GuardConfig, state: dict[str, Any], seen: Observation, figures: dict[str, Any]
) -> tuple[dict[str, Any], Verdict]:
    """The next rung of the ladder; the evidence starts again from nothing, so that the remedy gets its chance.

    A rollback should go to the last checkpoint at or before ``anchor_step``, the newest reading of the anchor.
    """
    strikes = (state["strikes"] if state["quiet"] < config.memory_readings else 0) + 1
    state = {
        **state,
        "strikes": strikes,
        "quiet": 0,
        "frozen": config.freeze_readings,
        "log_evidence": [LOG_EMPTY] * len(RATES),
    }
    found = standings(state["worths"], seen.shares, decay=0.8, min_readings=3)
    blamed = _blamed(config, found, seen.kinds)
    figures = {
        **figures,
        "strikes": strikes,
        "sources": {name: standing.as_evidence() for name, standing in found.items()},
    }
    what = f"Held-out loss has risen: {_in_words(figures)}"
    times = f"for the {_nth(strikes)} time"
    if config.cut and blamed is not None:
        standing = found[blamed]
        worth = f"{standing.worth:.2f} ± {standing.worth_standard_error:.2f} of a fresh real one"
        reason = f"{what}; {blamed} is to blame, a token of it being worth {worth}."
        return state, Verdict(action="cut", reason=reason, source=blamed, evidence=figures)
    if strikes > 1 and state["rollbacks"] < config.max_rollbacks:
        state = {**state, **_fresh_track(), "rollbacks": state["rollbacks"] + 1}
        return state, Verdict(
            action="rollback",
            reason=f"{what}, {times}, and no source is to blame.",
            evidence=figures,
        )
    if strikes > 1 and config.stop:
        return state, Verdict(action="stop", reason=f"{what}, {times}, and nothing has helped.", evidence=figures)
    return state, Verdict(action="warn", reason=f"{what}; no source is to blame beyond the error.", evidence=figures)


def _blamed(config: GuardConfig, found: Mapping[str, Standing], kinds: Mapping[str, Kind]) -> str | None:
    """The synthetic source of least worth among those worth little, and less than the others, beyond error; or None."""
    guilty = [
        name
        for name, standing in found.items()
        if kinds[name] == "synthetic"
        and standing.worth + config.blame_z * standing.worth_standard_error < config.blame_below
        and standing.gap + config.blame_z * standing.gap_standard_error < 0
    ]
    return min(guilty, key=lambda name: found[name].worth, default=None)


def _in_words(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['nats_per_token']:.4f} nats per token against {figures['anchor_nats_per_token']:.4f} before"
        f" (jitter {figures['jitter_sd']:.4f}, z {figures['z']:.1f}, evidence {figures['evidence']:.3g}"
        f" of {figures['alarm_at']:g})"
    )


def _nth(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")
