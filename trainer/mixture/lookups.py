"""Questions about a plan: what can be drawn at a step, how often it was, and which step drew a sample."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from trainer.mixture.advance import State, padded, rebased, state_of
from trainer.mixture.ledger import Snapshot
from trainer.mixture.permutation import place_of, round_keys
from trainer.mixture.plan import Plan


@dataclass(frozen=True, kw_only=True)
class DeficitChange:
    """A deficit that a change of shares forced to another value, in millionths of a sample."""

    step: int
    source: str
    before: int
    after: int


def live_segments(plan: Plan, step: int) -> dict[str, tuple[int, ...]]:
    """The segments of each source that batch ``step`` can draw from, by their numbers."""
    terms = plan.terms(step)
    numbers = terms.roster.numbers
    return {
        source: tuple(numbers[list(live)].tolist())
        for source, live in zip(terms.roster.sources, terms.live, strict=True)
    }


def live_sizes(plan: Plan, step: int) -> dict[str, int]:
    """Samples in each source's live segments at batch ``step``."""
    terms = plan.terms(step)
    sizes = terms.roster.sizes
    return {source: int(sizes[list(live)].sum()) for source, live in zip(terms.roster.sources, terms.live, strict=True)}


def epochs(plan: Plan, state: State) -> dict[str, float]:
    """Epochs drawn so far of what the next batch can draw from: samples drawn from each source's live segments over
    samples in them. A segment that joins has none behind it, and one that is retired counts no more.
    """
    terms = plan.terms(state.step)
    sizes, cursors = terms.roster.sizes, padded(state, terms.roster).cursors
    return {
        source: int(cursors[rows].sum()) / int(sizes[rows].sum()) if rows else 0.0
        for source, rows in zip(terms.roster.sources, map(list, terms.live), strict=True)
    }


def segment_epochs(plan: Plan, state: State) -> dict[tuple[str, int], float]:
    """Epochs drawn so far of each (source, segment) that has joined, the retired ones included."""
    roster = plan.timeline.roster
    return {
        (segment.source, segment.segment): cursor / segment.num_samples
        for segment, cursor in zip(roster.segments, padded(state, roster).cursors.tolist(), strict=True)
    }


def deficit_changes(plan: Plan, state: State) -> list[DeficitChange]:
    """Deficits that drawing the next batch will force to another value, because shares change there."""
    terms = plan.terms(state.step)
    before, after = padded(state, terms.roster), rebased(state, terms)
    return [
        DeficitChange(step=state.step, source=source, before=old, after=new)
        for source, old, new in zip(
            terms.roster.sources, before.deficits.tolist(), after.deficits.tolist(), strict=True
        )
        if old != new
    ]


def segment_index(plan: Plan, source: str, segment: int) -> int:
    """Where a segment stands in ``plan.segments`` and in a state's ``cursors``; ``KeyError`` where it never joined."""
    for index, joined in enumerate(plan.segments):
        if (joined.source, joined.segment) == (source, segment):
            return index
    raise KeyError((source, segment))


def place_in_epoch(plan: Plan, index: int, epoch: int, sample: int) -> int:
    """Place of a sample in an epoch of its segment: the inverse of the order."""
    segment = plan.segments[index]
    keys = round_keys(plan.seed, segment.source, segment.segment, epoch)[:, None]
    return int(place_of(np.array([sample]), np.array([segment.num_samples]), keys)[0])


def step_that_draws(plan: Plan, index: int, place: int) -> int:
    """The step whose batch takes a segment's cursor past ``place`` (counted through all epochs)."""
    segment, snapshots = plan.segments[index], plan.timeline.snapshots

    def cursor_at(snapshot: Snapshot) -> int:
        return snapshot.segments.get(segment.source, {}).get(str(segment.segment), (0, 0))[0]

    last = bisect_right(snapshots, place, key=cursor_at) - 1
    state = state_of(snapshots[last], plan.timeline.roster) if last >= 0 else plan.start()
    while True:
        after, _ = plan.counted(state)
        if after.cursors[index] > place:
            return state.step
        state = after
