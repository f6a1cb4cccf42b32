"""What the guard remembers between evaluations: frozen values that survive JSON exactly."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from trainer.base.json_values import jsonable
from trainer.control.guard.detector import LOG_EMPTY, RATES, DetectorSettings, DetectorState, empty_state
from trainer.control.source_scores import MeasuredValues

Statistic = Literal["mean", "tail", "gap", "progress"]


@dataclass(frozen=True, kw_only=True)
class SavedDetector:
    """A detector's state between evaluations, by stream: ``values`` in nats per token (None where one is missing, none
    before the first), how many of the newest are ``held_back``, and ln of the evidence at each rate.
    """

    values: tuple[tuple[float | None, ...], ...] = ()
    held_back: tuple[int, ...] = ()
    log_evidence: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, state: DetectorState) -> Self:
        """What has to be saved of ``state``."""
        is_known = ~np.isnan(state.values).all(axis=0)
        first = int(np.argmax(is_known)) if is_known.any() else state.values.shape[1]
        rows = state.values[:, first:].tolist()
        return cls(
            values=tuple(tuple(None if value != value else value for value in row) for row in rows),
            held_back=tuple(state.held_back.tolist()),
            log_evidence=tuple(map(tuple, state.log_evidence.tolist())),
        )

    def restored(self, settings: DetectorSettings, num_streams: int) -> DetectorState:
        """The state that was saved; an empty one where nothing was."""
        empty = empty_state(settings, num_streams)
        if not self.values:
            return empty
        values = empty.values
        rows = np.array(self.values, dtype=np.float64)[:, -values.shape[1] :]
        if rows.shape[1]:
            values[:, -rows.shape[1] :] = rows
        return DetectorState(
            values=values,
            held_back=np.array(self.held_back, dtype=np.int64),
            log_evidence=np.array(self.log_evidence, dtype=np.float64),
        )

    def without_evidence(self) -> Self:
        """The same past with the evidence reset."""
        return replace(self, log_evidence=((LOG_EMPTY,) * len(RATES),) * len(self.held_back))

    def without_newest(self, num: int) -> Self:
        """Without the newest ``num`` values and without evidence; what was held back of the others stays so."""
        values = tuple(row[: max(len(row) - num, 0)] for row in self.values)
        held_back = tuple(max(number - num, 0) for number in self.held_back)
        return replace(self.without_evidence(), values=values, held_back=held_back)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The state that was saved."""
        return cls(
            values=tuple(map(tuple, saved["values"])),
            held_back=tuple(saved["held_back"]),
            log_evidence=tuple(map(tuple, saved["log_evidence"])),
        )


@dataclass(frozen=True, kw_only=True)
class MonitorState:
    """The past of the statistics: ``steps`` and ``progress`` of the evaluations kept, how many ``documents`` and tokens
    they had, the sums by which the documents of the ``tail`` are chosen, and the detectors.
    """

    steps: tuple[int, ...] = ()
    progress: tuple[float, ...] = ()
    documents: tuple[int, int] | None = None
    tail_nats: tuple[float, ...] = ()  # by document, summed until the tail is chosen
    num_tail_evaluations: int = 0  # in that sum
    tail: tuple[int, ...] = ()  # indices of its documents; empty until they are chosen
    gap_segments: tuple[tuple[str, tuple[int, ...]], ...] = ()  # sources whose loss the gap compares with
    detectors: Mapping[Statistic, SavedDetector] = field(default_factory=dict)
    slices: SavedDetector = SavedDetector()
    num_slice_evaluations: int = 0

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The state that was saved."""
        documents = saved["documents"]
        return cls(
            steps=tuple(saved["steps"]),
            progress=tuple(saved["progress"]),
            documents=None if documents is None else (documents[0], documents[1]),
            tail_nats=tuple(saved["tail_nats"]),
            num_tail_evaluations=saved["num_tail_evaluations"],
            tail=tuple(saved["tail"]),
            gap_segments=tuple((name, tuple(segments)) for name, segments in saved["gap_segments"]),
            detectors={name: SavedDetector.from_json(detector) for name, detector in saved["detectors"].items()},
            slices=SavedDetector.from_json(saved["slices"]),
            num_slice_evaluations=saved["num_slice_evaluations"],
        )


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """A source at an evaluation: its share in millionths, nats per token on it (None where it was not measured), how
    many different samples it has, and which of its segments are drawn from. The defaults are those before it joins.
    """

    share: int = 0
    loss: float | None = None
    num_samples: int = 0
    segments: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The record that was saved."""
        return cls(**{**saved, "segments": tuple(saved["segments"])})


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Held-out loss in nats per token at an evaluation, and each source."""

    nats_per_token: float
    sources: Mapping[str, SourceRecord]

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The record that was saved."""
        sources = {name: SourceRecord.from_json(source) for name, source in saved["sources"].items()}
        return cls(nats_per_token=saved["nats_per_token"], sources=sources)


@dataclass(frozen=True, kw_only=True)
class AttributionState:
    """What attribution needs when an alarm comes, oldest first: measured source values
    (``trainer.control.source_scores``), gradient alignments with their standard errors, and the evaluations.
    """

    source_values: tuple[MeasuredValues, ...] = ()
    alignments: tuple[Mapping[str, tuple[float, float]], ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The state that was saved."""
        return cls(
            source_values=tuple(map(MeasuredValues.from_json, saved["source_values"])),
            alignments=tuple(
                {name: (value, error) for name, (value, error) in row.items()} for row in saved["alignments"]
            ),
            evaluations=tuple(map(EvaluationRecord.from_json, saved["evaluations"])),
        )


@dataclass(frozen=True, kw_only=True)
class GuardState:
    """All that the guard remembers; the defaults are those before the first evaluation."""

    monitor: MonitorState = MonitorState()
    attribution: AttributionState = AttributionState()
    alarm_count: int = 0  # alarms that are not yet forgotten
    evaluations_since_alarm: int = 0
    freeze_left: int = 0  # evaluations for which synthetic shares stay frozen
    num_rollbacks: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        saved: dict[str, Any] = jsonable(asdict(self))
        return saved

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The state that was saved."""
        return cls(
            monitor=MonitorState.from_json(saved["monitor"]),
            attribution=AttributionState.from_json(saved["attribution"]),
            **{
                name: saved[name] for name in ("alarm_count", "evaluations_since_alarm", "freeze_left", "num_rollbacks")
            },
        )
