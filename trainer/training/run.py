"""The parts of a run, as the loop needs them, whoever builds them: verbs that an engine must know, and the values that
are handed round.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar

from trainer.base.records import (
    Alignment,
    Evaluation,
    Forgetting,
    IntArray,
    SourceLoss,
    SourceValue,
)
from trainer.control.config import ControlConfig
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.ports import Devices
from trainer.evaluate.schedule import Times
from trainer.mixture.advance import State
from trainer.mixture.ledger import Fact, Ledger
from trainer.mixture.plan import Plan
from trainer.tracking.journal import JournalWriter
from trainer.training.config import CheckpointConfig
from trainer.training.saver import Saver

if TYPE_CHECKING:
    from trainer.data.loader import StepBatch


CONTROL_FORM = 4  # of the state of policy and guard; one of another form cannot be gone on with


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run needs to go on, beside weights, optimizer and ledger. JSON-able through ``to_json``."""

    step: int = 0
    position: int = 0  # of the learning-rate schedule: goes back with a rollback, the step does not
    tokens: int = 0  # target tokens trained on
    control: Mapping[str, Any] = field(default_factory=dict)
    control_form: int = CONTROL_FORM
    documents: Sequence[int] | None = None  # of the held-out part that are read, fixed when the run began
    last_healthy_step: int = 0  # the newest step that the guard still holds for sound: a rollback goes there
    replay: str | None = None  # folder of the run whose decisions are replayed
    anchor: Sequence[float] | None = None  # nats by document of the reading under which the worst decile is chosen
    skipped_in_a_row: int = 0
    recent_losses: Sequence[float] = ()  # of the last steps that updated, against which a spike is seen
    losses: Mapping[str, SourceLoss] = field(default_factory=dict)  # since the reading before, of steps that updated
    skewed: Sequence[str] = ()  # slices that were warned of, because they are drawn too often or too seldom

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The state whose fields are among what was saved."""
        fields = {key: saved[key] for key in cls().to_json()}
        if fields["control_form"] != CONTROL_FORM:
            raise KeyError(f"control_form {CONTROL_FORM}")
        losses = {name: SourceLoss(**loss) for name, loss in fields.pop("losses").items()}
        return cls(**fields, losses=losses)


class HeldOutEvaluator(Protocol):
    """What is read of the held-out samples, on the devices it was made for."""

    @property
    def documents(self) -> IntArray:
        """Numbers of the documents that are read, ascending."""
        ...

    def read(self, port: Any, *, step: int, live: Mapping[str, Sequence[int]]) -> Evaluation:
        """(all) One reading, of the sources in ``live`` too, by the numbers of their live segments; every rank gets
        the same one.
        """
        ...


Found = TypeVar("Found", covariant=True)


class Measure(Protocol[Found]):
    """How evidence about the sources is measured, on the devices it was made for."""

    def __call__(
        self, port: Any, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, Found]:
        """(all) What is found of ``sources``, given with the numbers of their live segments, after ``step``, those left
        out of which nothing can be told; weights and optimizer are as before.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class MeasurePlan(Generic[Found]):
    """How and when evidence about the sources is measured."""

    measure: Measure[Found]
    times: Times


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
        """Take facts into the ledger; what was fetched ahead without them is thrown away."""
        ...

    def close(self) -> None:
        """Stop fetching."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run, built by ``trainer.commands.fit``, or by ``trainer.lightning`` for a user's own module."""

    seed: int
    num_steps: int  # of the schedule
    rates: Sequence[float]  # learning rates ahead, as in ``Horizon``; empty where nobody knows them
    max_epochs: Mapping[str, float]  # of sources that are capped
    evaluation: EvaluationConfig
    control: ControlConfig
    checkpoint: CheckpointConfig
    folder: Path
    engine: Devices
    stream: BatchStream
    plan: Plan
    ledger: Ledger
    journal: JournalWriter
    reader: HeldOutEvaluator
    slice_tokens: Mapping[tuple[str, int], Mapping[str, int]]  # by slice of each segment; empty where nobody knows
    source_value: MeasurePlan[SourceValue] | None  # None: nobody asks for it
    alignment: MeasurePlan[Alignment] | None  # likewise
    forgetting: MeasurePlan[Forgetting] | None  # likewise
    ahead: Mapping[int, Sequence[Fact]]  # known before their steps: segments that join, and another run's facts
    replays: bool  # another run's facts stand in for decisions
    stop_requested: Callable[[], bool]
    ledger_offset: Callable[[], int]  # synced length of the ledger file in bytes
    warn: Callable[[str], None]
    saver: Saver = field(default_factory=Saver)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    state: Literal["finished", "stopped-by-guard", "interrupted", "failed"]
    step: int
    reason: str
