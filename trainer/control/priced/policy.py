"""The policy that puts a price on real tokens: shares follow measured value, within what the real data can pay for.

Two questions are kept apart. *What would the shares be if tokens cost nothing?* is answered by evidence: the value of
each source against the others (``trainer.control.priced.estimates``), fused by inverse variance from dithered shares,
from alignments of gradients less what their noise costs, and from rehearsals; ``base`` shares go up and down with it by
exponentiated gradient, only beyond the error, inside a trust region. *What can be paid?* is arithmetic: the real tokens
left, the discount on repeats (``trainer.control.priced.repeats``) and the learning rates ahead give a curve that just
spends the budget (``trainer.control.priced.real_budget``); real data get the lesser of the two. Where the second binds
a real token has a price: the advantage that spending it later would bring. What is drawn instead are the synthetic
sources by their value against each other (``instead``): against real data the useful ones lose share with the useless
ones.

Nearest in print: EG with a KL trust region (Olmix, 2602.12237), PiKE's variance term (2502.06244), the constrained form
of CMR (2407.17467); placing scarce data by the schedule is 2605.25698. The loop real/synthetic share from held-out real
loss in one run, with a price, is ours.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from math import ceil, floor, fsum, isfinite, log
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from trainer.base.records import SHARE_ONE, SHARE_STEP, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, Share, check_bounds
from trainer.control.priced import forgetting
from trainer.control.priced.dither import dithered
from trainer.control.priced.estimates import Estimate, fused, renewed
from trainer.control.priced.estimators import Estimator, Gaps, against, fresh_unit, gaps_by_source, held_for
from trainer.control.priced.real_budget import (
    Budget,
    Terms,
    budgeted,
    coming_samples,
    concentrated,
    spent,
    synthetic_less_real,
    within_caps,
    worthwhile_epochs,
)
from trainer.control.priced.spending_curve import Ahead, ahead, noise_rate
from trainer.control.priced.trust_region import Pace, Step, divergence, step
from trainer.mixture.shares import FUZZ, redistributed, rounded, within

DITHER_EVALUATIONS = 40  # of which the spans are remembered
# In sweeps on text (0.3 M parameters, rephrased encyclopedia entries) real shares that came to 7.4 epochs were best of
# 2.5 to 25 where real text was 4 % of the tokens, and 6.6 of 4 to 13 where it was 8 %: by the published discount one
# more repeat is then worth 0.66 to 0.70 of a fresh token. The error is a guess at how far sources of a kind differ.
USEFUL, USEFUL_ERROR = 2 / 3, 0.2
STILL = Pace(reach={}, sides={}, scale=0.0)  # nothing has moved yet
LEAST_SHARE = SHARE_STEP / SHARE_ONE  # a share of 0 is for good


class PricedConfig(Bounds):
    """Follow measured value, and spend real tokens where they do most for the final model."""

    kind: Literal["priced"]
    estimators: tuple[Estimator, ...] = Field(
        default=("dither", "source_value"), min_length=1, description="where the value of a source is read from"
    )
    warm_up: float = Field(default=0.15, ge=0, lt=1, description="progress before which nothing is measured or moved")
    z: float = Field(default=1.5, gt=0, description="standard errors by which a gap must exceed zero to count")
    trust_region: float = Field(
        default=0.02, gt=0, description="most KL divergence of a decision on evidence that just counts, in nats"
    )
    memory: float = Field(
        default=0.8, ge=0, lt=1, description="weight of evidence against that of the next measurement"
    )
    dither: float = Field(default=0.1, ge=0, lt=1, description="size of the balanced changes, as a part of a share")
    prior_synthetic_value: float = Field(
        default=USEFUL,
        gt=0,
        le=1,
        description="what a synthetic token is held for, in fresh real ones, until it is measured; it says how often"
        " real data are repeated, unless real_epochs does",
    )
    mixing: float = Field(
        default=0.2,
        ge=0,
        description="what keeping to the starting mixture is worth, in fresh real tokens per e-fold of a share, where"
        " rehearsals give that unit: no useful source is driven out by a better one",
    )
    real_epochs: float | None = Field(
        default=None,
        gt=0,
        description="budget: most epochs of real data, less where mixture.max_epochs caps a source; null: until a "
        "repeat is worth no more than a synthetic token, at two thirds of a fresh one 7.2",
    )
    concentration: float = Field(
        default=12.0,
        ge=0,
        description="how far real data that is not repeated follows the schedule's kernel: 0 level, 1 in proportion",
    )
    curvature: float | None = Field(
        default=None,
        gt=0,
        description="h of the kernel, per unit of learning rate; null: as the run measures it, level until it is sure",
    )
    floor: Share = Field(default=0.01, description="least share of a source that starts above 0")
    real_floor: Share = Field(default=0.1, description="least share of all real sources together")

    @model_validator(mode="after")
    def _estimators_agree(self) -> Self:
        if len(set(self.estimators)) < len(self.estimators):
            raise ValueError(f"each estimator can be given once, got {list(self.estimators)}")
        if "dither" in self.estimators and self.dither == 0:
            raise ValueError("estimator dither needs dither above 0")
        return self


def begin(config: PricedConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Base shares as they start, nothing known. ``UserError`` for bounds that do not fit the start shares."""
    check_bounds(config, shares)
    all_real = fsum(share for name, share in shares.items() if kinds[name] == "real")
    floors = {}
    for name, share in shares.items():
        least = config.floor if kinds[name] == "synthetic" else 0.0
        if kinds[name] == "real" and all_real:
            least = config.real_floor * share / all_real
        wanted = ceil(config.floors.get(name, least) * SHARE_ONE / SHARE_STEP - FUZZ) * LEAST_SHARE
        start = floor(share / SHARE_STEP) * LEAST_SHARE
        floors[name] = max(wanted if name in config.floors else min(wanted, start), LEAST_SHARE) if share else 0.0
    return {
        "floors": floors,
        "base": {name: share / SHARE_ONE for name, share in shares.items()},
        "targets": {name: share / SHARE_ONE for name, share in shares.items()},
        "start": {name: share / SHARE_ONE for name, share in shares.items()},
        "instead": _parts({name: share / SHARE_ONE for name, share in shares.items()}, kinds),
        "prior": {},
        "unit": None,
        "proposed": None,
        "known": {},
        "measured_at": 0.0,
        "pace": asdict(STILL),
        "instead_pace": asdict(STILL),
        "probes": [],
        "index": 0,
        "progress": 0.0,
        "span": 0.0,
        "spans": [],
    }


def source_value_from(config: PricedConfig) -> float | None:
    """Progress from which worths count; None where they are not asked for."""
    return config.warm_up if "source_value" in config.estimators else None


def gradient_alignment_from(config: PricedConfig) -> float | None:
    """Progress from which alignments count; None where they are not asked for."""
    return config.warm_up if "alignment" in config.estimators else None


def forgetting_from(config: PricedConfig, max_epochs: float) -> float | None:
    """Progress from which the fading of what is learnt counts, with real data capped at so many epochs; None where the
    curvature is told, or the plan level whatever it is."""
    follows = concentrated(min(most_real_epochs(config), max_epochs), config.concentration) > 0
    return config.warm_up if follows and config.curvature is None else None


def propose(config: PricedConfig, state: dict[str, Any], observation: Observation) -> tuple[dict[str, Any], Proposal]:
    """Shares for the next span: base shares by value, real ones within the budget, dithered, inside their bounds."""
    state = _followed(state, observation)
    state = {**state, "probes": forgetting.noted(state["probes"], observation)}
    rest = ahead(observation.horizon.rates, num_steps=observation.horizon.num_steps, progress=observation.progress)
    found: Gaps = {}
    curvature = forgetting.curvature(config.curvature, state["probes"])
    prices = (
        _noise_price(curvature, observation, rest),
        _noise_price(curvature, observation, _span(observation, state["span"])),
    )
    if observation.progress >= config.warm_up:
        found = gaps_by_source(observation, state["spans"], estimators=config.estimators, noise_prices=prices)
        state = _held(config, _learnt(config, state, found, observation), observation)
    moved = None
    if found:
        moved = _moved(config, state, state["base"], state["pace"], state["prior"])
        state = _stepped(config, state, moved)
    budget = _budgeted(config, state, observation, rest)
    targets, least = _affordable(config, state, budget, observation.kinds)
    state = {**state, "targets": targets}
    if "dither" in config.estimators and observation.progress >= config.warm_up:
        waves = dithered(targets, state["index"], amplitude=config.dither, order=list(observation.shares))
        ceilings = within_caps(
            _ceilings(config, observation.shares), observation, coming_samples(observation, rest, span=state["span"])
        )
        targets = within(waves, least, ceilings, total=1.0)
    shares = rounded(targets)
    state = {**state, "index": state["index"] + 1, "proposed": shares}
    known = _fused(state, state["base"], state["prior"])
    bounds = _active(config, state, moved, budget, observation.kinds)
    evidence = _evidence(config, state, known, moved, budget, bounds, observation.kinds)
    return state, Proposal(shares=shares, reason=_reason(observation, known, budget, bounds), evidence=evidence)


def _followed(state: dict[str, Any], observation: Observation) -> dict[str, Any]:
    """The state with the span that ends here: its shares, summed learning rate, and the loss after it.

    Where others decided (the guard's veto or cut) the spans start again, and sources that were cut are gone; what value
    asks for stays as it was, which the shares in force do not say where the budget made them. After a rollback the loss
    before is not that of these weights, and the spans start again.
    """
    if state["proposed"] is not None and dict(observation.shares) != state["proposed"]:
        inforce = {name: share / SHARE_ONE for name, share in observation.shares.items()}
        base, instead = (_left(state[key], observation) for key in ("base", "instead"))
        state = {**state, "base": base, "instead": instead, "targets": inforce, "spans": []}
    if observation.progress < state["progress"]:
        state = {**state, "spans": [], "progress": max(0.0, observation.progress - state["span"])}
    rates, num_steps = observation.horizon.rates, observation.horizon.num_steps
    before = ahead(rates, num_steps=num_steps, progress=state["progress"])
    now = ahead(rates, num_steps=num_steps, progress=observation.progress)
    span = {
        "loss": observation.evaluation.nats_per_token,
        "rate_sum": float(before.steps @ before.rates - now.steps @ now.rates),
        "waves": [share / SHARE_ONE - state["targets"].get(name, 0.0) for name, share in observation.shares.items()],
    }
    spans = [*state["spans"], span][-DITHER_EVALUATIONS:]
    return {**state, "spans": spans, "span": observation.progress - state["progress"], "progress": observation.progress}


def _left(shares: Mapping[str, float], observation: Observation) -> dict[str, float]:
    """``shares`` without sources that are not drawn now."""
    gone = [name for name in shares if observation.shares.get(name, 0) == 0]
    return redistributed(shares, gone, observation.kinds) or dict.fromkeys(shares, 0.0)


def _parts(shares: Mapping[str, float], kinds: Mapping[str, Kind]) -> dict[str, float]:
    """What each synthetic source has of what they have together."""
    written = {name: share for name, share in shares.items() if kinds[name] == "synthetic"}
    total = fsum(written.values())
    return {name: share / total for name, share in written.items()} if total else {}


def _span(observation: Observation, span: float) -> Ahead:
    """The steps since the reading before, at the present rate."""
    rate = ahead(
        observation.horizon.rates, num_steps=observation.horizon.num_steps, progress=observation.progress
    ).rates[:1]
    return Ahead(steps=np.array([max(span * observation.horizon.num_steps, 1.0)])[: len(rate)], rates=rate)


def _noise_price(curvature: float | None, observation: Observation, rest: Ahead) -> float:
    """What a gradient variance of 1 per sample costs in final loss: h eta / 2B at the rate that ``noise_rate`` says."""
    if curvature is None or not rest.rates.any():
        return 0.0
    return curvature * noise_rate(rest, curvature) / (2 * observation.horizon.global_batch)


def _learnt(config: PricedConfig, state: dict[str, Any], found: Gaps, observation: Observation) -> dict[str, Any]:
    """The state with what each estimator knows of each source now, joined with what it knew before; ``measured_at`` how
    many epochs of real data that was.

    The dither looks at all its spans each time, so it takes the place of what it said before. What is not measured
    again stays as sure as it was: a source does not become an unknown one because nobody looks.
    """
    if not found:
        return state
    known, unit = {}, fresh_unit(observation, config.estimators)
    if any(who != "dither" for fresh in found.values() for who in fresh):
        state = {**state, "measured_at": spent(observation, _drawn(state)).epochs}
    for name, fresh in found.items():
        before = {who: Estimate(**one) for who, one in state["known"].get(name, {}).items()}
        now = {who: one.aged(config.memory) if who in fresh else one for who, one in before.items() if who != "dither"}
        for who, one in fresh.items():
            now[who] = one if who == "dither" else renewed(now.get(who), one)
        known[name] = {who: one.as_evidence() for who, one in now.items()}
    return {**state, "known": known, "unit": state["unit"] if unit is None else unit}


def _held(config: PricedConfig, state: dict[str, Any], observation: Observation) -> dict[str, Any]:
    """The state with what sources are held for as long as little is measured; nothing where the epochs of real data are
    told, and with them what a repeat is worth.
    """
    if config.real_epochs is not None or state["unit"] is None:
        return state
    prior = held_for(observation, config.prior_synthetic_value, error=USEFUL_ERROR, unit=state["unit"])
    return {**state, "prior": {name: one.as_evidence() for name, one in prior.items()}}


def _fused(
    state: dict[str, Any], shares: Mapping[str, float], prior: Mapping[str, Mapping[str, float]]
) -> dict[str, Estimate]:
    """What is known of each source that is drawn and in ``shares`` against the others there, over its estimators; what
    it was held for before counts unless that is plainly not what it is.
    """
    known = {
        name: renewed(
            Estimate(**prior[name]) if name in prior else None,
            fused({who: Estimate(**one) for who, one in estimates.items()}),
        )
        for name, estimates in state["known"].items()
        if state["base"].get(name, 0.0) > 0
    }
    return against(known, shares)


def _moved(
    config: PricedConfig,
    state: dict[str, Any],
    shares: Mapping[str, float],
    pace: Mapping[str, Any],
    prior: Mapping[str, Mapping[str, float]],
) -> Step:
    """The step of ``shares`` on what is known.

    A source may be better than the others only for the sake of one that now loses its share: such a one goes on, with
    the gap that it has after the step, as far as the trust region of the whole decision allows.
    """
    base = {name: share for name, share in shares.items() if share > 0}
    before = _pulled(config, state, base, prior)
    moved = step(base, before, Pace(**pace), z=config.z, trust=config.trust_region)
    turned = {
        name: gap
        for name, gap in _pulled(config, state, moved.shares, prior).items()
        if gap.value * before[name].value < 0 and before[name].significance > config.z
    }
    if turned and not moved.is_held_back:
        # measured by their own gaps, not by the one that is out of the way
        further = step(moved.shares, turned, STILL, z=config.z, trust=config.trust_region).shares
        if divergence(further, base) <= moved.radius:
            moved = replace(moved, shares=further, divergence=divergence(further, base))
    return moved


def _pulled(
    config: PricedConfig, state: dict[str, Any], base: Mapping[str, float], prior: Mapping[str, Mapping[str, float]]
) -> dict[str, Estimate]:
    """Gaps at the shares of ``base``, with the pull towards the starting mixture."""
    pull = _pull(config, state, base)
    known = _fused(state, base, prior)
    return {name: replace(one, value=one.value + pull[name]) for name, one in known.items()}


def _pull(config: PricedConfig, state: dict[str, Any], base: Mapping[str, float]) -> dict[str, float]:
    """What is added to the gap of each source for being far from the starting mixture.

    The gradient of -mixing KL(base | start), against the others' like a gap: where it balances the values, shares are
    start e^(value/mixing), as in KL-regularised proposals (Olmix, arXiv 2602.12237). Mixing regularises: in trials on
    text with 700 real samples, half or a quarter real were alike (4.29 nats), real alone was worst (5.44), though a
    real token is worth more than a synthetic one at every single reading.
    """
    if state["unit"] is None:
        return dict.fromkeys(base, 0.0)
    apart = {name: log(share / state["start"][name]) for name, share in base.items()}
    mean = fsum(base[name] * apart[name] for name in base)
    return {
        name: -config.mixing * state["unit"] * (apart[name] - mean) / max(1 - base[name], LEAST_SHARE) for name in base
    }


def _stepped(config: PricedConfig, state: dict[str, Any], moved: Step) -> dict[str, Any]:
    """The state after a step of the base, and one of what is drawn instead of real data."""
    base = within(moved.shares, state["floors"], _ceilings(config, moved.shares), total=1.0)
    state = {**state, "base": {**dict.fromkeys(state["base"], 0.0), **base}, "pace": asdict(moved.pace)}
    if not fsum(state["instead"].values()):
        return state
    among = _moved(config, state, state["instead"], state["instead_pace"], {})
    least = dict.fromkeys(among.shares, LEAST_SHARE)  # floors hold for what is drawn; this is for coming back
    instead = within(among.shares, least, dict.fromkeys(among.shares, 1.0), total=1.0)
    return {**state, "instead": {**dict.fromkeys(state["instead"], 0.0), **instead}, "instead_pace": asdict(among.pace)}


def _ceilings(config: PricedConfig, names: Mapping[str, object]) -> dict[str, float]:
    return {name: config.ceilings.get(name, 1.0) for name in names}


def _budgeted(config: PricedConfig, state: dict[str, Any], observation: Observation, rest: Ahead) -> Budget:
    """The budget as it stands, and the curve that just spends it."""
    terms = Terms(
        real_epochs=_real_epochs(config, state, observation),
        concentration=config.concentration,
        curvature=forgetting.curvature(config.curvature, state["probes"]),
        waits_until=forgetting.waits_until(forgetting_from(config, 0.0), state["probes"], observation),
    )
    return budgeted(
        observation,
        rest,
        terms,
        wanted=_real_share(state, observation.kinds),
        span=state["span"],
        floors={
            name: _least_planned(config, name, observation.kinds[name], least)
            for name, least in state["floors"].items()
        },
    )


def most_real_epochs(config: PricedConfig) -> float:
    """The budget before anything is measured."""
    return worthwhile_epochs(_useful(config), None, 0.0) if config.real_epochs is None else config.real_epochs


def _real_epochs(config: PricedConfig, state: dict[str, Any], observation: Observation) -> float:
    """The budget on what is known now: told, or what a synthetic token is worth against a real one."""
    if config.real_epochs is not None or state["unit"] is None:
        return most_real_epochs(config)
    # of those that are drawn instead of real ones
    instead, left = state["instead"], 1 - _real_share(state, observation.kinds)
    shares = {name: instead.get(name, 0.0) * left or state["base"][name] for name in _drawn(state)}
    behind = synthetic_less_real(_fused(state, shares, {}), shares, observation.kinds, unit=state["unit"])
    return worthwhile_epochs(_useful(config), behind, state["measured_at"])


def _useful(config: PricedConfig) -> Estimate:
    """SourceValue of a synthetic token before it is measured, in fresh real ones."""
    return Estimate(value=config.prior_synthetic_value, standard_error=USEFUL_ERROR)


def _drawn(state: dict[str, Any]) -> list[str]:
    """Sources that value gives a share."""
    return [name for name, share in state["base"].items() if share > 0]


def _least_planned(config: PricedConfig, name: str, kind: Kind, least: float) -> float:
    """The share below which a plan does not hold a source back: of real ones what their floors say, if they have any.

    The common real floor is for what value asks: it would spend all of a budget that just pays for it.
    """
    return least if kind == "synthetic" else config.floors.get(name, min(least, LEAST_SHARE))


def _affordable(
    config: PricedConfig, state: dict[str, Any], budget: Budget, kinds: Mapping[str, Kind]
) -> tuple[dict[str, float], dict[str, float]]:
    """Base shares with all real sources together at what the budget allows, the rest going to the synthetic ones; and
    the floors that then hold: those of real sources give way to the budget.
    """
    base, ceilings = state["base"], _ceilings(config, state["base"])
    if not _is_binding(state, budget, kinds):
        return dict(base), state["floors"]
    assert budget.share is not None
    real = {name: share if kinds[name] == "real" else 0.0 for name, share in base.items()}
    written = {name: state["instead"].get(name, 0.0) for name in base}
    least = {
        name: min(least, LEAST_SHARE) if kinds[name] == "real" else least for name, least in state["floors"].items()
    }
    total = max(budget.share, fsum(least[name] for name, share in real.items() if share > 0))
    paid = within(real, least, ceilings, total=total)
    rest = within(written, least, ceilings, total=1 - total)
    return {name: paid[name] + rest[name] for name in base}, least


def _is_binding(state: dict[str, Any], budget: Budget, kinds: Mapping[str, Kind]) -> bool:
    """Whether real data get what the plan says, and not what their value asks for now."""
    return budget.share is not None and (budget.is_timed or _real_share(state, kinds) > budget.share)


def _real_share(state: dict[str, Any], kinds: Mapping[str, Kind]) -> float:
    """What value asks for."""
    return fsum(share for name, share in state["base"].items() if kinds[name] == "real")


def _price(state: dict[str, Any], known: Mapping[str, Estimate], budget: Budget, kinds: Mapping[str, Kind]) -> float:
    """What a real token would have to be worth more than a synthetic one to be drawn now beyond the plan.

    In the unit of the gaps: the advantage of real data now, times what a token does at the margin of the plan over
    what it does now. 0 where the budget does not bind.
    """
    base = state["base"]
    real = [name for name in known if kinds[name] == "real" and base.get(name, 0.0) > 0]
    if not real or not _is_binding(state, budget, kinds):
        return 0.0
    weight = fsum(base[name] for name in real)
    advantage = fsum(base[name] * known[name].value for name in real) / weight
    return max(0.0, advantage) * (budget.marginal if isfinite(budget.marginal) else 1.0)


def _active(
    config: PricedConfig, state: dict[str, Any], moved: Step | None, budget: Budget, kinds: Mapping[str, Kind]
) -> list[str]:
    """What holds the shares where they are, beside the evidence."""
    bounds = ["trust region"] if moved is not None and moved.is_held_back else []
    if _is_binding(state, budget, kinds):
        bounds.append("real budget")
    for name, share in state["base"].items():
        if 0 < share <= state["floors"][name] + FUZZ:
            bounds.append(f"floor of {name}")
        if share >= config.ceilings.get(name, 1.0) - FUZZ:
            bounds.append(f"ceiling of {name}")
    return bounds


def _evidence(
    config: PricedConfig,
    state: dict[str, Any],
    known: Mapping[str, Estimate],
    moved: Step | None,
    budget: Budget,
    bounds: list[str],
    kinds: Mapping[str, Kind],
) -> dict[str, Any]:
    """Every number the decision rests on, JSON-able."""
    pull = _pull(config, state, {name: share for name, share in state["base"].items() if share > 0})
    sources = {
        name: {
            **one.as_evidence(),
            "share_by_value": state["base"].get(name, 0.0),
            "pull": pull.get(name, 0.0),
            "estimators": state["known"][name],
        }
        for name, one in known.items()
    }
    return {
        "unit": state["unit"],  # worth of a fresh real token, in the unit of the values; None where it is not known
        "sources": sources,
        "held_for": config.prior_synthetic_value if state["prior"] else None,
        "price": _price(state, known, budget, kinds),
        "budget": budget.as_evidence(),
        "forgetting": forgetting.as_evidence(config.curvature, state["probes"]),
        "bounds": bounds,
        "threshold": config.z,
        "trust_region": {"radius": moved.radius, "divergence": moved.divergence} if moved is not None else None,
    }


def _reason(observation: Observation, known: Mapping[str, Estimate], budget: Budget, bounds: list[str]) -> str:
    """One sentence: what the shares are, by what evidence, under which bounds."""
    waits = " Scarce real data wait until it is known how fast the model forgets." if budget.waits else ""
    if not known:
        return f"Nothing is known yet of what the sources are worth.{waits}"
    said = [
        f"{name} {one.value:+.3g} ± {one.standard_error:.2g}"
        for name, one in known.items()
        if observation.shares.get(name, 0) > 0
    ]
    text = f"Value of a token less the others': {', '.join(said)}.{waits}"
    if "real budget" in bounds:
        text += (
            f" Real data pay for a share of {budget.share:.3f} now"
            f" ({budget.used:.0f} of {budget.samples:.0f} samples used)."
        )
    return f"{text} Held by: {', '.join(bounds)}." if bounds else text
