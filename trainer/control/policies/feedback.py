"""The policy that follows evidence: share goes from sources whose tokens are worth less to those worth more.

Additive increase, multiplicative decrease (AIMD; Chiu and Jain 1989): a source that the pooled evidence condemns keeps
half its share at each decision, next to nothing when the evidence is overwhelming, so that a bad one is soon at a
floor of 0.01. What it loses goes to the sources that are not worth less than the best, in
proportion to their shares. It judges by worth, never by loss: one template repeated has a low loss and is worth
nothing, hard good text has a high loss and is worth much. A source is held against what its share could go to instead,
the sources worth more, and condemned only when it lies below them by a margin and three standard errors; each decision
rests on a measurement of its own, so that one piece of noise cannot cut twice.
"""

from collections.abc import Mapping
from math import fsum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trainer.base.records import SHARE_ONE, SHARE_STEP, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, Share, check_bounds
from trainer.control.source_scores import Standing, remember, standings
from trainer.mixture.shares import filled, rounded, thousandths_up


class FeedbackConfig(Bounds):
    """Move share from sources of little worth to sources of much, on evidence beyond its error."""

    kind: Literal["feedback"]
    warm_up: float = Field(
        default=0.15, ge=0, lt=1, description="progress before which no worth is measured: early ones mislead"
    )
    min_evaluations: int = Field(default=1, ge=1, description="readings of a source before it is judged")
    decay: float = Field(
        default=0.0, ge=0, le=1, description="weight of a measurement relative to the next; 0: only the newest counts"
    )
    z: float = Field(default=3.0, gt=0, description="standard errors by which evidence must exceed a threshold")
    gain_z: float = Field(
        default=2.0, ge=0, description="standard errors that a gaining source may lie below the better ones"
    )
    margin: float = Field(
        default=0.1, ge=0, description="worth below that of better sources that is tolerated, in fresh real tokens"
    )
    harm: float = Field(default=0.0, description="worth below which, beyond error, the strong decrease is due")
    decrease: float = Field(
        default=0.5, gt=0, lt=1, description="factor on the share of a condemned source, per decision"
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


def begin(config: FeedbackConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """No readings yet, and the floors in millionths. Raises ``UserError`` for bounds on unknown sources or against the
    start shares.

    A floor is never above the share at the start, unless it is given for that source by name.
    """
    check_bounds(config, shares)
    all_real = fsum(share for name, share in shares.items() if kinds[name] == "real")
    floors = {}
    for name, share in shares.items():
        floor = config.floor
        if kinds[name] == "real" and all_real > 0:
            floor = max(floor, config.real_floor * share / all_real)
        floors[name] = min(share // SHARE_STEP * SHARE_STEP, thousandths_up(config.floors.get(name, floor)))
    return {"evaluations": [], "floors": floors}


def source_value_from(config: FeedbackConfig) -> float:
    """Progress from which worths count: measuring them earlier would be for nothing."""
    return config.warm_up


def propose(config: FeedbackConfig, state: dict[str, Any], observation: Observation) -> tuple[dict[str, Any], Proposal]:
    """New shares where the evidence asks for them, else those in force; sources at share 0 stay there."""
    if observation.progress < config.warm_up:
        reason = (
            f"SourceValues are not yet counted before progress {config.warm_up:g} (now {observation.progress:.3f})."
        )
        early = {"progress": observation.progress, "warm_up": config.warm_up}
        return state, Proposal(shares=dict(observation.shares), reason=reason, evidence=early)
    evaluations = remember(state["evaluations"], observation)
    if len(evaluations) == 0 or evaluations[-1]["step"] != observation.step:
        return state, Proposal(
            shares=dict(observation.shares), reason="No worth was measured at this reading.", evidence={}
        )
    state = {**state, "evaluations": evaluations}
    found, factors = _judged(config, evaluations, observation.shares)
    evidence = _evidence(config, evaluations, found)
    if len(found) < 2:
        reason = f"Fewer than two sources have {config.min_evaluations} readings of their worth so far."
        return state, Proposal(shares=dict(observation.shares), reason=reason, evidence=evidence)
    targets = _targets(config, state["floors"], observation.shares, found, factors)
    shares = rounded(targets) if targets else dict(observation.shares)
    evidence = {**evidence, "factors": factors}
    return state, Proposal(
        shares=shares, reason=_reason(config, observation.shares, shares, found, factors), evidence=evidence
    )


def _judged(
    config: FeedbackConfig, evaluations: list[dict[str, Any]], shares: Mapping[str, int]
) -> tuple[dict[str, Standing], dict[str, float]]:
    """Where the sources stand, and by what the shares of the condemned are multiplied.

    Again until nobody joins the condemned: whoever is condemned, or at its ceiling, gets none of what is freed, so
    nobody is held against it, or of two bad sources the worse one would look better than it is.
    """
    full = {name for name, share in shares.items() if share >= _ceiling(config, name)}
    factors: dict[str, float] = {}
    while True:
        closed = full | factors.keys()
        standing = standings(
            evaluations, shares, decay=config.decay, min_evaluations=config.min_evaluations, closed=closed
        )
        found = {
            name: one for name, one in standing.items() if name in evaluations[-1]["source_value"]
        }  # old noise cuts once
        again = {name: factor for name, one in found.items() if (factor := _factor(config, one)) < 1}
        if again.keys() <= factors.keys():
            return found, factors | again
        factors |= again


def _factor(config: FeedbackConfig, standing: Standing) -> float:
    """What the share of a source is multiplied by: 1 unless it is condemned beyond ``config.z`` standard errors."""
    behind = standing.gap + config.z * standing.gap_standard_error + config.margin  # below 0: condemned
    harmful = standing.source_value + config.z * standing.source_value_standard_error < config.harm
    if behind >= 0:
        return 1.0
    return config.strong_decrease if harmful or behind + config.margin < 0 else config.decrease


def _targets(
    config: FeedbackConfig,
    floors: Mapping[str, int],
    shares: Mapping[str, int],
    found: Mapping[str, Standing],
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
    if amount < SHARE_STEP / 2:
        return {}
    scale = amount / fsum(freed.values())
    better = {
        name: float(shares[name])
        for name, standing in found.items()
        if name in room and standing.gap > -config.gain_z * standing.gap_standard_error
    }
    gains = filled(amount, better, room)
    left = amount - fsum(gains.values())
    rest = {name: room[name] - gains.get(name, 0.0) for name in room}
    for name, gain in filled(left, {name: float(shares[name]) for name in room}, rest).items():
        gains[name] = gains.get(name, 0.0) + gain
    return {name: share - scale * freed.get(name, 0.0) + gains.get(name, 0.0) for name, share in shares.items()}


def _ceiling(config: FeedbackConfig, name: str) -> float:
    return config.ceilings.get(name, 1.0) * SHARE_ONE


def _evidence(
    config: FeedbackConfig, evaluations: list[dict[str, Any]], found: Mapping[str, Standing]
) -> dict[str, Any]:
    """Every number the decision rests on."""
    return {
        "sources": {name: standing.as_evidence() for name, standing in found.items()},
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
    found: Mapping[str, Standing],
    factors: Mapping[str, float],
) -> str:
    """One sentence: who lost and why, who gained."""
    if dict(before) == dict(after):
        if factors:
            return f"{_names(factors)} condemned by the evidence, but already at the floor."
        return f"No source is worth {config.margin:g} less than the others beyond {config.z:g} standard errors."
    lost = [
        f"{name} from {before[name] / SHARE_ONE:.3f} to {after[name] / SHARE_ONE:.3f} (a token of it is worth"
        f" {found[name].source_value:.2f} ± {found[name].source_value_standard_error:.2f} of a fresh real one,"
        f" {-found[name].gap:.2f} ± {found[name].gap_standard_error:.2f} less than the others')"
        for name in factors
        if after[name] < before[name]
    ]
    gained = [f"{name} (now {after[name] / SHARE_ONE:.3f})" for name in after if after[name] > before[name]]
    return f"Share falls for {'; '.join(lost)}; it goes to {', '.join(gained)}."


def _names(names: Mapping[str, float]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
