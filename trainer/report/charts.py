"""The charts of what a run measured, as plain plotly figures: values in, JSON-able dicts out, no plotly needed to make
them. Those of the evidence at its decisions are in ``decision_charts`` and ``guard_charts``.
"""

# N steps, K sources

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.base.json_values import number
from trainer.base.records import FloatArray
from trainer.report import decision_charts, guard_charts
from trainer.report.history import History, thin
from trainer.report.metric_charts import metric_charts
from trainer.report.plotly_figures import (
    INTERVAL,
    MAX_SLICES,
    Figure,
    Trace,
    band,
    color,
    curve,
    framed,
    plain,
)
from trainer.tracking.figures import HeldOutFigures
from trainer.tracking.headlines import headline
from trainer.tracking.schema import DecisionLine, EvaluationLine

DRAWN_POINTS = 100  # the drawn share is counted over a hundredth of the run, else one batch's rounding is all one sees


def figures(run: History) -> dict[str, Figure]:
    """All charts of one run, by name; a chart without data is left out."""
    charts = {
        "held-out": held_out(run),
        "shares": shares(run),
        "epochs": epochs(run),
        "source_value": source_value(run),
        "value": decision_charts.value(run),
        "significance": decision_charts.significance(run),
        "price": decision_charts.price(run),
        "budget": decision_charts.budget(run),
        "harm": guard_charts.harm(run),
        "slice-harm": guard_charts.slice_harm(run),
        "slices": slices(run),
        "source-loss": source_loss(run),
        "train": train_loss(run),
        **metric_charts(run),
    }
    return {name: figure for name, figure in charts.items() if figure is not None}


def held_out(run: History) -> Figure | None:
    """Held-out loss on the validation part with its 95 % interval, the tail loss, the decisions, and the test loss."""
    evaluations = run.evaluations
    if not evaluations:
        return None
    step, loss, error = losses(evaluations)
    traces = band(step, loss, INTERVAL * np.nan_to_num(error), color(0))
    traces.append(curve("validation", step, loss, color(0), width=2.5))
    tail = [number(line.figures.tail_nats_per_token) for line in evaluations]
    if any(map(math.isfinite, tail)):
        traces.append(curve("tail loss (worst 10 %)", step, tail, color(3), dash="dot"))
    decisions = [line for line in run.of(DecisionLine) if line.action != "keep"]
    if decisions:
        at = [float(line.step) for line in decisions]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": "decision", "x": at,
                "y": plain(np.interp(at, step, loss)), "hovertemplate": "%{text}<extra></extra>",
                "text": [html.escape(headline(line)) for line in decisions],
                "marker": {"size": 11, "symbol": "diamond", "color": color(1), "line": {"width": 1, "color": "#fff"}},
            }
        )  # fmt: skip
    if run.test is not None:
        traces.append(_test_point(run, run.test.figures))
    return framed(traces, "nats per token")


def losses(evaluations: Sequence[EvaluationLine]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Steps, held-out loss and its standard error (NaN where unknown), each [N]."""
    rows = [(line.step, line.figures.nats_per_token, number(line.figures.standard_error)) for line in evaluations]
    step, loss, error = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return step, loss, error


def _test_point(run: History, test: HeldOutFigures) -> Trace:
    error = plain([INTERVAL * number(test.standard_error)])
    return {
        "type": "scatter", "mode": "markers", "name": "test (final)", "x": [run.last_step],
        "y": plain([test.nats_per_token]), "marker": {"size": 9, "color": color(2)},
        "error_y": {"type": "data", "array": error, "visible": True},
    }  # fmt: skip


def shares(run: History) -> Figure | None:
    """Target shares as stacked areas, and over them the shares actually drawn, stacked likewise."""
    if not len(run.steps.step):
        return None
    traces: list[Trace] = []
    target = thin(run.steps)
    for index, source in enumerate(run.sources):
        area = curve(source, target.step, target.shares[:, index] * 100, color(index), width=0.5)
        area |= {"stackgroup": "target", "line": {"width": 0.5, "color": color(index), "shape": "hv"}}
        traces.append(area | {"hovertemplate": "%{y:.4~f} %"})
    drawn = thin(run.steps, DRAWN_POINTS)
    total = np.maximum(drawn.counts.sum(axis=1, keepdims=True), 1)
    edges = np.cumsum(drawn.counts / total, axis=1) * 100
    for index in range(len(run.sources) - 1):
        edge = curve("drawn", drawn.step, edges[:, index], "#111", width=1.4, dash="dot")
        traces.append(edge | {"showlegend": index == 0, "legendgroup": "drawn", "hoverinfo": "skip", "ink": True})
    return framed(traces, "% of the samples", yaxis={"range": [0, 100]})


def epochs(run: History) -> Figure | None:
    """Epochs drawn of each source."""
    if not len(run.steps.step):
        return None
    steps = thin(run.steps)
    columns = enumerate(run.sources)
    return framed([curve(name, steps.step, steps.epochs[:, k], color(k)) for k, name in columns], "epochs drawn")


def source_value(run: History) -> Figure | None:
    """Source value of a token of each source with its standard error, from the evaluations that measured it."""
    traces = []
    for index, source in enumerate(run.sources):
        measured = [(line.step, line.source_value[source]) for line in run.evaluations if source in line.source_value]
        if measured:
            steps = [step for step, _ in measured]
            trace = curve(source, steps, [estimate.value for _, estimate in measured], color(index))
            errors = plain([estimate.standard_error for _, estimate in measured])
            bars = {"type": "data", "array": errors, "visible": True, "thickness": 1, "width": 3}
            traces.append(trace | {"mode": "lines+markers", "error_y": bars})
    return framed(traces, "source value, in fresh real tokens", yaxis={"zeroline": True}) if traces else None


def slices(run: History) -> Figure | None:
    """Held-out loss of each slice; of many, those that are worst in the last evaluation."""
    evaluations = [line for line in run.evaluations if line.figures.slices]
    if not evaluations:
        return None
    last = evaluations[-1].figures.slices
    names = sorted(last, key=lambda name: -number(last[name].nats_per_token))[:MAX_SLICES]
    points = {
        line.step: {name: slice_.nats_per_token for name, slice_ in line.figures.slices.items()} for line in evaluations
    }
    return framed(_curves(points, names), "nats per token")


def source_loss(run: History) -> Figure | None:
    """Loss on a fixed sample of each training source."""
    points = {line.step: line.figures.source_nats_per_token for line in run.evaluations}
    traces = _curves(points, run.sources)
    return framed(traces, "nats per token") if traces else None


def train_loss(run: History) -> Figure | None:
    """Loss of the training batches."""
    if not len(run.steps.step):
        return None
    steps = thin(run.steps)
    return framed([curve("train", steps.step, steps.loss, color(8), width=1.3)], "nats per token")


def compared(runs: Mapping[str, History]) -> Figure | None:
    """Held-out loss of several runs, by label."""
    traces: list[Trace] = []
    for index, (label, run) in enumerate(runs.items()):
        if run.evaluations:
            step, loss, error = losses(run.evaluations)
            half = INTERVAL * np.nan_to_num(error)
            traces += [*band(step, loss, half, color(index)), curve(label, step, loss, color(index))]
    return framed(traces, "nats per token") if traces else None


def compared_synthetic(runs: Mapping[str, History]) -> Figure | None:
    """Synthetic share of several runs, by label."""
    traces = []
    for index, (label, run) in enumerate(runs.items()):
        if len(run.steps.step):
            kept = np.unique(np.linspace(0, len(run.steps.step) - 1, 500).astype(np.int64))
            share = run.synthetic_share()[kept] * 100
            traces.append(curve(label, run.steps.step[kept], share, color(index), shape="hv"))
    return framed(traces, "synthetic share, %", yaxis={"range": [0, 101]}) if traces else None


def _curves(points: Mapping[int, Mapping[str, float]], names: Sequence[str]) -> list[Trace]:
    """A line for each name that has a value at any step."""
    traces = []
    for index, name in enumerate(names):
        measured = [(step, values[name]) for step, values in points.items() if name in values]
        if measured:
            traces.append(curve(name, [step for step, _ in measured], [value for _, value in measured], color(index)))
    return traces
