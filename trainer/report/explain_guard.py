"""What the guard thought at a decision, as a person would want it told: how much evidence of harm there was against
what it takes, which statistic it came from, and how the slices stood.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.base.formatting import evidence_in_words, figure, percent, table
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE

STATISTICS = {  # that the guard judges, by name
    "mean": "mean of all documents",
    "tail": "worst tenth",
    "gap": "gap to synthetic loss",
    "progress": "progress against forecast",
}
TOLD_SLICES = 3  # those with the most evidence
LEAST_EVIDENCE = 0.01  # below which a slice is not worth a mention
TOLD = (  # what has words of its own
    "nats_per_token", "num_evaluations", "warn_at", "alarm_at", "anchor_step", "anchor_nats_per_token",
    "jitter_sd", "z",
    "evidence", "strongest", "statistics", "slices", "slice_alarm_at", "not_judged", "risen_slices", "usable",
)  # fmt: skip


def is_judged(figures: Mapping[str, Any]) -> bool:
    """Whether the guard's figures are those of a reading that it judged, or could not judge."""
    return "nats_per_token" in figures or "usable" in figures


def guard_in_words(figures: Mapping[str, Any]) -> str:
    """In one line what the guard's figures say: the loss against its anchor, the evidence against its limits."""
    if "anchor_nats_per_token" not in figures:
        return ""
    loss, anchor, jitter = (
        figure(figures.get(key)) for key in ("nats_per_token", "anchor_nats_per_token", "jitter_sd")
    )
    text = f"held-out loss {loss} against an anchor of {anchor} nats per token, checkpoint jitter {jitter}"
    if "z" in figures:
        text += f", z {number(figures['z']):.2f}"
    if "evidence" in figures and "warn_at" in figures:
        limits = f"warns at {figure(figures['warn_at'])}, alarms at {figure(figures.get('alarm_at'))}"
        text += f"; evidence of harm {figure(figures['evidence'])} ({limits})"
    if "strongest" in figures:
        text += f", most of it from the {_statistic(figures['strongest'])}"
    return text


def guard_told(figures: Mapping[str, Any]) -> str:
    """The guard's figures in lines."""
    lines = [f"Guard: {_opinion(figures)}"]
    if in_short := guard_in_words(figures):
        lines.append(f"  {in_short[0].upper()}{in_short[1:]}.")
    lines += _judged(figures.get("statistics", {}))
    lines += [f"  {line}" for line in (*_slices(figures), *_not_judged(figures.get("not_judged", {})))]
    rest = {key: value for key, value in figures.items() if key not in TOLD}
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in evidence_in_words(rest))])


def _opinion(figures: Mapping[str, Any]) -> str:
    """What it made of the reading, from the evidence against what it takes."""
    if figures.get("usable") is False:
        return "it could not judge the reading."
    if "evidence" not in figures:
        evaluations = (
            f"{figure(figures['num_evaluations'])} readings are" if "num_evaluations" in figures else "there are"
        )
        return f"{evaluations} too few to judge by."
    if "risen_slices" in figures:
        return f"an alarm: the loss of {', '.join(figures['risen_slices'])} has risen."
    evidence, warn_at, alarm_at = (number(figures.get(key)) for key in ("evidence", "warn_at", "alarm_at"))
    if evidence >= alarm_at:
        return "an alarm: there is more evidence of harm than an alarm takes."
    if evidence >= warn_at:
        return (
            f"not sure: there is more evidence of harm than a warning takes, {_part(evidence, alarm_at)} of an alarm's."
        )
    return f"nothing to object to: there is {_part(evidence, warn_at)} of the evidence of harm that a warning takes."


def _part(evidence: float, limit: float) -> str:
    return percent(round(evidence / limit * SHARE_ONE))


def _judged(statistics: Mapping[str, Any]) -> list[str]:
    """A table of the statistics, the one with the most evidence first."""
    if not statistics:
        return []
    rows = [["statistic", "now", "expected", "jitter", "z", "evidence"]]
    for name, one in sorted(statistics.items(), key=lambda item: -number(item[1].get("evidence"))):
        numbers = [figure(one.get(key)) for key in ("value", "expected", "jitter_sd")]
        rows.append([_statistic(name), *numbers, f"{number(one.get('z')):.2f}", figure(one.get("evidence"))])
    return table(rows)


def _slices(figures: Mapping[str, Any]) -> Iterator[str]:
    slices = figures.get("slices", {})
    if not slices:
        return
    takes = f"; it takes {figure(figures['slice_alarm_at'])} of one alone" if "slice_alarm_at" in figures else ""
    most = sorted(slices, key=lambda name: -number(slices[name]))[:TOLD_SLICES]
    told = [f"{name} {figure(slices[name])}" for name in most if number(slices[name]) >= LEAST_EVIDENCE]
    yield f"Slices, {len(slices)} judged, evidence of a rise: {', '.join(told) or 'next to none'}{takes}."


def _not_judged(reasons: Mapping[str, str]) -> Iterator[str]:
    if reasons:
        yield "Not judged: " + "; ".join(f"{_statistic(name)} ({reason})" for name, reason in reasons.items()) + "."


def _statistic(name: str) -> str:
    return STATISTICS.get(name, name)
