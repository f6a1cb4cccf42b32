"""What became of the real data: how often they were gone through, what that was worth, and what had been planned.

Repeats are discounted as the policy ``priced`` discounts them (``trainer.control.priced.repeats``): a forecast from
published runs, not a measurement of this one.
"""

import math
from collections.abc import Iterator

from trainer.base.formatting import figure
from trainer.base.json_values import number
from trainer.control.priced.repeats import effective_tokens, repeat_value
from trainer.report.history import History
from trainer.tracking.journal import Line
from trainer.tracking.schema import JoinLine, RetireLine


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
        f" do as much as {number(plan['value_of_new_sample']):.2f} that are seen once."
    )


def _epochs(run: History) -> list[float]:
    return list(run.steps.epochs[-1].tolist()) if run.last_step else [0.0] * len(run.sources)


def _row(name: str, unique: float, drawn: float) -> dict[str, str]:
    source_value = effective_tokens(unique, drawn)
    return {
        "name": name,
        "tokens": figure(unique),
        "epochs": f"{drawn / unique:.2f}",
        "drawn": figure(round(drawn)),
        "effective": figure(round(source_value)),
        "repeat": f"{repeat_value(drawn / unique):.2f}",
    }


def _last_plan(run: History) -> Line | None:
    """The budget at the last decision, where there is one."""
    for line in reversed(run.lines.get("decision", [])):
        evidence = line.get("evidence", {}).get("policy")
        if line.get("policy") == "priced" and evidence:
            budget: Line = evidence["budget"]
            return budget if budget.get("planned_epochs") is not None else None
    return None
