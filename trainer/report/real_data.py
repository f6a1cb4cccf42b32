"""What became of the real data: how often they were drawn, how many new tokens do as much, and what was planned.

Repeats are discounted as the policy ``priced`` discounts them (``trainer.control.priced.repeats``): a forecast from
published runs, not a measurement of this one.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.base.formatting import figure
from trainer.base.json_values import number
from trainer.control.priced.repeats import effective_tokens, repeat_value
from trainer.report.history import History
from trainer.tracking.schema import DecisionLine, JoinLine, RetireLine


def real_rows(run: History) -> Iterator[dict[str, str]]:
    """A row of figures for each real source, for all of them where there are several, and for the last plan of all."""
    facts = run.start.sources if run.start else {}
    epochs = dict(zip(run.sources, _epochs(run), strict=True))
    sizes = {
        name: facts[name].num_tokens or 0
        for name in run.sources
        if run.kinds.get(name) == "real" and name in facts and facts[name].num_tokens
    }
    if not sizes:
        return
    grown = {line.source for line in run.of(JoinLine)} | {line.source for line in run.of(RetireLine)}
    samples = dict(zip(run.sources, run.steps.counts.sum(axis=0).tolist(), strict=True))
    drawn = {  # the epochs of a source whose segments changed are those of the segments at the end
        name: samples[name] * tokens / facts[name].num_samples if name in grown else epochs[name] * tokens
        for name, tokens in sizes.items()
    }
    for name, tokens in sizes.items():
        yield _row(name, tokens, drawn[name])
    unique = sum(sizes.values())
    if len(sizes) > 1:
        yield _row("all", unique, math.fsum(drawn.values()))
    if (plan := _last_plan(run)) is not None:
        yield _row("as planned", unique, number(plan["planned_epochs"]) * unique)


def real_note(run: History) -> str:
    """One sentence on what more real data would do; empty where the policy has no budget of them."""
    plan = _last_plan(run)
    if plan is None:
        return ""
    samples, used = figure(plan["samples"]), figure(plan["used_samples"])
    return (
        f"Of {samples} real samples that may be drawn, {used} had been by the last decision; one more new sample would"
        f" do as much as {number(plan['value_of_new_sample']):.2f} that are drawn once."
    )


def _epochs(run: History) -> list[float]:
    return list(run.steps.epochs[-1].tolist()) if run.last_step else [0.0] * len(run.sources)


def _row(name: str, unique: float, drawn: float) -> dict[str, str]:
    effective = effective_tokens(unique, drawn)
    return {
        "name": name,
        "tokens": figure(unique),
        "epochs": f"{drawn / unique:.2f}",
        "drawn": figure(round(drawn)),
        "effective": figure(round(effective)),
        "repeat": f"{repeat_value(drawn / unique):.2f}",
    }


def _last_plan(run: History) -> Mapping[str, Any] | None:
    """The budget at the last decision of ``priced``, where it plans one."""
    for line in reversed(run.of(DecisionLine)):
        evidence = line.evidence.get("policy")
        if line.policy == "priced" and isinstance(evidence, Mapping) and "budget" in evidence:
            budget: Mapping[str, Any] = evidence["budget"]
            return budget if budget.get("planned_epochs") is not None else None
    return None
