"""What a measurement of the sources is, and how the measurements of a run are planned.

A measurement is a class with a method ``plan``; it stands in ``MEASUREMENTS`` by its kind, or comes from outside as
``evaluation.measurements: [{kind: "package.module:Name", ...}]`` or as an entry point of the group
``hybrid_trainer.measurements``. Its estimates reach the policy in ``Observation.evidence`` and the journal's evaluation
line, both under its kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trainer.base.records import Kind
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.eval_batches import HeldOutText, SegmentRows
from trainer.evaluate.schedule import Times

SOURCE_VALUE, GRADIENT_ALIGNMENT, FORGETTING = "source_value", "gradient_alignment", "forgetting"
BUILT_IN_KINDS = (SOURCE_VALUE, GRADIENT_ALIGNMENT, FORGETTING)


class Measurement(Protocol):
    """One kind of evidence about the sources: when it is measured, what that costs, and the measurement itself."""

    @property
    def times(self) -> Times:
        """The steps after which it is due."""
        ...

    @property
    def cost_tokens(self) -> float:
        """Cost of one measurement, in tokens trained: a token that only goes forward counts a third."""
        ...

    def __call__(
        self, port: Any, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, Any]:
        """(all) Estimates by source after ``step``, each a dataclass of plain values, the same on every rank.

        ``sources`` are those drawn from, with the numbers of their live segments; a source of which nothing can be
        estimated is left out. Weights and optimizer are as before, bit for bit. ``port`` is the engine.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class MeasuredRun:
    """What the size and the times of measurements follow from; nothing of it needs prepared data."""

    evaluation: EvaluationConfig
    kinds: Mapping[str, Kind]  # of the sources
    needed_from: Mapping[str, float]  # progress from which policy or guard needs a kind of measurement, where they do
    num_steps: int  # of the schedule
    global_batch: int
    sequence_length: int

    @property
    def num_sources(self) -> int:
        """How many sources are measured."""
        return len(self.kinds)

    def interval_tokens(self, times: Times) -> int:
        """Tokens trained for each measurement, when the whole run's are divided among them."""
        return self.global_batch * self.sequence_length * self.num_steps // times.count


class PlansMeasurement(Protocol):
    """How a kind of measurement is planned; a class with this static or class method, or a module."""

    def plan(
        self, config: Any, run: MeasuredRun, *, text: HeldOutText, sources: Mapping[str, Sequence[SegmentRows]]
    ) -> Measurement | None:
        """The measurement of a run on samples; None where it is not needed.

        ``config`` is its own section of the recipe. ``UserError`` where the held-out text is too small for it.
        """
        ...
