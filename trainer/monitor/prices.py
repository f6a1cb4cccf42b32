"""What a decision of the policy ``priced`` rests on, as a person would want it told: what each estimator said of each
source, what a real token costs, and what held the shares where they are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.monitor.journal import number
from trainer.monitor.words import figure, plus_minus


def is_priced(evidence: Mapping[str, Any]) -> bool:
    """Whether a policy's evidence is that of ``priced``."""
    return "price" in evidence and "budget" in evidence


def priced_in_words(evidence: Mapping[str, Any]) -> str:
    """The evidence in lines; values are against the other sources, in held-out nats per token and unit of rate."""
    lines = ["Policy: what a token of each source is worth more than the others', beside what real data can pay for."]
    lines += _sources(evidence.get("sources", {}))
    lines += [f"  {line}" for line in (*_moved(evidence), *_budget(evidence), *_forgetting(evidence))]
    bounds = evidence.get("bounds") or []
    lines.append(f"  Held by: {', '.join(bounds)}." if bounds else "  No bound was active.")
    return "\n".join(lines)


def _sources(sources: Mapping[str, Any]) -> list[str]:
    """A table: fused value, each estimator, and the share that the value alone would give."""
    if not sources:
        return ["  Nothing is known yet of what they are worth."]
    names = list(dict.fromkeys(name for one in sources.values() for name in one.get("estimators", {})))
    head = ["source", "value", *names, "share by value"]
    rows = [head]
    for source, one in sources.items():
        said = [_estimate(one.get("estimators", {}).get(name)) for name in names]
        rows.append([source, _estimate(one), *said, f"{number(one.get('share_by_value')):.1%}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _estimate(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else plus_minus(one.get("value"), one.get("standard_error"))


def _moved(evidence: Mapping[str, Any]) -> Iterator[str]:
    threshold, region = evidence.get("threshold"), evidence.get("trust_region")
    yield f"A value counts beyond {figure(threshold)} standard errors" + (
        f"; the step went {number(region['divergence']):.2g} nats of the {number(region['radius']):.2g} it may (KL)."
        if region
        else "; nothing moved by value."
    )


def _budget(evidence: Mapping[str, Any]) -> Iterator[str]:
    budget = evidence["budget"]
    used = f"{figure(budget.get('used_samples'))} samples used"
    if budget.get("samples") is None:
        yield f"Real data: {used}; no budget bounds them."
    else:
        yield (
            f"Real data: {used} of {figure(budget['samples'])}, {number(budget['used_epochs']):.2f} of "
            f"{figure(budget['planned_epochs'])} epochs; what is left pays for a share of "
            f"{number(budget['planned_share']):.1%} now."
        )
        yield (
            f"Beyond those epochs one more repeat is worth {number(budget['value_of_repeat']):.2f} of a new token;"
            f" one more new sample would do as much as {number(budget['value_of_new_sample']):.2f} that are seen once."
        )
    price = number(evidence["price"])
    is_held = "real budget" in (evidence.get("bounds") or [])
    free = "real data are worth no more than the others now" if is_held else "the budget does not hold real data back"
    yield f"Price of a real token now: {figure(price)}" + (
        ", which a synthetic one has to come up to." if price > 0 else f"; {free}."
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
