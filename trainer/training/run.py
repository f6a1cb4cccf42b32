"""A run as the loop sees it: the four values of a ``Run``, its state, and how it ended."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.base.records import Decision, Evaluation, IntArray, SourceLoss, SourceValue
from trainer.control.config import ControlConfig
from trainer.control.state import ControlState
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.evidence.measurement import Measurement
from trainer.evaluate.ports import Devices
from trainer.mixture.advance import State
from trainer.mixture.ledger import Fact
from trainer.mixture.plan import Plan
from trainer.tracking.journal import JournalWriter
from trainer.training.config import CheckpointConfig
from trainer.training.rate_jump import RateChange
from trainer.training.saver import Saver

if TYPE_CHECKING:
    from trainer.data.loader import StepBatch


CONTROL_FORM = 4  # of the state of policy and guard; a state of another form cannot be resumed


T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]


def _validated(cls: type[T], saved: Any, *place: str) -> T:
    """What stands in JSON for a value of the class; ``UserError`` where it is not one, with the field below ``place``
    that is wrong.
    """
    try:
        return TypeAdapter(cls).validate_json(json.dumps(saved), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in (*place, *first["loc"]))
        raise UserError(f"{field_name}: {first['msg']}", got=first["input"]) from None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a resume needs besides weights, optimizer and ledger; saved with each checkpoint."""

    step: Count = 0
    position: Count = 0  # of the learning-rate schedule: goes back with a rollback, the step does not
    tokens: Count = 0  # target tokens trained on
    control: Mapping[str, Any] = field(default_factory=dict)
    control_form: int = CONTROL_FORM
    documents: Sequence[Count] | None = None  # of the validation part that are evaluated, fixed when the run started
    last_healthy_step: Count = 0  # the newest step that the guard takes for healthy: the target of a rollback
    replay: str | None = None  # folder of the run whose decisions are replayed
    anchor: Sequence[float] | None = None  # loss by document, by which the documents of the tail are chosen
    skipped_in_a_row: Count = 0
    recent_losses: Sequence[float] = ()  # of the last steps that updated, to which a spike is compared
    losses: Mapping[str, SourceLoss] = field(default_factory=dict)  # since the evaluation before, of steps that updated
    rate_change: RateChange | None = None  # of a resume under another schedule
    skewed: Sequence[str] = ()  # slices that were warned of, because they are drawn too often or too rarely

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The state that ``to_json`` gave; ``UserError`` where a field is missing or holds something else."""
        names = cls().to_json().keys()
        if missing := [name for name in names if name not in saved]:
            raise UserError(f"{missing[0]} is missing")
        if saved["control_form"] != CONTROL_FORM:
            raise UserError(f"control_form must be {CONTROL_FORM}", got=saved["control_form"])
        state = _validated(cls, {name: saved[name] for name in names})
        if not state.position <= state.step >= state.last_healthy_step:
            raise UserError("position and last_healthy_step cannot lie after step", got=state.step)
        return state


@dataclass(frozen=True, kw_only=True)
class SavedOffsets:
    """How far journal and ledger had come when a checkpoint was saved, in bytes, and the SHA-256 of that much of the
    ledger; saved with the state.
    """

    journal: Count = 0
    ledger: Count = 0
    ledger_digest: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Any) -> Self:
        """What ``to_json`` gave; ``UserError`` where it is something else."""
        return _validated(cls, saved, "files")


class HeldOutEvaluator(Protocol):
    """Evaluates the model on held-out samples, on the devices it was made for."""

    @property
    def documents(self) -> IntArray:
        """Numbers of the documents that are evaluated, ascending."""
        ...

    def evaluate(self, port: Any, *, step: int, live: Mapping[str, Sequence[int]]) -> Evaluation:
        """(all) One evaluation, with the loss of the sources in ``live``, given by the numbers of their live segments;
        every rank gets the same one.
        """
        ...


class BatchStream(Protocol):
    """Where this rank's batches come from."""

    @property
    def state(self) -> State:
        """Before the batch that comes next."""
        ...

    def next(self) -> "StepBatch":
        """The next step's batch."""
        ...

    def append(self, facts: Iterable[Fact]) -> None:
        """Take facts into the ledger; what was prefetched without them is discarded."""
        ...

    def close(self) -> None:
        """Stop fetching."""
        ...


class Rounds(Protocol):
    """Rounds of synthesis inside a run."""

    def is_due(self, step: int) -> bool:
        """Whether something is known to be due after ``step``; the same on every rank."""
        ...

    def after_step(self, run: "Run", state: RunState, *, last: bool) -> None:
        """(all) Let join what is ready, and begin what is due unless this is the ``last`` step; called where something
        is due, and at every evaluation.
        """
        ...

    def reviewed(
        self, run: "Run", state: RunState, before: ControlState, after: ControlState, decision: Decision
    ) -> tuple[ControlState, Decision, Sequence[Fact]]:
        """(main) State and decision of policy and guard, with what is done instead where the source is cut that the run
        makes, and the segments that retire.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What is configured of a run, the same on every rank."""

    seed: int
    num_steps: int  # of the schedule
    evaluation: EvaluationConfig
    control: ControlConfig
    checkpoint: CheckpointConfig
    rates: Sequence[float] = ()  # learning rates of the whole run, as in ``Horizon``; empty where not known
    max_epochs: Mapping[str, float] = field(default_factory=dict)  # of sources that are capped
    replays: bool = False  # the facts of another run stand in for decisions


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Where batches come from, and what is evaluated and measured."""

    plan: Plan
    stream: BatchStream
    evaluator: HeldOutEvaluator
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # of the sources, by kind
    scheduled_facts: Mapping[int, Sequence[Fact]] = field(default_factory=dict)  # by step: joins, replayed facts
    prior_values: Mapping[tuple[str, int], SourceValue] = field(default_factory=dict)  # of segments, before the run
    slice_tokens: Mapping[tuple[str, int], Mapping[str, int]] = field(default_factory=dict)  # by slice of each segment
    rounds: Rounds | None = None


@dataclass(frozen=True, kw_only=True)
class RunIO:
    """Where a run writes to, and how a stop is requested."""

    folder: Path
    journal: JournalWriter
    sync_ledger: Callable[[], tuple[int, str]]  # what of the ledger is on the disk: length in bytes, and SHA-256
    stop_requested: Callable[[], bool]
    warn: Callable[[str], None]
    saver: Saver = field(default_factory=Saver)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as the loop needs it; ``trainer.runs.build`` makes it, for a recipe or for a user's own module."""

    settings: RunSettings
    devices: Devices
    data: RunData
    io: RunIO


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    state: Literal["finished", "stopped-by-guard", "interrupted", "failed"]
    step: int
    reason: str
