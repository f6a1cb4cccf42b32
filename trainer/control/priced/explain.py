"""Last part of a decision: its evidence, its reason, and both in words for a reader of the run."""

from collections.abc import Iterator, Mapping, Sequence
from math import fsum, isfinite
from typing import Any

from trainer.base.formatting import figure, percent_about, plus_minus, table
from trainer.base.json_values import number
from trainer.base.records import Kind, Observation
from trainer.control.priced import forgetting
from trainer.control.priced.afford import BudgetPlan
from trainer.control.priced.config import PricedConfig
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.estimators import weighted_by_shares
from trainer.control.priced.learn import known_advantages
from trainer.control.priced.move import pull_to_start
from trainer.control.priced.prior import (
    Disagreement,
    disagreements,
    disagreements_in_words,
    said_by_text,
    source_priors,
)
from trainer.control.priced.state import PricedState
from trainer.control.priced.trust_region import Step
from trainer.mixture.shares import FUZZ

TRUST_REGION, REAL_BUDGET = "trust region", "real-data budget"
OUT_OF_REACH = 100  # times the advantage of real data, that a price can be
LIMITS = {  # by name, what each of them does
    TRUST_REGION: "trust region (the step is as far as this much evidence allows in one decision)",
    REAL_BUDGET: "real-data budget (the real tokens left are enough for no greater share)",
}
LIMITS_OF_SOURCES = {
    "floor of ": "floor of {} (no share below its least)",
    "ceiling of ": "ceiling of {} (no share above its greatest)",
}


def evidence_of(
    config: PricedConfig, state: PricedState, step: Step | None, plan: BudgetPlan, observation: Observation
) -> dict[str, Any]:
    """Every number the decision rests on, JSON-able."""
    advantages, kinds = known_advantages(state, state.base, state.prior), observation.kinds
    pull = pull_to_start(config, state, {name: share for name, share in state.base.items() if share > 0})
    sources = {
        name: {
            **advantage.to_json(),
            "share_by_value": state.base.get(name, 0.0),
            "pull": pull.get(name, 0.0),
            "estimators": {estimator: estimate.to_json() for estimator, estimate in state.estimates[name].items()},
        }
        for name, advantage in advantages.items()
    }
    real_advantage, by_text = _real_advantage(state, advantages, kinds), said_by_text(config, observation)
    margin = plan.budget.marginal if isfinite(plan.budget.marginal) else 1.0
    return {
        "unit": state.unit,  # value of a fresh real token, in the unit of the values; None where it is not known
        "sources": sources,
        "prior_values": {
            name: {**prior.to_json(), "by_text": name in by_text}
            for name, prior in source_priors(config, observation).items()
            if kinds[name] == "synthetic" and config.real_epochs is None
        },
        "disagreements": {name: found.to_json() for name, found in disagreements(config, state, observation).items()},
        "real_advantage": real_advantage,
        # What a real token would have to be worth more than a synthetic one to be drawn beyond the plan: the advantage
        # of real data now, times what a token does at the margin of the plan over what it does now.
        "price": max(0.0, real_advantage or 0.0) * margin if plan.is_binding else 0.0,
        "budget": plan.budget.as_evidence(),
        "forgetting": forgetting.as_evidence(config.advanced.curvature, state.probes),
        "limits": _limits(config, state, step, plan),
        "threshold": config.advanced.z,
        "trust_region": None if step is None else {"radius": step.radius, "divergence": step.divergence},
    }


def reason_of(state: PricedState, plan: BudgetPlan, evidence: Mapping[str, Any], observation: Observation) -> str:
    """One sentence: what the shares are, by what evidence, within which limits."""
    waits = " Scarce real data wait until it is known how fast the model forgets." if plan.budget.waits else ""
    if not evidence["sources"]:
        said = [name for name, prior in evidence["prior_values"].items() if prior["by_text"]]
        if said:
            return f"Shares follow the prior values of {', '.join(said)}; nothing is measured yet.{waits}"
        return f"Nothing is known yet of the value of the sources.{waits}"
    values = [
        f"{name} {source['value']:+.3g} ± {source['standard_error']:.2g}"
        for name, source in evidence["sources"].items()
        if observation.shares.get(name, 0) > 0
    ]
    text = f"Value of a token less the others': {', '.join(values)}.{waits}"
    if plan.is_binding:
        budget = plan.budget
        text += (
            f" The real-data budget allows a share of {budget.share:.{3 if (budget.share or 0.0) >= 0.01 else 6}f} now"
            f" ({budget.used:.0f} of {budget.samples:.0f} samples used)."
        )
    text = " ".join([text, *disagreements_in_words(_disagreements(evidence))])
    return f"{text} Limited by: {', '.join(evidence['limits'])}." if evidence["limits"] else text


def estimates_by_share(sources: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """The advantage of each source by each estimator alone, over the others by share as the pooled value is.

    ``sources`` of the evidence hold them over the plain mean of the others; for two sources that is the same.
    """
    shares = {name: number(source.get("share_by_value")) for name, source in sources.items()}
    weighted: dict[str, dict[str, Estimate]] = {name: {} for name in sources}
    for estimator in dict.fromkeys(key for source in sources.values() for key in source.get("estimators", {})):
        unweighted = {
            name: Estimate(
                value=number(source["estimators"][estimator]["value"]),
                standard_error=number(source["estimators"][estimator]["standard_error"]),
            )
            for name, source in sources.items()
            if estimator in source.get("estimators", {})
        }
        for name, estimate in weighted_by_shares(unweighted, shares).items():
            weighted[name][estimator] = estimate
    return weighted


def explain(evidence: Mapping[str, Any]) -> Sequence[str]:
    """The evidence in lines: a table of the sources, the budget, how fast the model forgets, the price, the limits."""
    if not evidence:
        return ()
    sentences = (*_unit(evidence), *_movement(evidence), *_budget(evidence), *_forgetting(evidence))
    limits = [_limit(name) for name in evidence.get("limits") or []]
    return [
        "Value of a token of each source less the others', and what the real-data budget allows.",
        *_sources(evidence.get("sources", {})),
        *(f"  {sentence}" for sentence in sentences),
        f"  {_price(evidence)}",
        f"  Limited by: {', '.join(limits)}." if limits else "  No limit was active.",
    ]


def _real_advantage(state: PricedState, advantages: Mapping[str, Estimate], kinds: Mapping[str, Kind]) -> float | None:
    """The advantage of real data over the others, weighted by share, in the unit of the values."""
    real = [name for name in advantages if kinds[name] == "real" and state.base.get(name, 0.0) > 0]
    if not real:
        return None
    weight = fsum(state.base[name] for name in real)
    return fsum(state.base[name] * advantages[name].value for name in real) / weight


def _limits(config: PricedConfig, state: PricedState, step: Step | None, plan: BudgetPlan) -> list[str]:
    """What limits the shares besides the evidence."""
    limits = [TRUST_REGION] if step is not None and step.is_limited else []
    if plan.is_binding:
        limits.append(REAL_BUDGET)
    for name, share in state.base.items():
        if 0 < share <= state.floors[name] + FUZZ:
            limits.append(f"floor of {name}")
        if share >= config.ceilings.get(name, 1.0) - FUZZ:
            limits.append(f"ceiling of {name}")
    return limits


def _sources(sources: Mapping[str, Any]) -> list[str]:
    """A table: pooled value, each estimator, the pull to the start, and the share that value and pull give."""
    if not sources:
        return ["  Nothing is known yet of their value."]
    alone = estimates_by_share(sources)
    names = list(dict.fromkeys(name for estimates in alone.values() for name in estimates))
    rows = [["source", "value", *(f"by {name}" for name in names), "pull to the start", "share by value"]]
    for source, row in sources.items():
        estimates = [_estimate(alone[source].get(name)) for name in names]
        value = plus_minus(row.get("value"), row.get("standard_error"))
        pull = f"{number(row['pull']):+.2f}" if "pull" in row else "-"
        rows.append([source, value, *estimates, pull, _percent(row.get("share_by_value"))])
    return table(rows)


def _estimate(estimate: Estimate | None) -> str:
    return "-" if estimate is None else plus_minus(estimate.value, estimate.standard_error)


def _percent(share: Any) -> str:
    return "-" if share is None else percent_about(number(share))


def _unit(evidence: Mapping[str, Any]) -> Iterator[str]:
    if not evidence.get("sources"):
        return
    unit = evidence.get("unit")
    yield "Values are what a share gains, in held-out nats per token and unit of learning rate" + (
        f"; a fresh real token is worth {figure(unit)} of that now." if unit is not None else "."
    )
    yield from _priors(evidence.get("prior_values") or {})
    yield from disagreements_in_words(_disagreements(evidence))


def _priors(priors: Mapping[str, Any]) -> Iterator[str]:
    """What the sources were assumed to be worth."""
    said = [f"{name} {row['value']:.2f} ± {row['standard_error']:.2f}" for name, row in priors.items()]
    if said:
        by_text = " by n-grams" if all(row.get("by_text") for row in priors.values()) else ""
        yield (
            f"Prior value of a token{by_text}: {', '.join(said)} of a fresh real one; it counts as far as measurements"
            " do not contradict it."
        )


def _disagreements(evidence: Mapping[str, Any]) -> dict[str, Disagreement]:
    return {name: Disagreement.from_json(row) for name, row in (evidence.get("disagreements") or {}).items()}


def _movement(evidence: Mapping[str, Any]) -> Iterator[str]:
    if not evidence.get("sources"):
        return
    threshold, region = evidence.get("threshold"), evidence.get("trust_region")
    yield f"A value and its pull count beyond {figure(threshold)} standard errors" + (
        f"; the step went {number(region['divergence']):.2g} of at most {number(region['radius']):.2g} nats (KL)."
        if region and number(region["radius"]) > 0
        else "; no share moved by value."
    )


def _budget(evidence: Mapping[str, Any]) -> Iterator[str]:
    budget = evidence["budget"]
    used = f"{figure(budget.get('used_samples'))} samples used"
    if budget.get("samples") is None:
        yield f"Real data: {used}; no budget limits them."
        return
    share = (
        f"what is left is enough for a share of {_percent(budget['planned_share'])} now."
        if budget.get("planned_share") is not None
        else "what is left is enough for any share."
    )
    yield (
        f"Real data: {used} of {figure(budget['samples'])}, {number(budget['used_epochs']):.2f} of "
        f"{figure(budget['planned_epochs'])} epochs; {share}"
    )
    yield (
        f"Beyond those epochs one more repeat is worth {number(budget['value_of_repeat']):.2f} of a new token;"
        f" one more new sample would do as much as {number(budget['value_of_new_sample']):.2f} drawn once."
    )


def _forgetting(evidence: Mapping[str, Any]) -> Iterator[str]:
    """How fast the model forgets, and how surely that is known; nothing where it is not measured."""
    forgetting = evidence.get("forgetting") or {}
    if forgetting.get("is_configured"):
        yield f"How fast the model forgets is configured: curvature {figure(forgetting['curvature'])} per unit of rate."
    elif forgetting.get("measured"):
        measured = plus_minus(forgetting["measured"]["value"], forgetting["measured"]["standard_error"])
        sure = "" if forgetting["curvature"] is not None else ", not surely above 0: the plan stays level"
        probes = "1 probe" if forgetting["num_probes"] == 1 else f"{figure(forgetting['num_probes'])} probes"
        yield f"How fast the model forgets: curvature {measured} per unit of learning rate, by {probes}{sure}."
    elif evidence["budget"].get("waits"):
        yield "How fast the model forgets is not known yet: scarce real data wait for the first probe."


def _price(evidence: Mapping[str, Any]) -> str:
    """The price of a real token, against what a fresh one does and against the advantage of real data now."""
    if not evidence.get("sources"):
        return "Price of a real token: not known before the sources are compared."
    price, unit, advantage = number(evidence["price"]), evidence.get("unit"), evidence.get("real_advantage")
    if not price > 0:
        is_limited = REAL_BUDGET in (evidence.get("limits") or [])
        free = "have no advantage over the others now" if is_limited else "are not limited by the budget"
        return f"Price of a real token now: {figure(price)}; real data {free}."
    if advantage is not None and price > OUT_OF_REACH * number(advantage) > 0:
        forgotten = "what it does now is forgotten by the end of the run"
        return f"Price of a real token now: out of reach ({price:.2g}), since {forgotten}."
    text = f"Price of a real token now: {figure(price)}"
    if unit is not None and number(unit) > 0:
        text += f", or {number(price / number(unit)):.2f} of what a fresh one does"
    text += (
        ". Drawn beyond the plan it would be missing later, so it has to be worth that much more than a synthetic one"
    )
    if advantage is not None:
        text += f"; real data are worth {figure(advantage)} more now"
    return text + "."


def _limit(name: str) -> str:
    for prefix, words in LIMITS_OF_SOURCES.items():
        if name.startswith(prefix):
            return words.format(name.removeprefix(prefix))
    return LIMITS.get(name, name)
