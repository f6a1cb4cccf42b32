"""What every chart of the report is made of: curves and bands as plotly has them, colors, numbers that JSON can hold.

Colors go by the source's place in the recipe, so that a source looks the same in every chart; they are chosen to be
told apart on white and on black, also by color-blind readers (Okabe and Ito, 2008, a little lighter). Axis and font
colors are left to the page, which knows whether it is dark; so is the color of a trace that is marked ``ink``.
"""

# N steps

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.base.records import FloatArray

Figure = dict[str, Any]
Trace = dict[str, Any]

COLORS = ("#3b8fd4", "#e8973a", "#2fa58a", "#d9634f", "#a071c9", "#c9a51f", "#5bb5e0", "#d277a6", "#8a8f98", "#7aa63c")
INTERVAL = 1.96  # standard errors: 95 % under a normal law
MAX_SLICES = 12  # lines that can still be told apart; the worst are drawn


def color(index: int) -> str:
    """The color of the source, slice or run at this place."""
    return COLORS[index % len(COLORS)]


def curve(
    name: str, x: Any, y: Any, line_color: str, *, width: float = 1.8, dash: str = "solid", shape: str = "linear"
) -> Trace:
    """One line through the points, with an entry in the legend."""
    line = {"color": line_color, "width": width, "dash": dash, "shape": shape}
    return {
        "type": "scatter", "mode": "lines", "name": html.escape(name), "x": plain(x), "y": plain(y), "line": line,
    }  # fmt: skip


def band(x: FloatArray, y: FloatArray, half: FloatArray, line_color: str) -> list[Trace]:
    """The interval y - half to y + half as a filled area without an entry in the legend."""
    edge = {"showlegend": False, "hoverinfo": "skip", "line": {"width": 0}}
    lower = curve("", x, y - half, line_color) | edge
    upper = curve("", x, y + half, line_color) | edge | {"fill": "tonexty", "fillcolor": line_color + "33"}
    return [lower, upper]


def framed(traces: list[Trace], y_title: str, yaxis: Mapping[str, Any] | None = None) -> Figure:
    """The chart of these traces over steps."""
    return {"data": traces, "layout": {"xaxis": {"title": "step"}, "yaxis": {"title": y_title, **(yaxis or {})}}}


def plain(values: Any) -> list[float | None]:
    """Numbers for plotly, which leaves a gap for None; five significant digits are more than a pixel."""
    array = np.asarray(values, dtype=np.float64)
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in array.tolist()]


def limit_line(name: str, steps: Sequence[float], values: Sequence[float], dash: str) -> Trace:
    """A threshold over steps, in the color of the text."""
    return curve(name, steps, values, "#111", width=1.3, dash=dash) | {"ink": True}


def legend_entry(name: str, symbol: str) -> Trace:
    """An entry of the legend without a point."""
    marker = {"symbol": symbol, "size": 8, "color": color(8)}
    return curve(name, [None], [None], color(8)) | {"mode": "markers", "marker": marker, "hoverinfo": "skip"}


def finite(values: Iterable[float]) -> FloatArray:
    """Those that are finite."""
    return np.array([value for value in values if math.isfinite(value)])
