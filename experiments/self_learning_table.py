"""The table, the plot and the claims of the self-learning experiment, from its stored cells."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments.cells import spread

FIRST, OURS, OTHER = "real", "ours", "smollm2"
LEAST_POOL = 0.2  # of the tokens after generation 1, that a run which is to count must take from the pool
SURE = 2.0  # standard errors
COLLAPSED = 0.1  # nats per token above generation 0
PANELS = {
    "test loss, nats per token": lambda cell: cell["test_nats_per_token"],
    "worst slice, nats per token": lambda cell: max(cell["test_slices"].values()),
    "distinct-2": lambda cell: cell["text"]["distinct"],
    "tail coverage": lambda cell: cell["text"]["tail_coverage"],
}
COLORS = {"replace": "#cf222e", "accumulate": "#d29922", OURS: "#2f81f7", OTHER: "#2da44e"}
STYLE = """text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;fill:#24292f}.axis{stroke:#8c959f}
.end{text-anchor:end}@media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}}"""
WIDTH, HEIGHT, LEFT, TOP = 300, 200, 46, 30  # of a panel, and its margins


def by_generation(stored: Mapping[str, Any]) -> dict[str, dict[int, list[Mapping[str, Any]]]]:
    """Cells by arm and generation, in the order of seeds."""
    arms: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for name, cell in sorted(stored.items(), key=lambda item: item[1]["seed"]):
        arm, generation = name.split("/")[0].rsplit("-", 1)
        arms.setdefault(arm, {}).setdefault(int(generation), []).append(cell)
    return {arm: dict(sorted(arms[arm].items())) for arm in (FIRST, *COLORS) if arm in arms}


def differences(stored: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[float]:
    """Test loss above generation 0 of the same seed, which is the run on real text alone at equal tokens."""
    first = {cell["seed"]: cell["test_nats_per_token"] for cell in by_generation(stored).get(FIRST, {}).get(0, [])}
    return [cell["test_nats_per_token"] - first[cell["seed"]] for cell in cells if cell["seed"] in first]


def table(stored: Mapping[str, Any]) -> list[str]:
    """Every arm by generation."""
    head = ["arm", "generation", "seeds", "test loss, nats per token", "above real text alone", "worst slice"]
    head += ["tokens from the pool", "distinct-2 of the new text", "tail coverage of the new text"]
    rows = [head, ["---"] * len(head)]
    for arm, generations in by_generation(stored).items():
        for generation, cells in generations.items():
            rows.append(
                [
                    arm,
                    str(generation),
                    str(len(cells)),
                    spread([cell["test_nats_per_token"] for cell in cells]),
                    spread(paired) if generation and (paired := differences(stored, cells)) else "",
                    spread([max(cell["test_slices"].values()) for cell in cells]),
                    f"{mean(_from_pool(cell) for cell in cells):.0%}",
                    f"{mean(cell['text']['distinct'] for cell in cells):.3f}",
                    f"{mean(cell['text']['tail_coverage'] for cell in cells):.3f}",
                ]
            )
    return [f"| {' | '.join(row)} |" for row in rows]


def _from_pool(cell: Mapping[str, Any]) -> float:
    return 1.0 - float(cell["drawn"]["real"])


def claims(stored: Mapping[str, Any]) -> dict[str, bool]:
    """What the experiment is to show, in words with the figures, and whether it does; of what is stored."""
    return dict(_claims(stored))


def _claims(stored: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    arms = by_generation(stored)
    last = {arm: cells[max(cells)] for arm, cells in arms.items()}
    over = {arm: differences(stored, cells) for arm, cells in last.items() if arm != FIRST}
    if replaced := over.get("replace"):
        losses = [mean(cell["test_nats_per_token"] for cell in cells) for cells in arms["replace"].values()]
        words = f"replace collapses: {mean(replaced):+.3f} nats per token against real text alone"
        yield words, mean(replaced) > COLLAPSED and losses[-1] > losses[0]
    if ours := over.get(OURS):
        low, error = mean(ours), _error(ours)
        words = f"ours does not end above real text alone at equal tokens: {low:+.3f} ± {error:.3f} nats per token"
        yield words, low <= 0
        later = [_from_pool(cell) for generation, cells in arms[OURS].items() if generation > 1 for cell in cells]
        if later:
            yield (
                f"at least {min(later):.0%} of its tokens after generation 1 come from the pool",
                min(later) >= LEAST_POOL,
            )
    if other := over.get(OTHER):
        low, error = mean(other), _error(other)
        words = f"with a pretrained generator and scarce real text, ours beats it: {low:+.3f} ± {error:.3f}"
        yield words, low < 0 and abs(low) >= SURE * error


def _error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("inf")


def plot(stored: Mapping[str, Any], file: Path) -> None:
    """Four panels by generation as one SVG; means over the seeds, the dashed line is generation 0."""
    parts = []
    for number, (title, value) in enumerate(PANELS.items()):
        x, y = number % 2 * (WIDTH + LEFT + 20), number // 2 * (HEIGHT + TOP + 30)
        parts.append(f'<g transform="translate({x + LEFT},{y + TOP})">{_panel(stored, title, value)}</g>')
    legend = "".join(
        f'<text x="{LEFT + 130 * number}" y="{2 * (HEIGHT + TOP) + 62}" style="fill:{color}">{arm}</text>'
        for number, (arm, color) in enumerate(COLORS.items())
        if arm in by_generation(stored)
    )
    size = f'viewBox="0 0 {2 * (WIDTH + LEFT) + 30} {2 * (HEIGHT + TOP) + 74}"'
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(parts)}{legend}</svg>\n'
    )


def _panel(stored: Mapping[str, Any], title: str, value: Any) -> str:
    means = {
        arm: {generation: mean(map(value, cells)) for generation, cells in generations.items()}
        for arm, generations in by_generation(stored).items()
    }
    first = means.pop(FIRST, {}).get(0)
    every = [figure for line in means.values() for figure in line.values()] + ([] if first is None else [first])
    low, high = min(every), max(every)
    most = max((generation for line in means.values() for generation in line), default=1)

    def at(generation: int, figure: float) -> str:
        return f"{generation / most * WIDTH:.1f},{HEIGHT - (figure - low) / ((high - low) or 1) * HEIGHT:.1f}"

    drawn = [
        f'<text class="title" x="0" y="-10">{title}</text>',
        f'<path class="axis" d="M0,0V{HEIGHT}H{WIDTH}" fill="none"/>',
    ]
    drawn += [f'<text class="end" x="-5" y="{y}">{figure:.2f}</text>' for y, figure in ((8, high), (HEIGHT, low))]
    drawn += [f'<text x="{n / most * WIDTH - 4:.0f}" y="{HEIGHT + 16}">{n}</text>' for n in range(most + 1)]
    if first is not None:
        ends = at(0, first), at(most, first)
        drawn.append(f'<polyline points="{" ".join(ends)}" class="axis" stroke-dasharray="4 4" fill="none"/>')
    for arm, line in means.items():
        points = ([] if first is None else [at(0, first)]) + [at(*point) for point in line.items()]
        drawn.append(f'<polyline points="{" ".join(points)}" stroke="{COLORS[arm]}" stroke-width="2" fill="none"/>')
    return "".join(drawn)
