"""Charts of the guard's evidence at its decisions, against where it warns and alarms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.base.formatting import figure
from trainer.base.json_values import number
from trainer.base.records import FloatArray
from trainer.control.guard.explain import STATISTICS
from trainer.report.history import History
from trainer.report.plotly_figures import MAX_SLICES, Figure, Trace, color, curve, finite, framed, limit_line
from trainer.tracking.schema import DecisionLine

DECADES_BELOW, DECADES_ABOVE = 4, 6  # of evidence, that are drawn below 1 and above the alarm
Evidence = Mapping[str, Any]


def harm(run: History) -> Figure | None:
    """The guard's evidence of harm, combined and by statistic, against where it warns and alarms."""
    judged = [(step, guard) for step, guard in _evidence(run) if "warn_at" in guard]
    if not judged:
        return None
    steps = [step for step, _ in judged]
    traces = [curve("all together", steps, [number(guard["evidence"]) for _, guard in judged], "#111", width=2.5)]
    traces[0]["ink"] = True
    for index, (name, label) in enumerate(STATISTICS.items()):
        points = [(step, guard["statistics"][name]) for step, guard in judged if name in guard.get("statistics", {})]
        if points:
            values = [number(statistic["evidence"]) for _, statistic in points]
            traces.append(curve(label, [step for step, _ in points], values, color(index), width=1.3))
    warn_at = [number(guard["warn_at"]) for _, guard in judged]
    alarm_at = [number(guard.get("alarm_at")) for _, guard in judged]
    traces.append(limit_line(f"warns at {figure(warn_at[-1])}", steps, warn_at, "dot"))
    traces.append(limit_line(f"alarms at {figure(alarm_at[-1])}", steps, alarm_at, "dash"))
    return framed(traces, "evidence", yaxis=_decades(traces, alarm_at))


def slice_harm(run: History) -> Figure | None:
    """The guard's evidence that the loss of a slice has risen; of many slices, those with the most at any time."""
    judged = [(step, guard) for step, guard in _evidence(run) if guard.get("slices")]
    if not judged:
        return None
    most: dict[str, float] = {}
    for _, guard in judged:
        most |= {name: max(number(value), most.get(name, 0.0)) for name, value in guard["slices"].items()}
    traces = []
    for index, name in enumerate(sorted(most, key=lambda name: -most[name])[:MAX_SLICES]):
        points = [(step, number(guard["slices"][name])) for step, guard in judged if name in guard["slices"]]
        steps, values = [step for step, _ in points], [value for _, value in points]
        traces.append(curve(name, steps, values, color(index), width=1.3))
    limits = [(step, number(guard["slice_alarm_at"])) for step, guard in judged if "slice_alarm_at" in guard]
    alarm_at = [limit for _, limit in limits]
    if limits:
        label = f"one alone has risen at {figure(alarm_at[-1])}"
        traces.append(limit_line(label, [step for step, _ in limits], alarm_at, "dash"))
    return framed(traces, "evidence", yaxis=_decades(traces, alarm_at))


def _evidence(run: History) -> list[tuple[int, Evidence]]:
    """Step and evidence of the guard at each decision on an evaluation that it could judge."""
    decisions = [(line.step, line.evidence.get("guard")) for line in run.of(DecisionLine)]
    return [(step, guard) for step, guard in decisions if isinstance(guard, Mapping) and "evidence" in guard]


def _decades(traces: Sequence[Trace], limits: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis around everything drawn, as far as it matters."""
    drawn: FloatArray = np.array([y for trace in traces for y in trace["y"] if y is not None and y > 0])
    top = math.log10(finite(limits).max(initial=1.0)) + DECADES_ABOVE
    low = max(math.floor(math.log10(drawn.min(initial=1.0))), -DECADES_BELOW)
    return {"type": "log", "range": [low, min(math.log10(drawn.max(initial=1.0)), top) + 0.3], "tickformat": "~g"}
