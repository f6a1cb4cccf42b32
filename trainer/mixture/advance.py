"""From state to state: how many samples of each segment a batch draws, in integers, without side effects.

A state is all that a later batch depends on besides the terms in force: how much has been drawn, and by how much each
source is behind its integral.
"""

# K sources, S segments that ever joined

from dataclasses import dataclass, replace

import numpy as np

from trainer.base.records import SHARE_ONE, IntArray
from trainer.mixture.apportion import apportion, settle_deficits
from trainer.mixture.ledger import Snapshot
from trainer.mixture.timeline import Roster, Terms


@dataclass(frozen=True, kw_only=True)
class State:
    """All that has to be known before batch ``step``: slots drawn, deficits (integral minus drawn, in millionths of a
    sample) and cursors.

    ``deficits`` [K] by source, ``cursors`` [S] samples drawn from each segment, ``segment_deficits`` [S] in samples
    times the source's size.
    """

    step: int
    slot: int
    synthetic_deficit: int
    deficits: IntArray
    cursors: IntArray
    segment_deficits: IntArray


class MissingSamplesError(ValueError):
    """A source has a share but no live segment to draw from."""


def initial_state(roster: Roster) -> State:
    """The state before the first batch."""
    zeros = np.zeros(len(roster.segments), dtype=np.int64)
    deficits = np.zeros(len(roster.sources), dtype=np.int64)
    return State(step=1, slot=0, synthetic_deficit=0, deficits=deficits, cursors=zeros, segment_deficits=zeros)


def advance(state: State, terms: Terms) -> tuple[State, IntArray]:
    """Count the batch of ``state.step`` under ``terms``: the state after it, and the samples drawn from each segment,
    int64 [S]. Raises ``MissingSamplesError``.
    """
    state = rebased(state, terms)
    synthetic_due = state.synthetic_deficit + terms.synthetic_weight
    num_synthetic = (2 * synthetic_due + SHARE_ONE) // (2 * SHARE_ONE)
    due = state.deficits + terms.weights
    counts = np.zeros(len(due), dtype=np.int64)
    for members, count in zip(terms.roster.members, (terms.global_batch - num_synthetic, num_synthetic), strict=True):
        if count:
            counts[members] = apportion(due[members], terms.weights[members], count, SHARE_ONE)
    drawn, segment_deficits = _over_segments(counts, state.segment_deficits, terms)
    after = State(
        step=state.step + 1,
        slot=state.slot + terms.global_batch,
        synthetic_deficit=synthetic_due - num_synthetic * SHARE_ONE,
        deficits=np.where(terms.weights > 0, due - counts * SHARE_ONE, 0),
        cursors=state.cursors + drawn,
        segment_deficits=segment_deficits,
    )
    return after, drawn


def _over_segments(counts: IntArray, segment_deficits: IntArray, terms: Terms) -> tuple[IntArray, IntArray]:
    """``counts`` [K] split over the live segments of each source in proportion to their sizes: samples drawn [S], and
    the segments' deficits after that.
    """
    drawn = np.zeros(len(segment_deficits), dtype=np.int64)
    segment_deficits = segment_deficits.copy()
    for k in np.flatnonzero(counts).tolist():
        live = terms.live[k]
        if len(live) == 1:
            drawn[live[0]] = counts[k]
            continue
        if not live:
            name, share = terms.roster.sources[k], terms.shares[k] / SHARE_ONE
            raise MissingSamplesError(f"source {name} has a share of {share:g} but no live segment")
        rows = list(live)
        sizes = terms.roster.sizes[rows]
        grown = sizes * counts[k]
        drawn[rows] = apportion(segment_deficits[rows] + grown, grown, int(counts[k]), int(sizes.sum()))
        segment_deficits[rows] += grown - drawn[rows] * sizes.sum()
    return drawn, segment_deficits


def padded(state: State, roster: Roster) -> State:
    """The state with room for sources and segments that joined since it was taken."""
    more_segments = len(roster.segments) - len(state.cursors)
    more_sources = len(roster.sources) - len(state.deficits)
    if not more_segments and not more_sources:
        return state
    return replace(
        state,
        deficits=np.pad(state.deficits, (0, more_sources)),
        cursors=np.pad(state.cursors, (0, more_segments)),
        segment_deficits=np.pad(state.segment_deficits, (0, more_segments)),
    )


def rebased(state: State, terms: Terms) -> State:
    """The state as the terms that start at its step need it: deficits settled where shares change, segment deficits
    reset where segments do (their unit is the source's size).
    """
    state = padded(state, terms.roster)
    if terms.step != state.step:
        return state
    deficits, segment_deficits = state.deficits, state.segment_deficits
    if terms.shares_change:
        deficits = np.zeros_like(deficits)
        real, synthetic = terms.roster.members
        for members, total in ((synthetic, state.synthetic_deficit), (real, -state.synthetic_deficit)):
            active = members[terms.shares[members] > 0]
            if active.size:
                deficits[active] = settle_deficits(
                    state.deficits[active], terms.shares[active], total, global_batch=terms.global_batch
                )
    if terms.segments_change:
        segment_deficits = np.zeros_like(segment_deficits)
    return replace(state, deficits=deficits, segment_deficits=segment_deficits)


def snapshot_of(state: State, roster: Roster) -> Snapshot:
    """The state as a ledger fact."""
    segments: dict[str, dict[str, tuple[int, int]]] = {source: {} for source in roster.sources}
    places = zip(roster.segments, state.cursors.tolist(), state.segment_deficits.tolist(), strict=False)
    for segment, cursor, deficit in places:
        segments[segment.source][str(segment.segment)] = (cursor, deficit)
    return Snapshot(
        step=state.step,
        slot=state.slot,
        synthetic_deficit=state.synthetic_deficit,
        deficits=dict(zip(roster.sources, state.deficits.tolist(), strict=False)),
        segments=segments,
    )


def state_of(snapshot: Snapshot, roster: Roster) -> State:
    """The state that a snapshot recorded, with room for what joined since."""
    places = [
        snapshot.segments.get(segment.source, {}).get(str(segment.segment), (0, 0)) for segment in roster.segments
    ]
    return State(
        step=snapshot.step,
        slot=snapshot.slot,
        synthetic_deficit=snapshot.synthetic_deficit,
        deficits=np.array([snapshot.deficits.get(source, 0) for source in roster.sources], dtype=np.int64),
        cursors=np.array([cursor for cursor, _ in places], dtype=np.int64),
        segment_deficits=np.array([deficit for _, deficit in places], dtype=np.int64),
    )
