"""One run as its folder tells it: the columns that are drawn, and the lines that are quoted.

A folder is all that is needed, whether the run ended, crashed or still goes on. A run of a million steps has a journal
of half a gigabyte: of a step only the drawn numbers are kept while reading, and ``thin`` brings them down to at most
1,000 stretches, which is more than a screen can show.
"""

# N steps, K sources, P points that are drawn

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.base.errors import UserError
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE, FloatArray
from trainer.tracking.journal import Line, read

MAX_POINTS = 1_000


@dataclass(kw_only=True)
class Steps:
    """What each step said: step, loss and tokens [N]; by source counts, shares (0 to 1) and epochs so far [N, K]."""

    step: FloatArray
    loss: FloatArray
    tokens: FloatArray
    counts: FloatArray
    shares: FloatArray
    epochs: FloatArray


@dataclass(kw_only=True)
class History:
    """A run: ``sources`` in recipe order with their ``kinds``, its ``steps``, and every other line by kind."""

    folder: Path
    name: str
    sources: tuple[str, ...]
    kinds: Mapping[str, str]
    steps: Steps
    lines: Mapping[str, list[Line]]
    outcome: Mapping[str, Any] | None
    recipe: str

    @property
    def start(self) -> Line:
        """The first start line; empty when the run died before it."""
        return next(iter(self.lines.get("start", [])), {})

    @property
    def test(self) -> Line | None:
        """The final figures, when the run got so far."""
        return next(reversed(self.lines.get("test", [])), None)

    @property
    def last_step(self) -> int:
        """The last step trained; 0 when there is none."""
        return int(self.steps.step[-1]) if len(self.steps.step) else 0

    @property
    def state(self) -> str:
        """How it ended, in the outcome's words; "unfinished" when nothing says so: it runs still, or was killed."""
        finish = next(reversed(self.lines.get("finish", [])), None)
        told = self.outcome or finish
        return str(told["state"]) if told else "unfinished"

    @property
    def reason(self) -> str:
        """Why it ended."""
        finish = next(reversed(self.lines.get("finish", [])), None)
        told = self.outcome or finish
        if told is None:
            return f"the last step in its journal is {self.last_step}; it was killed, or runs still"
        return str(told.get("reason") or "")

    def synthetic_share(self) -> FloatArray:
        """Sum of the shares of the synthetic sources at each step, [N]."""
        synthetic = [index for index, source in enumerate(self.sources) if self.kinds.get(source) == "synthetic"]
        return np.asarray(self.steps.shares[:, synthetic].sum(axis=1))


def read_history(folder: Path) -> History:
    """Read a run folder. UserError when it has no journal, a line in the middle of it is broken, or outcome.json is."""
    rows: list[tuple[float, float, float]] = []
    by_source: list[Mapping[str, tuple[float, float, float]]] = []
    lines: dict[str, list[Line]] = {}
    for line in read(folder / "journal.jsonl"):
        if line["kind"] != "step":
            lines.setdefault(line["kind"], []).append(line)
            continue
        rows.append((line["step"], number(line["loss"]), line["tokens"]))
        counts, epochs = line["counts"], line["epochs"]
        by_source.append({s: (counts.get(s, 0), share, epochs.get(s, 0.0)) for s, share in line["shares"].items()})
    segments = {name: segment for line in lines.get("start", []) for name, segment in line.get("sources", {}).items()}
    sources = tuple(dict.fromkeys([*segments, *(name for row in by_source[-1:] for name in row)]))
    return History(
        folder=folder,
        name=str(lines["start"][0]["recipe_name"]) if lines.get("start") else folder.name,
        sources=sources,
        kinds={name: str(segment.get("kind", "")) for name, segment in segments.items()},
        steps=_columns(rows, by_source, sources),
        lines=lines,
        outcome=_json(folder / "outcome.json"),
        recipe=_text(folder / "recipe.yaml"),
    )


def _columns(
    rows: list[tuple[float, float, float]],
    by_source: list[Mapping[str, tuple[float, float, float]]],
    sources: tuple[str, ...],
) -> Steps:
    step, loss, tokens = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    absent = (0.0, 0.0, 0.0)
    table = [[row.get(source, absent) for source in sources] for row in by_source]
    counts, shares, epochs = np.moveaxis(np.array(table, dtype=np.float64).reshape(len(rows), len(sources), 3), 2, 0)
    return Steps(
        step=step,
        loss=loss,
        tokens=tokens,
        counts=counts,
        shares=shares / SHARE_ONE,
        epochs=epochs,
    )


def thin(steps: Steps, max_points: int = MAX_POINTS) -> Steps:
    """The same run in at most ``max_points`` stretches: mean loss, sum of counts and tokens, else the last value."""
    count = len(steps.step)
    if count <= max_points:
        return steps
    ends = np.unique(np.linspace(0, count, max_points + 1).astype(np.int64))
    first, last = ends[:-1], ends[1:] - 1
    finite = np.isfinite(steps.loss)
    known = np.add.reduceat(finite.astype(np.float64), first)
    total = np.add.reduceat(np.where(finite, steps.loss, 0.0), first)
    return Steps(
        step=steps.step[last],
        loss=np.divide(total, known, out=np.full(len(first), np.nan), where=known > 0),
        tokens=np.add.reduceat(steps.tokens, first),
        counts=np.add.reduceat(steps.counts, first, axis=0),
        shares=steps.shares[last],
        epochs=steps.epochs[last],
    )


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # bad JSON, bad UTF-8
        value = None
    if not isinstance(value, dict) or "state" not in value:
        raise UserError(
            "this does not say how the run ended", file=path, remedy="Delete the file; the journal is whole"
        )
    return value


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
