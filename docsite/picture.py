"""The picture of the README: shares and losses of one quickstart run, as an SVG that reads on light and dark pages.

``python -m docsite.picture RUN`` takes the figures of a run folder into docs/img/quickstart.json and draws them;
without RUN it draws what is stored.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from docsite.pages import PAGES

FIGURES, DRAWING = PAGES / "img" / "quickstart.json", PAGES / "img" / "quickstart.svg"
EVERY = 20  # steps that a point of a training loss is the mean of
COLORS = ("#2f81f7", "#2da44e", "#d29922", "#db61a2")
WIDTH, HEIGHT, TOP, BOTTOM = 920, 330, 44, 290
LEFT_PANEL, RIGHT_PANEL = (44, 420), (490, 774)
STYLE = """.end{text-anchor:end}text{font:12px system-ui,sans-serif;fill:#57606a}
.title{font-weight:600;fill:#24292f}.held{stroke:#24292f}
.axis{stroke:#8c959f;stroke-width:1}.event{stroke:#57606a;stroke-dasharray:3 3}
@media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}.held{stroke:#f0f6fc}.event{stroke:#9198a1}}"""


def extracted(run: Path) -> dict[str, Any]:
    """The figures of the picture, from a run folder's journal."""
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    of_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in ("step", "evaluation", "decision")}
    sources = list(of_kind["step"][0]["shares"])
    blocks = [of_kind["step"][at : at + EVERY] for at in range(0, len(of_kind["step"]), EVERY)]
    losses = {
        source: [
            [block[-1]["step"], round(mean(found), 4)]
            for block in blocks
            if (found := [line["source_loss"][source] for line in block if source in line["source_loss"]])
        ]
        for source in sources
    }
    shares, before = [], None
    for line in of_kind["step"]:
        if line["shares"] != before:
            before = line["shares"]
            shares.append([line["step"], *(before[source] for source in sources)])
    return {
        "sources": sources,
        "steps": len(of_kind["step"]),
        "shares": shares,
        "losses": losses,
        "held_out": [[line["step"], round(line["nats_per_token"], 4)] for line in of_kind["evaluation"]],
        "events": [
            [line["step"], line["action"]] for line in of_kind["decision"] if line["action"] not in ("keep", "veto")
        ],
    }


def drawn(figures: dict[str, Any]) -> str:
    """The SVG."""
    marks = [_shares(figures), _losses(figures)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Shares of four sources and held-out loss over {figures["steps"]} steps">'
        f"<style>{STYLE}</style>{''.join(marks)}</svg>\n"
    )


def _x(step: float, figures: dict[str, Any], panel: tuple[int, int]) -> float:
    return panel[0] + (panel[1] - panel[0]) * step / figures["steps"]


def _shares(figures: dict[str, Any]) -> str:
    """Stacked areas, the first source at the bottom; dashed lines where control changed them."""
    steps = [row[0] - 1 for row in figures["shares"]] + [figures["steps"]]
    low = [0.0] * len(figures["shares"])
    marks = [_text(LEFT_PANEL[0], 18, "Share of each source in the batch", "title")]
    for number, source in enumerate(figures["sources"]):
        high = [below + row[1 + number] / 1e6 for below, row in zip(low, figures["shares"], strict=True)]
        points = _stairs(steps, high, figures) + _stairs(steps, low, figures)[::-1]
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        marks.append(f'<polygon points="{shape}" fill="{COLORS[number]}" fill-opacity=".75"/>')
        marks.append(_text(LEFT_PANEL[0] + 6, _height((low[0] + high[0]) / 2) + 4, source, "title"))
        low = high
    for step, action in figures["events"]:
        x = _x(step, figures, LEFT_PANEL)
        marks.append(f'<line class="event" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{BOTTOM}"/>')
        marks.append(_text(x + 3, TOP - 6, f"{action} {step}"))
    marks += [_text(LEFT_PANEL[0] - 4, _height(value / 100) + 4, f"{value} %", "end") for value in (0, 50, 100)]
    return "".join(marks) + _axis(figures, LEFT_PANEL)


def _height(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _stairs(steps: Sequence[int], values: Sequence[float], figures: dict[str, Any]) -> list[tuple[float, float]]:
    points = []
    for number, value in enumerate(values):
        points += [(_x(step, figures, LEFT_PANEL), _height(value)) for step in steps[number : number + 2]]
    return points


def _losses(figures: dict[str, Any]) -> str:
    """Training loss by source, thin, and the held-out loss of real documents, thick."""
    series = [(name, figures["losses"][name], COLORS[at]) for at, name in enumerate(figures["sources"])]
    values = [value for _, points, _ in series for _, value in points]
    low, high = min(values), max(values)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    marks = [_text(RIGHT_PANEL[0], 18, "Loss, nats per token", "title")]
    ends = []
    for name, points, color in series:
        marks.append(_line(points, figures, y, f'stroke="{color}" stroke-width="1.5"'))
        ends.append((y(points[-1][1]), _x(points[-1][0], figures, RIGHT_PANEL), f"{name} (training)"))
    marks.append(_line(figures["held_out"], figures, y, 'class="held" stroke-width="3"'))
    held = figures["held_out"][-1]
    ends.append((y(held[1]), _x(held[0], figures, RIGHT_PANEL), f"held-out {held[1]:.2f}"))
    placed = 0.0
    for height, x, name in sorted(ends):
        placed = max(height + 4, placed + 14)
        marks.append(_text(x + 6, placed, name, "title" if name.startswith("held") else ""))
    marks += [_text(RIGHT_PANEL[0] - 26, y(value) + 4, f"{value}") for value in range(int(low) + 1, int(high) + 1)]
    return "".join(marks) + _axis(figures, RIGHT_PANEL)


def _line(points: Sequence[Sequence[float]], figures: dict[str, Any], y: Any, look: str) -> str:
    shape = " ".join(f"{_x(step, figures, RIGHT_PANEL):.1f},{y(value):.1f}" for step, value in points)
    return f'<polyline points="{shape}" fill="none" {look}/>'


def _axis(figures: dict[str, Any], panel: tuple[int, int]) -> str:
    marks = [f'<line class="axis" x1="{panel[0]}" x2="{panel[1]}" y1="{BOTTOM}" y2="{BOTTOM}"/>']
    for step in range(0, figures["steps"] + 1, 100):
        marks.append(_text(_x(step, figures, panel) - 8, BOTTOM + 18, str(step)))
    return "".join(marks) + _text(panel[1] - 26, BOTTOM + 34, "step")


def _text(x: float, y: float, words: str, look: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{f" class={look!r}" if look else ""}>{words}</text>'


def main() -> None:
    """Extract, where a run is named, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder to take the figures from")
    run = parser.parse_args().run
    if run is not None:
        FIGURES.write_text(json.dumps(extracted(run)) + "\n", encoding="utf-8")
    DRAWING.write_text(drawn(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
