"""What the guard's evidence at a decision means, in words: how much there was, from which statistic, and how the slices
stood.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.base.formatting import evidence_in_words, figure, percent_about, table
from trainer.base.json_values import number

STATISTICS = {  # that the guard judges, by name
    "mean": "mean of all documents",
    "tail": "tail loss (worst 10 %)",
    "gap": "gap to synthetic loss",
    "progress": "progress against forecast",
}
NUM_SLICES = 3  # that are named: those with the most evidence
MIN_EVIDENCE = 0.01  # below which a slice is not named
EXPLAINED = (  # keys with words of their own
    "nats_per_token", "num_evaluations", "warn_at", "alarm_at", "last_healthy_step", "expected_nats_per_token",
    "jitter_sd", "z", "evidence", "strongest", "statistics", "slices", "slice_alarm_at", "not_judged", "risen_slices",
    "usable",
)  # fmt: skip


def is_explained(evidence: Mapping[str, Any]) -> bool:
    """Whether ``evidence`` is the guard's, of an evaluation that it judged or could not judge."""
    return "nats_per_token" in evidence or "usable" in evidence


def summarize(evidence: Mapping[str, Any]) -> str:
    """The evidence in one line, the loss against what was expected and the evidence against its limits; empty where
    nothing could be judged.
    """
    if "expected_nats_per_token" not in evidence:
        return ""
    loss, expected, jitter = (
        figure(evidence.get(key)) for key in ("nats_per_token", "expected_nats_per_token", "jitter_sd")
    )
    text = f"held-out loss {loss}, expected {expected} nats per token, checkpoint jitter {jitter}"
    if "z" in evidence:
        text += f", z {number(evidence['z']):.2f}"
    if "evidence" in evidence and "warn_at" in evidence:
        limits = f"warns at {figure(evidence['warn_at'])}, alarms at {figure(evidence.get('alarm_at'))}"
        text += f"; evidence of harm {figure(evidence['evidence'])} ({limits})"
    if "strongest" in evidence:
        text += f", most of it from the {_label(evidence['strongest'])}"
    return text


def explain(evidence: Mapping[str, Any]) -> list[str]:
    """The evidence in lines: its verdict first, then figures, each with a line of its own."""
    lines = [f"Guard: {_verdict(evidence)}"]
    if summary := summarize(evidence):
        lines.append(f"  {summary[0].upper()}{summary[1:]}.")
    lines += _statistics(evidence.get("statistics", {}))
    lines += [f"  {line}" for line in (*_slices(evidence), *_not_judged(evidence.get("not_judged", {})))]
    rest = {key: value for key, value in evidence.items() if key not in EXPLAINED}
    return [*lines, *(f"  {name}: {value}" for name, value in evidence_in_words(rest))]


def _verdict(evidence: Mapping[str, Any]) -> str:
    """What the evaluation meant, from the evidence against its limits."""
    if evidence.get("usable") is False:
        return "it could not judge the evaluation."
    if "evidence" not in evidence:
        if evidence.get("num_evaluations") == 1:
            return "one evaluation is too little to judge by."
        num = f"{figure(evidence['num_evaluations'])} evaluations are" if "num_evaluations" in evidence else "there are"
        return f"{num} too few to judge by."
    if "risen_slices" in evidence:
        return f"an alarm: the loss of {', '.join(evidence['risen_slices'])} has risen."
    value, warn_at, alarm_at = (number(evidence.get(key)) for key in ("evidence", "warn_at", "alarm_at"))
    if value >= alarm_at:
        return "an alarm: there is more evidence of harm than an alarm takes."
    if value >= warn_at:
        return (
            f"not certain: there is more evidence of harm than a warning takes, {_part(value, alarm_at)} of an alarm's."
        )
    return f"nothing to object to: there is {_part(value, warn_at)} of the evidence of harm that a warning takes."


def _part(value: float, limit: float) -> str:
    return percent_about(value / limit)


def _statistics(statistics: Mapping[str, Any]) -> list[str]:
    """A table of the statistics, the one with the most evidence first."""
    if not statistics:
        return []
    rows = [["statistic", "now", "expected", "jitter", "z", "evidence"]]
    for name, score in sorted(statistics.items(), key=lambda item: -number(item[1].get("evidence"))):
        numbers = [figure(score.get(key)) for key in ("value", "expected", "jitter_sd")]
        rows.append([_label(name), *numbers, f"{number(score.get('z')):.2f}", figure(score.get("evidence"))])
    return table(rows)


def _slices(evidence: Mapping[str, Any]) -> Iterator[str]:
    slices = evidence.get("slices", {})
    if not slices:
        return
    limit = f"; an alarm takes {figure(evidence['slice_alarm_at'])} of one" if "slice_alarm_at" in evidence else ""
    most = sorted(slices, key=lambda name: -number(slices[name]))[:NUM_SLICES]
    named = [f"{name} {figure(slices[name])}" for name in most if number(slices[name]) >= MIN_EVIDENCE]
    yield f"Slices, {len(slices)} judged, evidence of a rise: {', '.join(named) or 'next to none'}{limit}."


def _not_judged(reasons: Mapping[str, str]) -> Iterator[str]:
    if reasons:
        yield "Not judged: " + "; ".join(f"{_label(name)} ({reason})" for name, reason in reasons.items()) + "."


def _label(statistic: str) -> str:
    return STATISTICS.get(statistic, statistic)
