"""Rounds of synthesis in the report: what became of the requests, why rows were dropped, how good the graders were, how
diverse each generation is, what it cost, and some rows beside the real text that is nearest.

The records are those of the pools that the run reads or makes, generation by generation, with the shards of one added
up; when and why a generation joined the run is in its journal.
"""

import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trainer.base.errors import UserError
from trainer.base.formatting import duration, figure
from trainer.data.pool_manifest import MANIFEST, Manifest, pool_of
from trainer.data.shown_rows import ShownRow
from trainer.report.history import History
from trainer.report.plotly_figures import Figure, color, curve, plain
from trainer.tracking.round_line import GRADER_ESTIMATES, RoundLine

OWN_POOL = "pool"  # folder of the pool that a run makes
MAX_REASONS = 12
CURVES = {"distinct": "distinct-3", "self_bleu": "self-BLEU", "tail_coverage": "tail coverage"}


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generation of a pool: the records of its shards, and why it is not trained on, where it is not."""

    pool: Path
    number: int
    records: Sequence[Mapping[str, Any]]
    left_out: str | None

    def total(self, name: str) -> float:
        """Of a count, over all shards."""
        return float(sum(record.get(name, 0) for record in self.records))

    @property
    def dropped(self) -> Counter[str]:
        """Rows by reason."""
        counts = Counter[str]()
        for record in self.records:
            counts.update(record.get("dropped", {}))
        return counts

    @property
    def cost(self) -> float | None:
        """Money; None where no shard has a price."""
        costs = [record["cost"] for record in self.records if record.get("cost") is not None]
        return sum(costs) if costs else None

    def diversity(self, of: str, name: str) -> float | None:
        """Mean over the shards, ``of`` the rows ("diversity") or of as much "real" text; None where not measured."""
        gates = [gate for record in self.records if (gate := record.get("gate")) and gate.get(of)]
        values = [gate[of][name] for gate in gates if gate[of].get(name) is not None]
        return mean(values) if values else None

    def graders(self) -> Iterator[Mapping[str, Any]]:
        """Their records in the first shard that has them: every shard grades them on the same labeled rows."""
        yield from next((record["graders"] for record in self.records if record.get("graders")), ())

    def shown(self) -> Iterator[ShownRow]:
        """Rows beside their nearest real document."""
        for record in self.records:
            yield from (ShownRow.from_json(row) for row in record.get("shown", ()))


def generations(run: History) -> list[Generation]:
    """Of all pools of the run, in order; a pool that cannot be read has none."""
    return [generation for pool in _pools(run) for generation in _generations(pool)]


def _generations(pool: Path) -> Iterator[Generation]:
    try:
        manifest = Manifest(pool)
    except (UserError, OSError):
        return
    quarantined = manifest.quarantined
    for number in sorted({shard.generation for shard in manifest.shards}):
        records = [shard.record for shard in manifest.shards if shard.generation == number]
        whole = None if number in manifest.whole else "not whole yet"
        yield Generation(pool=pool, number=number, records=records, left_out=quarantined.get(number, whole))


def _pools(run: History) -> list[Path]:
    """The run's own pool, and those that its sources read."""
    own = run.folder / OWN_POOL
    pools = [own] if (own / MANIFEST).is_dir() else []
    try:
        sources = (YAML(typ="safe", pure=True).load(run.recipe) or {})["data"]["sources"].values()
        pools += [pool for source in sources if source.get("path") and (pool := pool_of(Path(source["path"])))]
    except (YAMLError, LookupError, TypeError, AttributeError):
        pass  # a recipe without sources, or none: no pool
    return list(dict.fromkeys(pools))


def round_rows(run: History, rounds: Sequence[Generation]) -> Iterator[dict[str, str]]:
    """The funnel of each generation, its cost, who wrote it, and what became of it in this run."""
    for each in rounds:
        requested, accepted, tokens = (each.total(name) for name in ("requests", "accepted", "accepted_tokens"))
        dropped = each.dropped
        unwritten = sum(count for reason, count in dropped.items() if reason.startswith("generator:"))
        graded = max((grader.get("graded", 0) for grader in each.graders()), default=None)
        first = each.records[0]
        yield {
            "pool": each.pool.name,
            "generation": str(each.number),
            "generator": f"{first['generator']} ({first['generator_weights'][:8]})",
            "requested": figure(requested),
            "written": figure(requested - unwritten),
            "graded": figure(graded),
            "kept": f"{figure(accepted)} ({accepted / max(1.0, requested):.0%})",
            "tokens": f"{figure(tokens)} of {figure(each.total('completion_tokens'))}",
            "cost": "; ".join(_cost(each, tokens)) or "-",
            "seconds": duration(each.total("seconds")),
            "fate": _fate(run, each),
        }


def _cost(each: Generation, kept_tokens: float) -> Iterator[str]:
    """Money in all, by source and per kept token; GPU time and energy, where known; what was not paid for."""
    if each.cost is not None:
        currency = each.records[0].get("currency") or ""
        yield f"{figure(each.cost)} {currency} ({figure(1e6 * each.cost / max(1.0, kept_tokens))} per M kept)"
    by_source: dict[str, float] = {}
    for record in each.records:
        for source, cost in record.get("cost_by_source", {}).items():
            by_source[source] = by_source.get(source, 0.0) + cost
    if len(by_source) > 1:
        yield ", ".join(f"{source} {figure(cost)}" for source, cost in sorted(by_source.items()))
    for name, unit in (("gpu_seconds", "GPU s"), ("joules", "J"), ("cached", "cached"), ("not_asked", "not asked")):
        if total := sum(record.get(name) or 0 for record in each.records):
            yield f"{figure(total)} {unit}"


def _fate(run: History, generation: Generation) -> str:
    """What became of it: the run's own words on a generation of its own pool, else the pool's."""
    lines = [line for line in run.of(RoundLine) if line.generation == generation.number]
    if generation.pool == run.folder / OWN_POOL and lines:
        return f"{lines[-1].state} after step {lines[-1].step}: {lines[-1].reason}"
    return generation.left_out or "in the pool"


def reason_rows(rounds: Sequence[Generation]) -> Iterator[tuple[str, list[str]]]:
    """How many rows each reason dropped, in each generation; the most frequent first."""
    counts = [each.dropped for each in rounds]
    total = sum(counts, Counter[str]())
    for reason, _ in total.most_common(MAX_REASONS):
        yield reason, [figure(count[reason]) for count in counts]


def grader_rows(rounds: Sequence[Generation]) -> Iterator[dict[str, str]]:
    """Each grader's own grades: has it a vote, agreement with labels, calibration, and its biases, with intervals."""
    for each in rounds:
        for grader in each.graders():
            lost = "; ".join(grader.get("lost_vote_for", ()))
            yield {
                "generation": str(each.number),
                "name": str(grader["name"]),
                "vote": "yes" if grader.get("has_vote", True) else f"lost: {lost}",
                **{name: _estimate(grader.get(name)) for name in GRADER_ESTIMATES},
                "abstained": f"{grader.get('abstained_share', 0.0):.0%}",
            }


def _estimate(estimate: Mapping[str, float] | None) -> str:
    return "-" if not estimate else f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def shown_rows(rounds: Sequence[Generation]) -> list[tuple[int, ShownRow]]:
    """Rows of the newest generation that has some, beside their nearest real text."""
    for each in reversed(rounds):
        if shown := list(each.shown()):
            return [(each.number, row) for row in shown]
    return []


def round_charts(every: Sequence[Generation]) -> dict[str, Figure]:
    """Funnel, diversity and the calibration of graders, of the first pool; a chart without data is left out."""
    rounds = [each for each in every if each.pool == every[0].pool]
    charts = {"funnel": _funnel(rounds), "diversity": _diversity(rounds), "calibration": _calibration(rounds)}
    return {name: chart for name, chart in charts.items() if chart is not None}


def _funnel(rounds: Sequence[Generation]) -> Figure | None:
    if not rounds:
        return None
    numbers = [each.number for each in rounds]
    traces = [_bars("kept", numbers, [each.total("accepted") for each in rounds], color(2))]
    kinds = Counter[str]()
    for each in rounds:
        kinds.update({reason.split(":")[0]: 0 for reason in each.dropped})
    for index, kind in enumerate(kinds):
        counts = [sum(n for reason, n in each.dropped.items() if reason.split(":")[0] == kind) for each in rounds]
        traces.append(_bars(f"dropped by {kind}", numbers, counts, color(3 + index)))
    return {"data": traces, "layout": {"barmode": "stack", **_axes("rows requested")}}


def _bars(name: str, x: Sequence[int], y: Sequence[float], fill: str) -> dict[str, Any]:
    return {"type": "bar", "name": html.escape(name), "x": list(x), "y": plain(y), "marker": {"color": fill}}


def _axes(y_title: str) -> dict[str, Any]:
    return {"xaxis": {"title": "generation", "dtick": 1}, "yaxis": {"title": y_title}}


def _diversity(rounds: Sequence[Generation]) -> Figure | None:
    traces = []
    for index, (name, title) in enumerate(CURVES.items()):
        for of, suffix, dash in (("diversity", "", "solid"), ("real", ", real text", "dot")):
            values = [(each.number, value) for each in rounds if (value := each.diversity(of, name)) is not None]
            if values:
                numbers, measured = zip(*values, strict=True)
                line = curve(title + suffix, numbers, measured, color(index), dash=dash)
                traces.append({**line, "mode": "lines+markers"})
    return {"data": traces, "layout": _axes("part of all")} if traces else None


def _calibration(rounds: Sequence[Generation]) -> Figure | None:
    """Of the newest generation: how many of the rows that a grader believes in so much are good."""
    newest = next((each for each in reversed(rounds) if any(each.graders())), None)
    if newest is None:
        return None
    traces = [curve("calibrated", [0, 1], [0, 1], "#111", width=1.0, dash="dot") | {"ink": True}]
    for index, grader in enumerate(newest.graders()):
        bins = grader.get("reliability", ())
        if bins:
            x, y = ([one[name] for one in bins] for name in ("belief", "good"))
            traces.append({**curve(str(grader["name"]), x, y, color(index)), "mode": "lines+markers"})
    axes = {"xaxis": {"title": "belief that a row is good"}, "yaxis": {"title": "labeled rows that are"}}
    return {"data": traces, "layout": axes} if len(traces) > 1 else None
