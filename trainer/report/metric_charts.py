"""Charts of the metrics that have none of their own: one for every figure of the schema that is a single number.

A figure that is added to the schema is therefore in the report without a change here.
"""

import numpy as np

from trainer.report.history import History, thin
from trainer.report.plotly_figures import Figure, color, curve, framed
from trainer.tracking.figures import HeldOutFigures
from trainer.tracking.record import About, fields_of
from trainer.tracking.schema import EvaluationLine, StepLine

PREFIX = "metric-"  # of the chart's name, before the metric's
DRAWN_ELSEWHERE = ("loss/train", "loss/held_out", "loss/held_out_standard_error", "loss/tail")


def metric_charts(run: History) -> dict[str, Figure]:
    """Charts by name, over steps; a metric that was never measured has none."""
    charts = {}
    steps = thin(run.steps)
    for metric, values in steps.scalars.items():
        if np.isfinite(values).any():
            charts[PREFIX + metric] = _chart(metric, list(steps.step), list(values))
    measured = [(line.step, line.metrics()) for line in run.evaluations]
    for metric in _metrics_of(EvaluationLine, HeldOutFigures):
        points = [(step, metrics[metric]) for step, metrics in measured if metric in metrics]
        if points:
            charts[PREFIX + metric] = _chart(metric, [step for step, _ in points], [value for _, value in points])
    return charts


def title(name: str) -> tuple[str, str]:
    """Title and note of a chart, from the schema."""
    metric = name.removeprefix(PREFIX)
    about = _metrics_of(StepLine, EvaluationLine, HeldOutFigures)[metric]
    unit = f", {about.unit}" if about.unit else ""
    return metric.replace("/", ", ").replace("_", " ").capitalize(), f"{about.description.capitalize()}{unit}."


def _chart(metric: str, steps: list[float], values: list[float]) -> Figure:
    unit = _metrics_of(StepLine, EvaluationLine, HeldOutFigures)[metric].unit
    return framed([curve(metric, steps, values, color(8), width=1.3)], unit or metric.replace("_", " "))


def _metrics_of(*records: type) -> dict[str, About]:
    """Metrics that are a single number and are not drawn elsewhere."""
    return {
        about.metric: about
        for record in records
        for about in fields_of(record).values()
        if isinstance(about.metric, str)
        and about.metric
        and "{" not in about.metric
        and not about.inline
        and about.metric not in DRAWN_ELSEWHERE
    }
