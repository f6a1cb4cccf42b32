"""Takes down what derives from a document, a source or a license, and tells which steps had used it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.pool_manifest import TakedownFact
from trainer.runs.takedown import Name, request
from trainer.synthesis.lineage import Origin, take_down
from trainer.synthesis.pool import Pool
from trainer.tools.pool.places import RECIPE, pools_of
from trainer.tools.pool.uses import steps_of
from trainer.tools.run_view import open_run

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """What was taken down in which pool, and the steps of a run that had used a row, by its id."""

    facts: Sequence[tuple[Pool, TakedownFact]]
    steps: Mapping[str, Sequence[int]] = field(default_factory=dict)
    run: Path | None = None

    def lines(self) -> Iterator[str]:
        """For people."""
        for pool, fact in self.facts:
            count = len(fact.ids)
            yield f"{pool.folder}: {count} rows derive from {fact.what}; no later preparation reads them"
            for generation, names in fact.rows.items():
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                yield f"  generation {generation}: {', '.join(names[:_SHOWN])}{more}"
        if self.run is None:
            return
        used = sorted({step for steps in self.steps.values() for step in steps})
        yield "when the run is started again it draws none of them, from the next step on"
        yield f"{self.run}: {len(self.steps)} of them were used, in {len(used)} steps"
        for name, steps in self.steps.items():
            yield f"  {name}: {_ranges(steps)}"

    def to_json(self) -> str:
        """For programs."""
        facts = [
            {"pool": str(pool.folder), "what": fact.what, "at": fact.at, "rows": sorted(fact.ids)}
            for pool, fact in self.facts
        ]
        return json.dumps({"taken_down": facts, "steps": {name: list(steps) for name, steps in self.steps.items()}})


def takedown(path: Path, origin: Origin, reason: str) -> Takedown:
    """Takes down what derives from ``origin`` in all pools that ``path`` (a recipe, a run, a pool) means."""
    facts = [(pool, take_down(pool, origin, reason)) for pool in pools_of(path)]
    if not (path / RECIPE).is_file():
        return Takedown(facts=facts)
    ids = frozenset[str]().union(*(fact.ids for _, fact in facts))
    source, _, document = (origin.document or "").partition(":")
    own: list[Name] = [(source, document)] if document else []  # where it is a document of the run's own sources
    request(path, facts[0][1].what, [*own, *((None, name) for name in ids)])
    return Takedown(facts=facts, steps=steps_of(open_run(path), ids), run=path)


def _ranges(steps: Sequence[int]) -> str:
    """Steps in words: "3, 7-9"."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
