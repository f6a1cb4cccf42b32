"""One run, read from its folder: the columns that are drawn, and the lines that are quoted.

A folder is all that is needed, whether the run ended, crashed or is still running. A run of a million steps has a
journal of half a gigabyte: of a step only the drawn numbers are kept while reading, and ``thin`` brings them down to at
most 1,000 stretches, which is more than a screen can show.
"""

# N steps, K sources, P points that are drawn, R steps with a measurement

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, FloatArray
from trainer.tracking.figures import StepMixture
from trainer.tracking.record import JournalLine, fields_of
from trainer.tracking.schema import EvaluationLine, FinishLine, StartLine, StepLine, TestLine, read_journal

L = TypeVar("L", bound=JournalLine)
MAX_POINTS = 1_000


@dataclass(kw_only=True)
class StepColumns:
    """What each step measured: step, loss and tokens [N]; by source counts, shares (0 to 1) and epochs so far [N, K];
    ``scalars`` the other metrics that are one number, by metric name, each [N].
    """

    step: FloatArray
    loss: FloatArray
    tokens: FloatArray
    counts: FloatArray
    shares: FloatArray
    epochs: FloatArray
    scalars: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(kw_only=True)
class History:
    """A run: ``sources`` in recipe order with their ``kinds``, its ``steps``, and every other line by type."""

    folder: Path
    name: str
    sources: tuple[str, ...]
    kinds: Mapping[str, str]
    steps: StepColumns
    records: Mapping[type[JournalLine], Sequence[JournalLine]]
    outcome: Mapping[str, Any] | None
    recipe: str

    def of(self, kind: type[L]) -> list[L]:
        """The lines of one kind, in order; those of steps are in ``steps``."""
        return [line for line in self.records.get(kind, ()) if isinstance(line, kind)]

    @property
    def start(self) -> StartLine | None:
        """The first start; None when the run died before it."""
        return next(iter(self.of(StartLine)), None)

    @property
    def finish(self) -> FinishLine | None:
        """How the last launch ended; None when it runs or was killed."""
        return next(reversed(self.of(FinishLine)), None)

    @property
    def test(self) -> TestLine | None:
        """The test figures, when the run got so far."""
        return next(reversed(self.of(TestLine)), None)

    @property
    def evaluations(self) -> list[EvaluationLine]:
        """All evaluations on the validation documents."""
        return self.of(EvaluationLine)

    @property
    def last_step(self) -> int:
        """The last step trained; 0 when there is none."""
        return int(self.steps.step[-1]) if len(self.steps.step) else 0

    @property
    def state(self) -> str:
        """How it ended, in the outcome's words; "unfinished" when nothing says so: it is running, or was killed."""
        if self.outcome:
            return str(self.outcome["state"])
        return self.finish.state if self.finish else "unfinished"

    @property
    def reason(self) -> str:
        """Why it ended."""
        if self.outcome:
            return str(self.outcome.get("reason") or "")
        if self.finish:
            return self.finish.reason
        return f"the last step in its journal is {self.last_step}; it was killed, or is still running"

    def synthetic_share(self) -> FloatArray:
        """Sum of the shares of the synthetic sources at each step, [N]."""
        synthetic = [index for index, source in enumerate(self.sources) if self.kinds.get(source) == "synthetic"]
        return np.asarray(self.steps.shares[:, synthetic].sum(axis=1))


def columns(folder: Path) -> dict[str, FloatArray]:
    """All metrics of steps and evaluations by metric name, each [R] over the steps in ``step``; NaN where a metric was
    not measured after a step. ``UserError`` when the folder has no journal, or a line in the middle of it is broken.

    The names and units are those of ``trainer.tracking.schema``.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in read_journal(folder / "journal.jsonl"):
        if isinstance(line, StepLine | EvaluationLine):
            rows.setdefault(line.step, {}).update(line.metrics())
    ordered = [rows[step] for step in sorted(rows)]
    names = dict.fromkeys(name for row in ordered for name in row)
    measured = {name: np.array([row.get(name, np.nan) for row in ordered], dtype=np.float64) for name in names}
    return {"step": np.array(sorted(rows), dtype=np.float64), **measured}


def read_history(folder: Path) -> History:
    """Read a run folder. UserError when it has no journal, a line in the middle of it is broken, or outcome.json is."""
    rows: list[tuple[float, ...]] = []
    mixtures: list[StepMixture] = []
    records: dict[type[JournalLine], list[JournalLine]] = {}
    scalars = _scalars()
    for line in read_journal(folder / "journal.jsonl"):
        if isinstance(line, StepLine):
            rows.append((line.step, line.loss, line.tokens, *(getattr(line, name) for name in scalars)))
            mixtures.append(line.mixture)
        else:
            records.setdefault(type(line), []).append(line)
    starts = [line for line in records.get(StartLine, []) if isinstance(line, StartLine)]
    facts = {name: source for line in starts for name, source in line.sources.items()}
    sources = tuple(dict.fromkeys([*facts, *(name for mixture in mixtures[-1:] for name in mixture.shares)]))
    return History(
        folder=folder,
        name=starts[0].recipe_name if starts else folder.name,
        sources=sources,
        kinds={name: source.kind for name, source in facts.items()},
        steps=_columns(rows, mixtures, sources, list(scalars.values())),
        records=records,
        outcome=_json(folder / "outcome.json"),
        recipe=_text(folder / "recipe.yaml"),
    )


def _scalars() -> dict[str, str]:
    """Fields of a step that are one number to plot, and the names of their metrics; but for the loss."""
    scalar_fields = {name: about for name, about in fields_of(StepLine).items() if name != "loss" and not about.inline}
    metrics = {name: about.metric for name, about in scalar_fields.items() if isinstance(about.metric, str)}
    return {name: metric for name, metric in metrics.items() if metric and "{" not in metric}


def _columns(
    rows: list[tuple[float, ...]], mixtures: list[StepMixture], sources: tuple[str, ...], scalars: list[str]
) -> StepColumns:
    step, loss, tokens, *columns = np.array(rows, dtype=np.float64).reshape(-1, 3 + len(scalars)).T
    by_source = [
        [(mixture.counts.get(name, 0), mixture.shares.get(name, 0), mixture.epochs.get(name, 0.0)) for name in sources]
        for mixture in mixtures
    ]
    shape = (len(rows), len(sources), 3)
    counts, shares, epochs = np.moveaxis(np.array(by_source, dtype=np.float64).reshape(shape), 2, 0)
    return StepColumns(
        step=step,
        loss=loss,
        tokens=tokens,
        counts=counts,
        shares=shares / SHARE_ONE,
        epochs=epochs,
        scalars=dict(zip(scalars, columns, strict=True)),
    )


def thin(steps: StepColumns, max_points: int = MAX_POINTS) -> StepColumns:
    """The same run in at most ``max_points`` stretches: mean loss and scalars, sum of counts and tokens, else the last
    value.
    """
    count = len(steps.step)
    if count <= max_points:
        return steps
    ends = np.unique(np.linspace(0, count, max_points + 1).astype(np.int64))
    first, last = ends[:-1], ends[1:] - 1
    return StepColumns(
        step=steps.step[last],
        loss=_means(steps.loss, first),
        tokens=np.add.reduceat(steps.tokens, first),
        counts=np.add.reduceat(steps.counts, first, axis=0),
        shares=steps.shares[last],
        epochs=steps.epochs[last],
        scalars={name: _means(values, first) for name, values in steps.scalars.items()},
    )


def _means(values: FloatArray, first: "np.ndarray[Any, np.dtype[np.int64]]") -> FloatArray:
    """Mean of the finite values of each stretch that begins at ``first``; NaN where there is none."""
    finite = np.isfinite(values)
    count = np.add.reduceat(finite.astype(np.float64), first)
    total = np.add.reduceat(np.where(finite, values, 0.0), first)
    means = np.full(len(first), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # bad JSON, bad UTF-8
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("state"), str):
        raise UserError(
            "this does not say how the run ended", file=path, remedy="Delete the file; the journal is complete"
        )
    return value


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
