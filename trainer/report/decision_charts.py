"""Charts of the policy's evidence at its decisions: the value of each source, the price of a real token, the budget.

All of it is read from the evidence of the journal's decisions; nothing is judged again. A run of another policy has
none of these charts. The guard's are in ``trainer.report.guard_charts``.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.base.formatting import figure
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE
from trainer.control.priced.explain import estimates_by_share
from trainer.report.history import History
from trainer.report.plotly_figures import Figure, Trace, color, curve, finite, framed, legend_entry, limit_line, plain
from trainer.tracking.schema import DecisionLine

SYMBOLS = ("circle-open", "diamond-open", "square-open")  # of the estimators
WHISKERS = 90  # percentile of the error bars that fit into the chart: the first ones may be a hundred times as long
MAX_PRICE = 4  # times the advantage of real data, that a price is drawn up to


class SourceEvidence(NamedTuple):
    """The evidence on one source: its value less that of the others, the standard error, how many of these it stands
    out by, and what each estimator measured alone.
    """

    value: float
    error: float
    significance: float
    estimators: Mapping[str, float]


class Comparison(NamedTuple):
    """The evidence on all sources at a decision, and how many standard errors count."""

    step: int
    sources: Mapping[str, SourceEvidence]
    threshold: float


def value(run: History) -> Figure | None:
    """Value of each source against the others with its standard error, and what each estimator measured alone."""
    comparisons = list(_comparisons(run))
    everything = [evidence for comparison in comparisons for evidence in comparison.sources.values()]
    estimators = dict.fromkeys(name for evidence in everything for name in evidence.estimators)
    symbols = dict(zip(estimators, itertools.cycle(SYMBOLS), strict=False))
    traces: list[Trace] = []
    for index, source in enumerate(run.sources):
        points = _points(comparisons, source)
        if points:
            traces += _value_traces(source, points, color(index), symbols)
    if not traces:
        return None
    traces += [legend_entry(f"{name} alone", symbol) for name, symbol in symbols.items()]
    reach = _reach(everything)
    return framed(traces, "value less that of the others", yaxis={"zeroline": True, "range": [-reach, reach]})


def _value_traces(
    source: str, points: Sequence[tuple[int, SourceEvidence]], line_color: str, symbols: Mapping[str, str]
) -> Iterator[Trace]:
    steps = [step for step, _ in points]
    errors = plain([evidence.error for _, evidence in points])
    bars = {"type": "data", "array": errors, "visible": True, "thickness": 1, "width": 3}
    line = curve(source, steps, [evidence.value for _, evidence in points], line_color) | {"mode": "lines+markers"}
    yield line | {"legendgroup": line["name"], "error_y": bars, "marker": {"size": 5}}
    for name, symbol in symbols.items():
        values = [number(evidence.estimators.get(name)) for _, evidence in points]
        marks = curve(f"{source}: {name}", steps, values, line_color)
        marks |= {"mode": "markers", "marker": {"symbol": symbol, "size": 9, "color": line_color}, "opacity": 0.7}
        yield marks | {"legendgroup": line["name"], "showlegend": False}


def significance(run: History) -> Figure | None:
    """By how many standard errors each source stands out, and from how many on that counts."""
    comparisons = list(_comparisons(run))
    traces = []
    for index, source in enumerate(run.sources):
        points = _points(comparisons, source)
        if points:
            values = [evidence.significance for _, evidence in points]
            line = curve(source, [step for step, _ in points], values, color(index))
            traces.append(line | {"mode": "lines+markers"})
    if not traces:
        return None
    steps = [comparison.step for comparison in comparisons]
    thresholds = [comparison.threshold for comparison in comparisons]
    traces.append(limit_line(f"counts beyond {figure(thresholds[-1])}", steps, thresholds, "dash"))
    return framed(traces, "standard errors", yaxis={"rangemode": "tozero"})


def price(run: History) -> Figure | None:
    """Price of a real token, and the advantage of real data over the others."""
    decisions = _decisions_of(run, "priced")
    if not decisions:
        return None
    steps = [line.step for line, _ in decisions]
    prices = [number(evidence["price"]) for _, evidence in decisions]
    area = curve("price of a real token", steps, prices, color(0), width=2.5, shape="hv")
    traces = [area | {"fill": "tozeroy", "fillcolor": color(0) + "22"}]
    advantages = [number(evidence.get("real_advantage")) for _, evidence in decisions]
    if any(map(math.isfinite, advantages)):
        traces.append(curve("advantage of real data", steps, advantages, color(1), dash="dot", shape="hv"))
    yaxis = {"zeroline": True, "range": _affordable(prices, advantages)}
    return framed(traces, "in the unit of the values", yaxis=yaxis)


def budget(run: History) -> Figure | None:
    """Above: epochs of real data used, and planned in all. Below: the real share by value, the share that the budget
    allows, and the share in force.
    """
    decisions = _decisions_of(run, "priced")
    if not any(evidence["budget"].get("samples") is not None for _, evidence in decisions):
        return None
    steps = [line.step for line, _ in decisions]
    real = [name for name in run.sources if run.kinds.get(name) == "real"]
    used, planned, allowed = (
        [number(evidence["budget"].get(key)) for _, evidence in decisions]
        for key in ("used_epochs", "planned_epochs", "planned_share")
    )
    by_value = [_share_by_value(evidence["sources"], real) for _, evidence in decisions]
    in_force = [sum(line.shares.get(name, 0) for name in real) / SHARE_ONE * 100 for line, _ in decisions]
    percents = [share * 100 for share in allowed]
    traces = [
        curve("epochs used", steps, used, color(0), width=2.5),
        curve("epochs planned", steps, planned, color(0), dash="dash"),
        _below(curve("real share in force", steps, in_force, color(2), width=2.5, shape="hv")),
        _below(curve("share the budget allows", steps, percents, color(3), dash="dash", shape="hv")),
        _below(curve("share by value", steps, by_value, color(1), dash="dot", shape="hv")),
    ]
    chart = framed(traces, "epochs", yaxis={"domain": [0.56, 1], "rangemode": "tozero"})
    chart["layout"]["yaxis2"] = {"title": "% of the samples", "domain": [0, 0.44], "rangemode": "tozero"}
    chart["layout"]["xaxis"]["anchor"] = "y2"
    return chart


def _decisions_of(run: History, kind: str) -> list[tuple[DecisionLine, Mapping[str, Any]]]:
    """The decisions on a proposal of this policy that have its evidence, and that evidence."""
    decisions = [(line, line.evidence.get("policy")) for line in run.of(DecisionLine) if line.policy == kind]
    return [(line, evidence) for line, evidence in decisions if isinstance(evidence, Mapping) and evidence]


def _comparisons(run: History) -> Iterator[Comparison]:
    """Of every decision that compared the sources."""
    for line, evidence in _decisions_of(run, "priced"):
        if evidence.get("sources"):
            yield Comparison(line.step, _priced(evidence["sources"]), number(evidence.get("threshold")))
    for line, evidence in _decisions_of(run, "feedback"):
        if evidence.get("sources"):
            yield Comparison(line.step, _feedback(evidence), number(evidence.get("z")))


def _priced(sources: Mapping[str, Any]) -> dict[str, SourceEvidence]:
    """A value counts together with the pull towards the starting mixture."""
    alone = estimates_by_share(sources)
    evidence = {}
    for name, source in sources.items():
        value, error = number(source["value"]), number(source["standard_error"])
        estimators = {estimator: estimate.value for estimator, estimate in alone[name].items()}
        pulled = abs(value + number(source.get("pull", 0.0)))
        evidence[name] = SourceEvidence(value, error, _in_errors(pulled, error), estimators)
    return evidence


def _feedback(evidence: Mapping[str, Any]) -> dict[str, SourceEvidence]:
    """``feedback`` decreases what is behind by more than its margin."""
    scored = {}
    for name, score in evidence["sources"].items():
        advantage, error = number(score["advantage"]), number(score.get("advantage_standard_error"))
        behind = max(0.0, -advantage - number(evidence.get("margin", 0.0)))
        scored[name] = SourceEvidence(advantage, error, _in_errors(behind, error), {})
    return scored


def _points(comparisons: Sequence[Comparison], source: str) -> list[tuple[int, SourceEvidence]]:
    return [(comparison.step, comparison.sources[source]) for comparison in comparisons if source in comparison.sources]


def _in_errors(size: float, error: float) -> float:
    return size / error if error > 0 else math.nan


def _share_by_value(sources: Mapping[str, Any], real: Sequence[str]) -> float:
    """Real share by value alone, in percent; NaN before the sources were compared."""
    if not sources:
        return math.nan
    return 100 * math.fsum(number(sources[name].get("share_by_value", 0.0)) for name in real if name in sources)


def _reach(everything: Sequence[SourceEvidence]) -> float:
    """How far the axis reaches to both sides: all values, and nearly all of their error bars."""
    values = finite(abs(evidence.value) for evidence in everything)
    ends = finite(abs(evidence.value) + evidence.error for evidence in everything)
    most = max(float(values.max(initial=0.0)), float(np.percentile(ends, WHISKERS)) if len(ends) else 0.0)
    return 1.1 * most or 1.0


def _affordable(prices: Sequence[float], advantages: Sequence[float]) -> list[float]:
    """The range of the axis, up to prices within reach: early ones may be 10^13 times the advantage of real data."""
    values = finite(advantages)
    top, low = float(finite(prices).max(initial=0.0)), float(values.min(initial=0.0))
    if values.any():
        top = max(min(top, MAX_PRICE * float(np.abs(values).max())), float(values.max()))
    edge = 0.08 * (top - low) or 1.0
    return [low - edge if low < 0 else 0.0, top + edge]


def _below(trace: Trace) -> Trace:
    return trace | {"yaxis": "y2"}
