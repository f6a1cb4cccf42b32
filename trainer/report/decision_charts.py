"""The charts of what decisions rested on: the value of each source, the price of a real token, evidence against its
thresholds.

All of it is read from the evidence of the journal's decisions; nothing is judged again. A journal written by another
policy, or before there was such evidence, has none of these charts.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.base.formatting import figure
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE, FloatArray
from trainer.control.guard.explain import STATISTICS
from trainer.control.priced.explain import estimates_by_share
from trainer.report.history import History
from trainer.report.plotly_figures import MAX_SLICES, Figure, Trace, color, curve, framed, plain

SYMBOLS = ("circle-open", "diamond-open", "square-open")  # of the estimators
WHISKERS = 90  # percentile of the error bars that fit into the chart: the first ones may be a hundred times as long
MOST_TIMES_SOURCE_VALUE = 4  # what real data are worth more, that a price is drawn up to
DECADES_BELOW, DECADES_ABOVE = 4, 6  # of evidence, that are drawn below 1 and above the alarm


class Known(NamedTuple):
    """What a decision knew of a source: its value less the others', the standard error of that, by how many of them
    it counted, and what each estimator said alone."""

    value: float
    error: float
    significance: float
    estimators: Mapping[str, float]


class Ground(NamedTuple):
    """What a decision knew of the sources, and the standard errors beyond which it counted."""

    step: int
    sources: Mapping[str, Known]
    threshold: float


def value(run: History) -> Figure | None:
    """Value of each source against the others with its standard error, and what each estimator said of it alone."""
    grounds = list(_grounds(run))
    everything = [known for one in grounds for known in one.sources.values()]
    names = dict.fromkeys(who for known in everything for who in known.estimators)
    symbols = dict(zip(names, itertools.cycle(SYMBOLS), strict=False))
    traces: list[Trace] = []
    for index, source in enumerate(run.sources):
        known = [(one.step, one.sources[source]) for one in grounds if source in one.sources]
        if known:
            traces += _valued(source, known, color(index), symbols)
    if not traces:
        return None
    traces += [_key(f"{who} alone", symbol) for who, symbol in symbols.items()]
    reach = _reach(everything)
    return framed(traces, "value less the others'", yaxis={"zeroline": True, "range": [-reach, reach]})


def _valued(source: str, known: Sequence[tuple[int, Known]], paint: str, symbols: Mapping[str, str]) -> Iterator[Trace]:
    steps = [step for step, _ in known]
    bars = {
        "type": "data",
        "array": plain([one.error for _, one in known]),
        "visible": True,
        "thickness": 1,
        "width": 3,
    }
    line = curve(source, steps, [one.value for _, one in known], paint) | {"mode": "lines+markers"}
    yield line | {"legendgroup": line["name"], "error_y": bars, "marker": {"size": 5}}
    for who, symbol in symbols.items():
        said = curve(f"{source}: {who}", steps, [number(one.estimators.get(who)) for _, one in known], paint)
        said |= {"mode": "markers", "marker": {"symbol": symbol, "size": 9, "color": paint}, "opacity": 0.7}
        yield said | {"legendgroup": line["name"], "showlegend": False}


def significance(run: History) -> Figure | None:
    """By how many standard errors each source stands out, and from how many on that counts."""
    grounds = list(_grounds(run))
    traces = []
    for index, source in enumerate(run.sources):
        known = [(one.step, one.sources[source].significance) for one in grounds if source in one.sources]
        if known:
            traces.append(_through(source, known, color(index)) | {"mode": "lines+markers"})
    if not traces:
        return None
    steps, limits = [one.step for one in grounds], [one.threshold for one in grounds]
    traces.append(_limit(f"counts beyond {figure(limits[-1])}", steps, limits, "dash"))
    return framed(traces, "standard errors", yaxis={"rangemode": "tozero"})


def price(run: History) -> Figure | None:
    """Price of a real token, and what real data are worth more than the others."""
    told = [(line["step"], _part(line, "policy")) for line in _decisions_of(run, "priced")]
    if not told:
        return None
    steps, prices = [step for step, _ in told], [number(policy["price"]) for _, policy in told]
    paid = curve("price of a real token", steps, prices, color(0), width=2.5, shape="hv")
    traces = [paid | {"fill": "tozeroy", "fillcolor": color(0) + "22"}]
    more = [number(policy.get("real_advantage")) for _, policy in told]
    if any(map(math.isfinite, more)):
        traces.append(curve("what real data are worth more", steps, more, color(1), dash="dot", shape="hv"))
    return framed(traces, "in the unit of the values", yaxis={"zeroline": True, "range": _affordable(prices, more)})


def budget(run: History) -> Figure | None:
    """Above: epochs of real data used, and planned in all. Below: the real share that value asks for, that the budget
    pays for, and that came into force."""
    lines = _decisions_of(run, "priced")
    told = [_part(line, "policy") for line in lines]
    if not any(policy["budget"].get("samples") is not None for policy in told):
        return None
    steps = [line["step"] for line in lines]
    real = [name for name in run.sources if run.kinds.get(name) == "real"]
    used = [number(policy["budget"].get("used_epochs")) for policy in told]
    planned = [number(policy["budget"].get("planned_epochs")) for policy in told]
    paid = [number(policy["budget"].get("planned_share")) * 100 for policy in told]
    asked = [_asked(policy["sources"], real) for policy in told]
    force = [sum(line["shares"].get(name, 0) for name in real) / SHARE_ONE * 100 for line in lines]
    traces = [
        curve("epochs used", steps, used, color(0), width=2.5),
        curve("epochs planned", steps, planned, color(0), dash="dash"),
        _below(curve("real share in force", steps, force, color(2), width=2.5, shape="hv")),
        _below(curve("share the budget pays for", steps, paid, color(3), dash="dash", shape="hv")),
        _below(curve("share by value", steps, asked, color(1), dash="dot", shape="hv")),
    ]
    drawn = framed(traces, "epochs", yaxis={"domain": [0.56, 1], "rangemode": "tozero"})
    drawn["layout"]["yaxis2"] = {"title": "% of the samples", "domain": [0, 0.44], "rangemode": "tozero"}
    drawn["layout"]["xaxis"]["anchor"] = "y2"
    return drawn


def harm(run: History) -> Figure | None:
    """The guard's evidence of harm, as it decides and by statistic, against where it warns and alarms."""
    told = [(step, guard) for step, guard in _said(run, "guard") if "evidence" in guard and "warn_at" in guard]
    if not told:
        return None
    steps = [step for step, _ in told]
    traces = [curve("all together", steps, [number(guard["evidence"]) for _, guard in told], "#111", width=2.5)]
    traces[0]["ink"] = True
    for index, (name, words) in enumerate(STATISTICS.items()):
        known = [(step, number(one["evidence"])) for step, one in _statistics(told, name)]
        if known:
            traces.append(_through(words, known, color(index), width=1.3))
    limits = [number(guard.get("alarm_at")) for _, guard in told]
    warned = [number(guard["warn_at"]) for _, guard in told]
    traces.append(_limit(f"warns at {figure(warned[-1])}", steps, warned, "dot"))
    traces.append(_limit(f"alarms at {figure(limits[-1])}", steps, limits, "dash"))
    return framed(traces, "evidence", yaxis=_decades(traces, limits))


def slice_harm(run: History) -> Figure | None:
    """The guard's evidence that the loss of a slice has risen; of many slices, those with the most at any time."""
    told = [(step, guard) for step, guard in _said(run, "guard") if guard.get("slices") and "evidence" in guard]
    if not told:
        return None
    most: dict[str, float] = {}
    for _, guard in told:
        most |= {name: max(number(one), most.get(name, 0.0)) for name, one in guard["slices"].items()}
    traces = []
    for index, name in enumerate(sorted(most, key=lambda name: -most[name])[:MAX_SLICES]):
        known = [(step, number(guard["slices"][name])) for step, guard in told if name in guard["slices"]]
        traces.append(_through(name, known, color(index), width=1.3))
    known = [(step, number(guard["slice_alarm_at"])) for step, guard in told if "slice_alarm_at" in guard]
    limits = [limit for _, limit in known]
    if limits:
        name = f"one alone has risen at {figure(limits[-1])}"
        traces.append(_limit(name, [step for step, _ in known], limits, "dash"))
    return framed(traces, "evidence", yaxis=_decades(traces, limits))


def _part(line: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    said = line.get("evidence", {}).get(who)
    return said if isinstance(said, Mapping) else {}


def _said(run: History, who: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Step and evidence of the policy, or of the guard, at each decision."""
    for line in run.lines.get("decision", []):
        yield line["step"], _part(line, who)


def _grounds(run: History) -> Iterator[Ground]:
    """Of every decision that knew what sources are worth against the others."""
    for line in run.lines.get("decision", []):
        evidence = _part(line, "policy")
        if line.get("policy") == "priced" and evidence.get("sources"):
            yield Ground(line["step"], _priced(evidence["sources"]), number(evidence.get("threshold")))
        elif line.get("policy") == "feedback" and evidence.get("sources"):
            yield Ground(line["step"], _scored(evidence), number(evidence.get("z")))


def _decisions_of(run: History, kind: str) -> list[Mapping[str, Any]]:
    """The decisions on a proposal of this policy that have its evidence."""
    return [line for line in run.lines.get("decision", []) if line.get("policy") == kind and _part(line, "policy")]


def _priced(sources: Mapping[str, Any]) -> dict[str, Known]:
    """A value counts together with the pull towards the starting mixture."""
    alone = estimates_by_share(sources)
    found = {}
    for name, one in sources.items():
        here, error = number(one["value"]), number(one["standard_error"])
        said = {who: estimate.value for who, estimate in alone[name].items()}
        found[name] = Known(here, error, _errors(abs(here + number(one.get("pull", 0.0))), error), said)
    return found


def _scored(evidence: Mapping[str, Any]) -> dict[str, Known]:
    """Of ``feedback``, which decreases what lies behind by more than its margin."""
    known = {}
    for name, score in evidence["sources"].items():
        advantage, error = number(score["advantage"]), number(score.get("advantage_standard_error"))
        behind = max(0.0, -advantage - number(evidence.get("margin", 0.0)))
        known[name] = Known(advantage, error, _errors(behind, error), {})
    return known


def _errors(size: float, error: float) -> float:
    return size / error if error > 0 else math.nan


def _statistics(told: Sequence[tuple[int, Mapping[str, Any]]], name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for step, guard in told:
        if name in guard.get("statistics", {}):
            yield step, guard["statistics"][name]


def _asked(sources: Mapping[str, Any], real: Sequence[str]) -> float:
    """Real share by value alone, in percent; NaN before anything is known."""
    if not sources:
        return math.nan
    return 100 * math.fsum(number(sources[name].get("share_by_value", 0.0)) for name in real if name in sources)


def _reach(known: Sequence[Known]) -> float:
    """How far the axis goes on both sides: all values, and nearly all of their error bars."""
    values = _finite(abs(one.value) for one in known)
    ends = _finite(abs(one.value) + one.error for one in known)
    most = max(float(values.max(initial=0.0)), float(np.percentile(ends, WHISKERS)) if len(ends) else 0.0)
    return 1.1 * most or 1.0


def _affordable(prices: Sequence[float], more: Sequence[float]) -> list[float]:
    """From the least to prices that could yet be paid: early ones may be 10^13 times what real data are worth."""
    known = _finite(more)
    top, low = float(_finite(prices).max(initial=0.0)), float(known.min(initial=0.0))
    if known.any():
        top = max(min(top, MOST_TIMES_SOURCE_VALUE * float(np.abs(known).max())), float(known.max()))
    edge = 0.08 * (top - low) or 1.0
    return [low - edge if low < 0 else 0.0, top + edge]


def _decades(traces: Sequence[Trace], limits: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis around everything drawn, as far as it matters."""
    drawn: FloatArray = np.array([y for trace in traces for y in trace["y"] if y is not None and y > 0])
    top = math.log10(_finite(limits).max(initial=1.0)) + DECADES_ABOVE
    low = max(math.floor(math.log10(drawn.min(initial=1.0))), -DECADES_BELOW)
    return {"type": "log", "range": [low, min(math.log10(drawn.max(initial=1.0)), top) + 0.3], "tickformat": "~g"}


def _finite(values: Iterable[float]) -> FloatArray:
    return np.array([one for one in values if math.isfinite(one)])


def _through(name: str, points: Sequence[tuple[int, float]], paint: str, width: float = 1.8) -> Trace:
    return curve(name, [step for step, _ in points], [one for _, one in points], paint, width=width)


def _limit(name: str, steps: Sequence[float], values: Sequence[float], dash: str) -> Trace:
    return curve(name, steps, values, "#111", width=1.3, dash=dash) | {"ink": True}


def _key(name: str, symbol: str) -> Trace:
    """An entry of the legend without a point."""
    marker = {"symbol": symbol, "size": 8, "color": color(8)}
    return curve(name, [None], [None], color(8)) | {"mode": "markers", "marker": marker, "hoverinfo": "skip"}


def _below(trace: Trace) -> Trace:
    return trace | {"yaxis": "y2"}
