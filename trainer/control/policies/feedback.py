"""The policy that follows evidence: share goes from sources whose tokens are worth less to those worth more.

Additive increase, multiplicative decrease (AIMD; Chiu and Jain 1989): a source below the threshold keeps half its share
at each decision, next to nothing when the evidence is overwhelming, so that a bad one is soon at a floor of 0.01. What
it loses goes to the sources that are not worth less than the best, in proportion to their shares. It judges by source
value, never by loss: one template repeated has a low loss and is worth nothing, hard good text has a high loss and is
worth much. A source is compared with what its share could go to, the better sources, and is below the threshold when it
lies below them by a margin and three standard errors; each decision rests on a measurement of its own, so that one
piece of noise cannot cut twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trainer.base.formatting import figure, plus_minus, share_figure, table
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, Share, check_bounds, least_real_shares, step_within
from trainer.control.policies.protocol import Needs, PlainState
from trainer.control.source_scores import MeasuredValues, SourceScore, score_sources, with_source_values
from trainer.mixture.shares import filled, rounded, rounded_up


class FeedbackConfig(Bounds):
    """Move share from sources of little value to sources of much, on evidence beyond its error."""

    kind: Literal["feedback"]
    warm_up: float = Field(
        default=0.15, ge=0, lt=1, description="progress before which no source value is measured: early ones mislead"
    )
    min_evaluations: int = Field(default=1, ge=1, description="measurements of a source before it is judged")
    decay: float = Field(
        default=0.0, ge=0, le=1, description="weight of a measurement relative to the next; 0: only the newest counts"
    )
    z: float = Field(
        default=3.0, ge=0.01, le=100, description="standard errors by which evidence must exceed a threshold"
    )
    gain_z: float = Field(
        default=2.0, ge=0, description="standard errors that a gaining source may lie below the better ones"
    )
    margin: float = Field(
        default=0.1, ge=0, description="value below that of better sources that is tolerated, in fresh real tokens"
    )
    harm: float = Field(default=0.0, description="value below which, beyond error, the strong decrease is due")
    decrease: float = Field(
        default=0.5, gt=0, lt=1, description="factor on the share of a source below the threshold, per decision"
    )
    strong_decrease: float = Field(
        default=0.02, gt=0, lt=1, description="factor when it is harmful, or behind by twice the margin, beyond error"
    )
    max_move: Share = Field(default=0.5, description="most share that one decision may move in all")
    floor: Share = Field(default=0.01, description="least share of a source that starts above 0")
    real_floor: Share = Field(default=0.1, description="least share of all real sources together")

    @model_validator(mode="after")
    def _decreases_agree(self) -> Self:
        if self.strong_decrease > self.decrease:
            raise ValueError(f"strong_decrease {self.strong_decrease} must not be above decrease {self.decrease}")
        return self


@dataclass(frozen=True, kw_only=True)
class FeedbackState(PlainState):
    """The source values measured at the newest evaluations, oldest first, and the floors in millionths."""

    evaluations: tuple[MeasuredValues, ...]
    floors: Mapping[str, int]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The state of which ``value`` is the ``to_json``."""
        return cls(evaluations=tuple(map(MeasuredValues.from_json, value["evaluations"])), floors=value["floors"])


kind = "feedback"
Config = FeedbackConfig
State = FeedbackState


def begin(config: FeedbackConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> FeedbackState:
    """No measurements yet, and the floors in millionths: above the start share only where given for a source by name.

    Raises ``UserError`` for bounds on unknown sources or against the start shares.
    """
    check_bounds(config, shares)
    least_real, floors = least_real_shares(config.real_floor, shares, kinds), {}
    step = step_within(config, shares)
    for name, share in shares.items():
        floor = max(config.floor, least_real.get(name, 0.0))
        floors[name] = min(share // step * step, rounded_up(config.floors.get(name, floor), step))
    return FeedbackState(evaluations=(), floors=floors)


def needs(config: FeedbackConfig, max_epochs: float = inf) -> Needs:
    """Source values, after the warm-up: earlier ones would not be used."""
    return Needs(source_value_from=config.warm_up)


def propose(config: FeedbackConfig, state: FeedbackState, observation: Observation) -> tuple[FeedbackState, Proposal]:
    """New shares where the evidence asks for them, else those in force; sources at share 0 stay there."""
    if observation.progress < config.warm_up:
        reason = f"Source values are not used before progress {config.warm_up:g} (now {observation.progress:.3f})."
        early = {"progress": observation.progress, "warm_up": config.warm_up}
        return state, Proposal(shares=dict(observation.shares), reason=reason, evidence=early)
    evaluations = with_source_values(state.evaluations, observation)
    if len(evaluations) == 0 or evaluations[-1].step != observation.step:
        return state, Proposal(
            shares=dict(observation.shares), reason="No source value was measured at this evaluation.", evidence={}
        )
    state = replace(state, evaluations=evaluations)
    scores, factors = _judged(config, evaluations, observation.shares)
    evidence = _evidence(config, evaluations, scores)
    if len(scores) < 2:
        reason = f"Fewer than two sources have {config.min_evaluations} measurements of their value so far."
        return state, Proposal(shares=dict(observation.shares), reason=reason, evidence=evidence)
    targets = _targets(config, state.floors, observation.shares, scores, factors)
    shares = rounded(targets, step=step_within(config, observation.shares)) if targets else dict(observation.shares)
    evidence = {**evidence, "factors": factors}
    return state, Proposal(
        shares=shares, reason=_reason(config, observation.shares, shares, scores, factors), evidence=evidence
    )


def _judged(
    config: FeedbackConfig, evaluations: Sequence[MeasuredValues], shares: Mapping[str, int]
) -> tuple[dict[str, SourceScore], dict[str, float]]:
    """The scores of the sources, and by what the shares of those below the threshold are multiplied.

    Repeated until no other falls below it: a source below the threshold, or at its ceiling, gets none of what is freed,
    so no other is compared with it, or of two bad sources the worse one would look better than it is.
    """
    full = {name for name, share in shares.items() if share >= _ceiling(config, name)}
    factors: dict[str, float] = {}
    while True:
        closed = full | factors.keys()
        every = score_sources(
            evaluations, shares, decay=config.decay, min_evaluations=config.min_evaluations, closed=closed
        )
        newest = evaluations[-1].sources
        scores = {name: score for name, score in every.items() if name in newest}  # old noise cuts once
        again = {name: factor for name, score in scores.items() if (factor := _factor(config, score)) < 1}
        if again.keys() <= factors.keys():
            return scores, factors | again
        factors |= again


def _factor(config: FeedbackConfig, score: SourceScore) -> float:
    """What the share of a source is multiplied by: 1 unless it is below the threshold by ``config.z`` errors."""
    behind = score.advantage + config.z * score.advantage_standard_error + config.margin
    harmful = score.source_value + config.z * score.source_value_standard_error < config.harm
    if behind >= 0:
        return 1.0
    return config.strong_decrease if harmful or behind + config.margin < 0 else config.decrease


def _targets(
    config: FeedbackConfig,
    floors: Mapping[str, int],
    shares: Mapping[str, int],
    scores: Mapping[str, SourceScore],
    factors: Mapping[str, float],
) -> dict[str, float]:
    """Shares wanted, in millionths, before rounding; empty when nothing can move."""
    freed = {
        name: max(0.0, shares[name] - max(shares[name] * factor, floors[name])) for name, factor in factors.items()
    }
    room = {
        name: max(0.0, _ceiling(config, name) - shares[name])
        for name, share in shares.items()
        if share > 0 and name not in factors
    }
    amount = min(fsum(freed.values()), config.max_move * SHARE_ONE, fsum(room.values()))
    if amount < step_within(config, shares) / 2:
        return {}
    scale = amount / fsum(freed.values())
    better = {
        name: float(shares[name])
        for name, score in scores.items()
        if name in room and score.advantage > -config.gain_z * score.advantage_standard_error
    }
    gains = filled(amount, better, room)
    remaining = amount - fsum(gains.values())
    rest = {name: room[name] - gains.get(name, 0.0) for name in room}
    for name, gain in filled(remaining, {name: float(shares[name]) for name in room}, rest).items():
        gains[name] = gains.get(name, 0.0) + gain
    return {name: share - scale * freed.get(name, 0.0) + gains.get(name, 0.0) for name, share in shares.items()}


def _ceiling(config: FeedbackConfig, name: str) -> float:
    return config.ceilings.get(name, 1.0) * SHARE_ONE


def explain(evidence: Mapping[str, Any]) -> Sequence[str]:
    """A table of the scores, the threshold, and what was decreased; empty before sources are compared."""
    sources = evidence.get("sources")
    if not sources:
        return ()
    rows = [["source", "source value", "others' value", "advantage", "evaluations"]]
    for source, score in sources.items():
        value, advantage = (
            plus_minus(score.get(key), score.get(f"{key}_standard_error")) for key in ("source_value", "advantage")
        )
        rows.append([source, value, figure(score.get("reference")), advantage, figure(score.get("num_evaluations"))])
    margin, z = figure(evidence.get("margin")), figure(evidence.get("z"))
    factors = [f"{name} {number(factor):.3g}" for name, factor in evidence.get("factors", {}).items()]
    return [
        "Value of a token of each source against the sources its share could go to, in fresh real tokens.",
        *table(rows),
        f"  A source loses share where its advantage is below -{margin} by {z} standard errors or more.",
        *([f"  Part of its share that it keeps, down to its floor: {', '.join(factors)}."] if factors else []),
    ]


def _evidence(
    config: FeedbackConfig, evaluations: Sequence[MeasuredValues], scores: Mapping[str, SourceScore]
) -> dict[str, Any]:
    """Every number the decision rests on."""
    return {
        "sources": {name: score.as_evidence() for name, score in scores.items()},
        "num_evaluations": len(evaluations),
        "z": config.z,
        "gain_z": config.gain_z,
        "margin": config.margin,
        "harm": config.harm,
    }


def _reason(
    config: FeedbackConfig,
    before: Mapping[str, int],
    after: Mapping[str, int],
    scores: Mapping[str, SourceScore],
    factors: Mapping[str, float],
) -> str:
    """One sentence: who lost and why, who gained."""
    if dict(before) == dict(after):
        if factors:
            return f"{_names(factors)} below the threshold, but already at the floor."
        return f"No source is worth {config.margin:g} less than the others beyond {config.z:g} standard errors."
    lost = [
        f"{name} from {share_figure(before[name])} to {share_figure(after[name])} (a token of it is worth"
        f" {scores[name].source_value:.2f} ± {scores[name].source_value_standard_error:.2f} of a fresh real one,"
        f" {-scores[name].advantage:.2f} ± {scores[name].advantage_standard_error:.2f} less than the others')"
        for name in factors
        if after[name] < before[name]
    ]
    gained = [f"{name} (now {share_figure(after[name])})" for name in after if after[name] > before[name]]
    return f"Share falls for {'; '.join(lost)}; it goes to {', '.join(gained)}."


def _names(names: Mapping[str, float]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
