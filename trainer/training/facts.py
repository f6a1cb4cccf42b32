"""Ledger facts as the run takes them, and what the journal says of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.mixture import lookups
from trainer.mixture.advance import State
from trainer.mixture.ledger import Fact, Retire, Segment
from trainer.tracking.schema import CapLine, DeficitLine, JoinLine, RetireLine
from trainer.training.run import Run

if TYPE_CHECKING:
    from trainer.data.loader import StepBatch


def note_caps(run: Run, batch: "StepBatch") -> None:
    """Journal the caps that acted inside the stream, and what they did to the deficits."""
    for source, epochs in batch.capped.items():
        shares = run.data.plan.shares(batch.step)
        run.io.journal.write(CapLine(step=batch.step - 1, source=source, epochs=epochs, shares=shares))
    if batch.capped:
        _note_deficits(run, run.data.plan.state(batch.step))


def _note_deficits(run: Run, state: State) -> None:
    for change in lookups.deficit_changes(run.data.plan, state):
        line = DeficitLine(
            step=state.step - 1,
            source=change.source,
            before_millionths=change.before,
            after_millionths=change.after,
        )
        run.io.journal.write(line)


def take(run: Run, facts: Sequence[Fact]) -> None:
    """Take facts that govern the next batch; journal which segments join or retire, and which deficits change."""
    run.data.stream.append(facts)
    note_segments(run, facts)
    _note_deficits(run, run.data.stream.state)


def note_segments(run: Run, facts: Sequence[Fact]) -> None:
    """Journal which segments join or retire by these facts."""
    for fact in facts:
        if isinstance(fact, Segment):
            step, size = fact.step - 1, fact.num_samples
            run.io.journal.write(JoinLine(step=step, source=fact.source, segment=fact.segment, num_samples=size))
        elif isinstance(fact, Retire):
            run.io.journal.write(RetireLine(step=fact.step - 1, source=fact.source, segment=fact.segment))
