"""The charts of what a run measured, as plain plotly figures: values in, JSON-able dicts out, no plotly needed to make
them. Those of what its decisions rested on are in ``trainer.report.decision_charts``.
"""

# N steps, K sources

import html
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.base.json_values import number
from trainer.report import decision_charts
from trainer.report.history import History, thin
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
    series,
)
from trainer.tracking.journal import Line

DRAWN_POINTS = 100  # the drawn share is counted over a hundredth of the run, else one batch's rounding is all one sees


def figures(run: History) -> dict[str, Figure]:
    """All charts of one run, by name; a chart without data is left out."""
    made = {
        "held-out": held_out(run),
        "shares": shares(run),
        "epochs": epochs(run),
        "source_value": source_value(run),
        "value": decision_charts.value(run),
        "significance": decision_charts.significance(run),
        "price": decision_charts.price(run),
        "budget": decision_charts.budget(run),
        "harm": decision_charts.harm(run),
        "slice-harm": decision_charts.slice_harm(run),
        "slices": slices(run),
        "source-loss": source_loss(run),
        "train": train_loss(run),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def held_out(run: History) -> Figure | None:
    """Held-out loss on the validation part with its 95 % interval, the worst tenth, the decisions, and the final
    report.
    """
    evaluations = run.lines.get("evaluation", [])
    if not evaluations:
        return None
    step, loss = series(evaluations, "nats_per_token")
    _, error = series(evaluations, "standard_error")
    traces = band(step, loss, INTERVAL * np.nan_to_num(error), color(0))
    traces.append(curve("validation", step, loss, color(0), width=2.5))
    if any(line.get("tail_nats_per_token") is not None for line in evaluations):
        worst = series(evaluations, "tail_nats_per_token")[1]
        traces.append(curve("worst tenth of the documents", step, worst, color(3), dash="dot"))
    decisions = [line for line in run.lines.get("decision", []) if line["action"] != "keep"]
    if decisions:
        at = [number(line["step"]) for line in decisions]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": "decision", "x": at,
                "y": plain(np.interp(at, step, loss)), "hovertemplate": "%{text}<extra></extra>",
                "text": [html.escape(f"{line['action']}: {line['reason']}") for line in decisions],
                "marker": {"size": 11, "symbol": "diamond", "color": color(1), "line": {"width": 1, "color": "#fff"}},
            }
        )  # fmt: skip
    if run.test is not None:
        traces.append(_report_point(run, run.test))
    return framed(traces, "nats per token")


def _report_point(run: History, report: Line) -> Trace:
    return {
        "type": "scatter", "mode": "markers", "name": "report (final)", "x": [run.last_step],
        "y": [number(report["nats_per_token"])], "marker": {"size": 9, "color": color(2)},
        "error_y": {"type": "data", "array": plain([INTERVAL * number(report.get("standard_error"))]), "visible": True},
    }  # fmt: skip


def shares(run: History) -> Figure | None:
    """Target shares as stacked areas, and over them the shares really drawn, stacked likewise."""
    if not len(run.steps.step):
        return None
    traces: list[Trace] = []
    target = thin(run.steps)
    for index, source in enumerate(run.sources):
        area = curve(source, target.step, target.shares[:, index] * 100, color(index), width=0.5)
        area |= {"stackgroup": "target", "line": {"width": 0.5, "color": color(index), "shape": "hv"}}
        traces.append(area | {"hovertemplate": "%{y:.1f} %"})
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
    """SourceValue of a token of each source with its standard error, from the readings that measured it."""
    traces = []
    for index, source in enumerate(run.sources):
        known = [line for line in run.lines.get("evaluation", []) if source in line.get("source_value", {})]
        if known:
            value = [number(line["source_value"][source]["value"]) for line in known]
            error = [number(line["source_value"][source]["standard_error"]) for line in known]
            trace = curve(source, [line["step"] for line in known], value, color(index)) | {"mode": "lines+markers"}
            bars = {"type": "data", "array": plain(error), "visible": True, "thickness": 1, "width": 3}
            traces.append(trace | {"error_y": bars})
    return framed(traces, "worth, in fresh real tokens", yaxis={"zeroline": True}) if traces else None


def slices(run: History) -> Figure | None:
    """Held-out loss of each slice; of many, those that are worst in the last reading."""
    evaluations = [line for line in run.lines.get("evaluation", []) if line.get("slices")]
    if not evaluations:
        return None
    last = evaluations[-1]["slices"]
    names = sorted(last, key=lambda name: -number(last[name]["nats_per_token"]))[:MAX_SLICES]
    return framed(_curves(evaluations, "slices", names, "nats_per_token"), "nats per token")


def source_loss(run: History) -> Figure | None:
    """Loss on a fixed sample of each training source."""
    evaluations = [line for line in run.lines.get("evaluation", []) if line.get("source_nats_per_token")]
    if not evaluations:
        return None
    return framed(_curves(evaluations, "source_nats_per_token", run.sources, None), "nats per token")


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
        evaluations = run.lines.get("evaluation", [])
        if evaluations:
            step, loss = series(evaluations, "nats_per_token")
            error = np.nan_to_num(series(evaluations, "standard_error")[1])
            traces += [*band(step, loss, INTERVAL * error, color(index)), curve(label, step, loss, color(index))]
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


def _curves(evaluations: Sequence[Line], key: str, names: Sequence[str], inner: str | None) -> list[Trace]:
    traces = []
    for index, name in enumerate(names):
        known = [line for line in evaluations if name in line[key]]
        values = [number(line[key][name][inner] if inner else line[key][name]) for line in known]
        if known:
            traces.append(curve(name, [line["step"] for line in known], values, color(index)))
    return traces
