"""Resuming a run: its newest complete checkpoint, its ledger cut back to it, and what changed since it was saved."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from trainer.base.errors import UserError
from trainer.control.config import ControlConfig
from trainer.control.controller import check_saved_state, initial_state
from trainer.data.config import DataConfig
from trainer.evaluate.ports import Devices
from trainer.mixture.config import MixtureConfig
from trainer.mixture.ledger import (
    BatchSize,
    Fact,
    Ledger,
    Retire,
    Segment,
    Shares,
    Source,
    Topology,
    facts_of,
    made_sources,
    to_record,
)
from trainer.mixture.partition import accumulation
from trainer.runs.takedown import without_replacements
from trainer.tracking.journal import AppendOnlyFile, cut, prefix_digest, read_numbered
from trainer.tracking.schema import CheckpointLine, read_journal
from trainer.training import checkpoint
from trainer.training.run import RunState, SavedOffsets

if TYPE_CHECKING:
    from trainer.data.store import PreparedData


T = TypeVar("T")
SNAPSHOTS_KEPT = 16  # further back than a rollback goes
_SNAPSHOT_LINE = b'{"fact":"snapshot"'


class RecordedLedger(Ledger):
    """A ledger whose facts also go to a file (on the main rank), line by line, as they are taken."""

    def __init__(self, facts: Sequence[Fact], file: AppendOnlyFile | None) -> None:
        self._file: AppendOnlyFile | None = None
        super().__init__(facts)
        self._file = file
        self._sha256, self._num_hashed = hashlib.sha256(), 0

    @override
    def append(self, fact: Fact) -> None:
        super().append(fact)
        if self._file is not None:
            self._file.append(to_record(fact))

    def sync(self) -> tuple[int, str]:
        """Wait until all facts are on the disk; the offset they reach, and the SHA-256 of the file up to there."""
        if self._file is None:
            return 0, ""
        offset = self._file.sync()
        with self._file.path.open("rb") as file:  # what was hashed before is not read again
            file.seek(self._num_hashed)
            self._sha256.update(file.read(offset - self._num_hashed))
        self._num_hashed = offset
        return offset, self._sha256.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a run starts from: its ledger as of its checkpoint, or of the beginning, and its state."""

    ledger: RecordedLedger
    state: RunState


def resume(
    folder: Path,
    devices: Devices,
    saved: checkpoint.Checkpoint | None,
    *,
    control: ControlConfig,
    mixture: MixtureConfig,
    micro_batch: int,
    segments: Mapping[int, Sequence[Source | Segment | Retire]],
    replay: Mapping[int, Sequence[Fact]] | None = None,
) -> Resumed:
    """(all) Open the ledger as of the checkpoint (or of the beginning), and the state that goes with it."""
    ledger = open_ledger(
        folder, devices, saved, segments=segments, mixture=mixture, micro_batch=micro_batch, replay=replay
    )
    return Resumed(ledger=ledger, state=starting_state(control, mixture, ledger, saved))


def starting_facts(global_batch: int, shares: Mapping[str, int]) -> list[Fact]:
    """Size of the global batch and shares, from the first step on."""
    return [
        BatchSize(step=1, global_batch=global_batch),
        Shares(step=1, shares=dict(shares), reason="the recipe's starting shares"),
    ]


def _starting_shares(mixture: MixtureConfig, facts: Iterable[Fact]) -> dict[str, int]:
    """The recipe's, and 0 of the sources that the run makes."""
    return mixture.shares_in_millionths() | dict.fromkeys(made_sources(facts), 0)


def open_ledger(
    folder: Path,
    engine: Devices,
    saved: checkpoint.Checkpoint | None,
    *,
    segments: Mapping[int, Sequence[Source | Segment | Retire]],
    mixture: MixtureConfig,
    micro_batch: int,
    replay: Mapping[int, Sequence[Fact]] | None = None,
) -> RecordedLedger:
    """The ledger as of the checkpoint (or of the beginning), on all ranks; the main rank truncates its files first.
    ``segments`` are those of ``segment_facts``: the run begins with those of step 1.

    The mixture's global batch counts from here on, except where another run's facts, its batch sizes among them, are
    being replayed.
    """
    path = folder / "ledger.jsonl"
    facts = _as_the_main_rank(engine, lambda: _recorded_facts(folder, saved))
    ledger = RecordedLedger(facts, AppendOnlyFile(path) if engine.is_main else None)
    step = saved.step + 1 if saved else 1
    if not facts:
        for fact in [
            *segments[1],
            *(replay[1] if replay else starting_facts(mixture.global_batch, _starting_shares(mixture, segments[1]))),
        ]:
            ledger.append(fact)
    else:
        known = Ledger(without_replacements(folder, ledger.facts))
        check_same_data(known, segments)
        _check_joined(known, segments, step)
    size = [fact.global_batch for fact in ledger.facts if isinstance(fact, BatchSize)][-1]
    if size != mixture.global_batch and not replay:
        ledger.append(BatchSize(step=step, global_batch=mixture.global_batch))
    topology = Topology(
        step=step,
        world_size=engine.world_size,
        micro_batch=micro_batch,
        accumulation=accumulation(mixture.global_batch, engine.world_size, micro_batch),
    )
    topologies = [fact for fact in ledger.facts if isinstance(fact, Topology)]
    if not topologies or (topologies[-1].world_size, topologies[-1].micro_batch, topologies[-1].accumulation) != (
        topology.world_size,
        topology.micro_batch,
        topology.accumulation,
    ):
        ledger.append(topology)
    return ledger


def _recorded_facts(folder: Path, saved: checkpoint.Checkpoint | None) -> list[Fact]:
    """The ledger as of the checkpoint, after ledger and journal were cut back to it. ``UserError`` where the ledger was
    changed since.
    """
    path, journal = folder / "ledger.jsonl", folder / "journal.jsonl"
    offsets = saved_offsets(saved)
    if saved is not None and _size(path) >= offsets.ledger:  # a shorter one ``cut`` refuses
        digest = prefix_digest(path, offsets.ledger)
        if digest != offsets.ledger_digest:
            raise UserError(
                f"the ledger was changed after {saved.folder.name} was saved",
                got=f"SHA-256 {digest[:12]} of its first {offsets.ledger} bytes, not {offsets.ledger_digest[:12]}",
                file=path,
                remedy="Bring it back from a backup, or start a new run in another --run folder",
            )
    for file, offset in ((path, offsets.ledger), (journal, offsets.journal)):
        cut(file, offset)
    return _recent(path) if path.exists() else []


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _recent(path: Path) -> list[Fact]:
    """The ledger's facts without all but the newest snapshots.

    A snapshot only saves counting, and a run resumes from the newest: with all of them a resume after a million steps
    takes many times as long as one after ten.
    """
    with path.open("rb") as file:
        snapshots = [number for number, line in enumerate(file, start=1) if line.startswith(_SNAPSHOT_LINE)]
    return facts_of(read_numbered(path, skip=frozenset(snapshots[:-SNAPSHOTS_KEPT])), path)


def segment_facts(
    data: "PreparedData", config: DataConfig, *, made: str | None = None
) -> dict[int, list[Source | Segment | Retire]]:
    """The prepared segments as facts, by the step they govern from: the first of each source from step 1 on, the others
    from when they join; and the source ``made`` by the run itself, which begins without any.
    """
    by_step: dict[int, list[Source | Segment | Retire]] = {}
    for source in data.sources.values():
        joins, live = config.sources[source.name].joins, list[int]()
        for number, segment in enumerate(source.segments):
            step = joins[number - 1].from_step if number else 1
            facts = by_step.setdefault(step, [])
            facts.append(
                Segment(
                    step=step,
                    source=source.name,
                    kind=source.kind,
                    segment=number,
                    num_samples=segment.num_samples,
                    fingerprint=segment.fingerprint,
                )
            )
            if number and joins[number - 1].retires:
                facts += [Retire(step=step, source=source.name, segment=segment_number) for segment_number in live]
                live.clear()
            live.append(number)
    if made is not None:
        by_step.setdefault(1, []).append(Source(step=1, source=made, kind="synthetic"))
    return by_step


def scheduled_facts(
    segments: Mapping[int, Sequence[Fact]], replay: Mapping[int, Sequence[Fact]] | None
) -> dict[int, list[Fact]]:
    """Facts known before their step, by the step they govern from: segments that join and retire, and replayed facts.
    The ledger begins with what governs from step 1 on.
    """
    steps = sorted({*segments, *(replay or {})} - {1})
    return {step: [*segments.get(step, ()), *(replay or {}).get(step, ())] for step in steps}


def _check_joined(ledger: Ledger, segments: Mapping[int, Sequence[Source | Segment | Retire]], step: int) -> None:
    """What has joined and retired before batch ``step`` is what the recipe says: the past cannot change."""
    made = made_sources(ledger.facts)
    recorded = {_event(fact) for fact in ledger.facts if isinstance(fact, Segment | Retire) and fact.source not in made}
    every = [fact for from_step, facts in segments.items() if from_step <= step for fact in facts]
    stated = {_event(fact) for fact in every if isinstance(fact, Segment | Retire)}
    if recorded == stated:
        return
    event = min(recorded ^ stated)
    from_step, action, source, number = event
    raise UserError(
        f"what has joined and retired up to step {step} cannot change",
        got=f"segment {number} of source {source} to {action} from step {from_step} on, "
        f"only in {'what this run has done' if event in recorded else 'the recipe'}",
        remedy=f"Leave those joins as they were; others can join from step {step + 1} on",
    )


def _event(fact: Segment | Retire) -> tuple[int, str, str, int]:
    return fact.step, "join" if isinstance(fact, Segment) else "retire", fact.source, fact.segment


def check_same_data(ledger: Ledger, segments: Mapping[int, Sequence[Source | Segment | Retire]]) -> None:
    """The prepared segments must be those the run has drawn from: other bytes under the same name would be another
    run. Those that a run makes itself are in its own folder.
    """
    made = made_sources(ledger.facts)
    every = [fact for facts in segments.values() for fact in facts]
    prepared = {(fact.source, fact.segment): fact for fact in every if isinstance(fact, Segment)}
    for fact in ledger.facts:
        if isinstance(fact, Segment) and fact.source not in made:
            now = prepared.get((fact.source, fact.segment))
            if now is None or (now.fingerprint, now.num_samples) != (fact.fingerprint, fact.num_samples):
                raise UserError(
                    f"the data of source {fact.source} is not what this run began with",
                    got=f"{now.num_samples} samples, fingerprint {now.fingerprint[:12]}" if now else "no such segment",
                    remedy=f"Bring back the {fact.num_samples} samples with fingerprint {fact.fingerprint[:12]}, "
                    "or start a new --run folder",
                )


def newest_checkpoint(
    folder: Path, engine: Devices, warn: Callable[[str], None], *, keep: int
) -> checkpoint.Checkpoint | None:
    """The newest complete checkpoint, looked up once by the main rank: all ranks must resume from the same one."""
    return _as_the_main_rank(engine, lambda: _newest_checkpoint(folder, warn, keep))


def _newest_checkpoint(folder: Path, warn: Callable[[str], None], keep: int) -> checkpoint.Checkpoint | None:
    root = folder / "checkpoints"
    checkpoint.clean(root)
    newest = checkpoint.latest(root, warn=warn)
    if newest is None and _had_checkpoint(folder):
        raise UserError(
            f"the journal of {folder} names checkpoints, but there is none",
            remedy="Bring the checkpoints folder back, or start a new run in another --run folder",
        )
    if newest is not None:
        checkpoint.set_aside_newer(root, newest.step)
        checkpoint.settle(root, newest, keep=keep)
    return newest


def _as_the_main_rank(engine: Devices, work: Callable[[], T]) -> T:
    """(all) What comes of the work, which the main rank does; a ``UserError`` is raised on all ranks."""
    result: T | UserError | None = None
    if engine.is_main:
        try:
            result = work()
        except UserError as error:
            result = error
    result = engine.broadcast(result)
    if isinstance(result, UserError):
        raise result
    return result


def _had_checkpoint(folder: Path) -> bool:
    path = folder / "journal.jsonl"
    return path.is_file() and any(isinstance(line, CheckpointLine) for line in read_journal(path))


def starting_state(
    control: ControlConfig, mixture: MixtureConfig, ledger: Ledger, saved: checkpoint.Checkpoint | None
) -> RunState:
    """The state of the checkpoint, or that before the first step."""
    if saved is None:
        kinds = {fact.source: fact.kind for fact in ledger.facts if isinstance(fact, Source | Segment)}
        shares = _starting_shares(mixture, ledger.facts)
        return RunState(control=initial_state(control, shares, kinds).to_json())
    state = saved_state(saved)
    try:
        check_saved_state(control, state.control)
    except UserError as error:
        raise _foreign_state(saved, error) from None
    return state


def saved_state(saved: checkpoint.Checkpoint) -> RunState:
    """The state of a checkpoint. ``UserError`` where it is not one."""
    try:
        return RunState.from_json(saved.state)
    except UserError as error:
        raise _foreign_state(saved, error) from None


def saved_offsets(saved: checkpoint.Checkpoint | None) -> SavedOffsets:
    """Those of a checkpoint; of none, the beginning. ``UserError`` where they are not in it."""
    if saved is None:
        return SavedOffsets()
    try:
        return SavedOffsets.from_json(saved.state.get("files"))
    except UserError as error:
        raise _foreign_state(saved, error) from None


def _foreign_state(saved: checkpoint.Checkpoint, error: UserError) -> UserError:
    return UserError(
        f"the checkpoint was saved by another version of this program, or was changed since: {error.what}",
        got=error.got,
        remedy="Resume with that version, or start a new run in another --run folder",
        file=saved.folder / checkpoint.STATE,
    )
