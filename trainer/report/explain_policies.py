"""What a decision of ``priced`` or ``feedback`` rests on, as a person would want it told: what each estimator said of
each source, what a real token costs, and what held the shares where they are.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.base.formatting import figure, percent, plus_minus, table
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.estimators import against

OUT_OF_REACH = 100  # times what real data are worth more, that a price can be
BOUNDS = {  # by name, what each of them does
    "trust region": "trust region (the step is as far as this much evidence may go at once)",
    "real budget": "real budget (the real tokens left pay for no greater share)",
}
NAMED_BOUNDS = {  # of a source
    "floor of ": "floor of {} (no share below its least)",
    "ceiling of ": "ceiling of {} (no share above its greatest)",
}


def is_priced(evidence: Mapping[str, Any]) -> bool:
    """Whether a policy's evidence is that of ``priced``."""
    return "price" in evidence and "budget" in evidence


def is_feedback(evidence: Mapping[str, Any]) -> bool:
    """Whether a policy's evidence is that of ``feedback``, with sources compared."""
    sources = evidence.get("sources")
    if not isinstance(sources, Mapping) or not sources:
        return False
    return all(isinstance(one, Mapping) and "gap" in one for one in sources.values())


def estimates_against(sources: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """What each estimator alone says of each source, held against the others by share as the fused value is.

    The policy keeps what they say against the plain mean of the others; for two sources that is the same.
    """
    shares = {name: number(one.get("share_by_value")) for name, one in sources.items()}
    found: dict[str, dict[str, Estimate]] = {name: {} for name in sources}
    for who in dict.fromkeys(who for one in sources.values() for who in one.get("estimators", {})):
        said = {name: one["estimators"][who] for name, one in sources.items() if who in one.get("estimators", {})}
        known = {
            name: Estimate(value=number(one["value"]), standard_error=number(one["standard_error"]))
            for name, one in said.items()
        }
        for name, estimate in against(known, shares).items():
            found[name][who] = estimate
    return found


def advantage(evidence: Mapping[str, Any], kinds: Mapping[str, str]) -> float | None:
    """What real data are worth more than the others, by share, in the unit of the values; None where nothing says."""
    real = {name: one for name, one in evidence["sources"].items() if kinds.get(name) == "real"}
    weight = math.fsum(number(one.get("share_by_value")) for one in real.values())
    if not weight > 0:
        return None
    return math.fsum(number(one["share_by_value"]) * number(one["value"]) for one in real.values()) / weight


def priced_in_words(evidence: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    """The evidence in lines; ``kinds`` of the sources as far as they are known."""
    lines = ["Policy: what a token of each source is worth more than the others', beside what real data can pay for."]
    lines += _sources(evidence.get("sources", {}))
    told = (*_unit(evidence), *_moved(evidence), *_budget(evidence), *_forgetting(evidence))
    lines += [f"  {line}" for line in told]
    lines.append(f"  {_price(evidence, kinds)}")
    bounds = [_bound(name) for name in evidence.get("bounds") or []]
    lines.append(f"  Held by: {', '.join(bounds)}." if bounds else "  No bound was active.")
    return "\n".join(lines)


def feedback_in_words(evidence: Mapping[str, Any]) -> str:
    """The evidence of ``feedback`` in lines."""
    lines = ["Policy: what a token of each source is worth beside those its share could go to, in fresh real tokens."]
    rows = [["source", "source_value", "of those", "gap", "evaluations"]]
    for source, one in evidence["sources"].items():
        source_value, gap = (
            plus_minus(one.get(key), one.get(f"{key}_standard_error")) for key in ("source_value", "gap")
        )
        rows.append([source, source_value, figure(one.get("reference")), gap, figure(one.get("num_evaluations"))])
    lines += table(rows)
    margin, z = figure(evidence.get("margin")), figure(evidence.get("z"))
    lines.append(f"  Condemned is what lies more than {margin} behind, by {z} standard errors and more.")
    kept = [f"{name} {number(factor):.3g}" for name, factor in evidence.get("factors", {}).items()]
    if kept:
        lines.append(f"  Of its share keeps, down to its floor: {', '.join(kept)}.")
    return "\n".join(lines)


def _sources(sources: Mapping[str, Any]) -> list[str]:
    """A table: fused value, each estimator, the pull to the start, and the share that both alone would give."""
    if not sources:
        return ["  Nothing is known yet of what they are worth."]
    alone = estimates_against(sources)
    names = list(dict.fromkeys(who for said in alone.values() for who in said))
    rows = [["source", "value", *(f"by {name}" for name in names), "pull to the start", "share by value"]]
    for source, one in sources.items():
        said = [_estimate(alone[source].get(name)) for name in names]
        value = plus_minus(one.get("value"), one.get("standard_error"))
        pull = f"{number(one['pull']):+.2f}" if "pull" in one else "-"
        rows.append([source, value, *said, pull, _percent(one.get("share_by_value"))])
    return table(rows)


def _estimate(one: Estimate | None) -> str:
    return "-" if one is None else plus_minus(one.value, one.standard_error)


def _percent(share: Any) -> str:
    return "-" if share is None else percent(round(number(share) * SHARE_ONE))


def _unit(evidence: Mapping[str, Any]) -> Iterator[str]:
    if not evidence.get("sources"):
        return
    unit = evidence.get("unit")
    yield "Values are what a share gains, in held-out nats per token and unit of learning rate" + (
        f"; a fresh real token is worth {figure(unit)} of that now." if unit is not None else "."
    )
    if evidence.get("held_for") is not None:
        yield (
            "Before it was measured a synthetic token was held for"
            f" {number(evidence['held_for']):.2f} of a fresh real one; that counts as far as measurements do not"
            " contradict it."
        )


def _moved(evidence: Mapping[str, Any]) -> Iterator[str]:
    if not evidence.get("sources"):
        return
    threshold, region = evidence.get("threshold"), evidence.get("trust_region")
    yield f"A value and its pull count beyond {figure(threshold)} standard errors" + (
        f"; the step went {number(region['divergence']):.2g} nats of the {number(region['radius']):.2g} it may (KL)."
        if region and number(region["radius"]) > 0
        else "; nothing moved by value."
    )


def _budget(evidence: Mapping[str, Any]) -> Iterator[str]:
    budget = evidence["budget"]
    used = f"{figure(budget.get('used_samples'))} samples used"
    if budget.get("samples") is None:
        yield f"Real data: {used}; no budget bounds them."
        return
    paid = (
        f"what is left pays for a share of {_percent(budget['planned_share'])} now."
        if budget.get("planned_share") is not None
        else "what is left is enough for any share."
    )
    yield (
        f"Real data: {used} of {figure(budget['samples'])}, {number(budget['used_epochs']):.2f} of "
        f"{figure(budget['planned_epochs'])} epochs; {paid}"
    )
    yield (
        f"Beyond those epochs one more repeat is worth {number(budget['value_of_repeat']):.2f} of a new token;"
        f" one more new sample would do as much as {number(budget['value_of_new_sample']):.2f} that are seen once."
    )


def _forgetting(evidence: Mapping[str, Any]) -> Iterator[str]:
    """How fast the model forgets, and how surely that is known; nothing where nobody asked."""
    known = evidence.get("forgetting") or {}
    if known.get("is_told"):
        yield f"How fast the model forgets is told: curvature {figure(known['curvature'])} per unit of learning rate."
    elif known.get("measured"):
        measured = plus_minus(known["measured"]["value"], known["measured"]["standard_error"])
        sure = "" if known["curvature"] is not None else ", not surely above 0: the plan stays level"
        probes = "1 probe" if known["num_probes"] == 1 else f"{figure(known['num_probes'])} probes"
        yield f"How fast the model forgets: curvature {measured} per unit of learning rate, by {probes}{sure}."
    elif evidence["budget"].get("waits"):
        yield "How fast the model forgets is not known yet: scarce real data wait for the first probe."


def _price(evidence: Mapping[str, Any], kinds: Mapping[str, str]) -> str:
    """What a real token costs, against what a fresh one does and against what real data are worth more now."""
    if not evidence.get("sources"):
        return "Price of a real token: not known before the sources are compared."
    price, unit, more = number(evidence["price"]), evidence.get("unit"), advantage(evidence, kinds)
    if not price > 0:
        is_held = "real budget" in (evidence.get("bounds") or [])
        free = "are worth no more than the others now" if is_held else "are not held back by the budget"
        return f"Price of a real token now: {figure(price)}; real data {free}."
    if more is not None and price > OUT_OF_REACH * more > 0:
        forgotten = "what it does now is forgotten by the end of the run"
        return f"Price of a real token now: out of reach ({price:.2g}), since {forgotten}."
    text = f"Price of a real token now: {figure(price)}"
    if unit is not None and number(unit) > 0:
        text += f", or {number(price / number(unit)):.2f} of what a fresh one does"
    text += (
        ". Drawn beyond the plan it would be missing later, so it has to be worth that much more than a synthetic one"
    )
    if more is not None:
        text += f"; real data are worth {figure(more)} more now"
    return text + "."


def _bound(name: str) -> str:
    for begin, words in NAMED_BOUNDS.items():
        if name.startswith(begin):
            return words.format(name.removeprefix(begin))
    return BOUNDS.get(name, name)
