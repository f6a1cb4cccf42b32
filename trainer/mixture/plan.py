"""Who is in a batch: counts for every source, spread over ranks and micro-batches, all in integers.

A batch is a function of (seed, ledger, step): the ledger says what is in force, a state says how much has been drawn
and what is owed, and nothing else is looked at. How many samples of each source a batch gets is decided in ``counts``,
which sample of a segment comes next in ``order``.
"""

# G samples of the global batch, K sources, S segments ever seen, R ranks, M micro-batches per rank

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.base.records import SHARE_ONE, IntArray, Kind
from trainer.mixture.apportion import apportion, settle_deficits
from trainer.mixture.ledger import GOVERNING, BatchSize, Ledger, Retire, Segment, Shares, Snapshot
from trainer.mixture.permutation import permute, place_of, round_keys
from trainer.mixture.shares import rounded

SNAPSHOT_EVERY_STEPS = 1_000


class MixtureConfig(Config):
    """Size of the global batch and what of it each source gets at the start."""

    global_batch: int = Field(gt=0, description="samples per optimizer step, over all ranks")
    shares: dict[str, float] = Field(min_length=1, description="starting share of each source; they sum to 1")
    max_epochs: dict[str, float] = Field(
        default_factory=dict, description="most epochs of a source; at the cap its share goes to its kind"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = sum(self.shares.values())
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"shares must sum to 1, they sum to {total:g}; divide each by {total:g}")
        for name, share in self.shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"shares.{name} must be in [0, 1], got {share}; did you mean {share / 100}?")
        rounded(self.shares)  # a ValueError of its own where there are too many sources for a thousandth each
        for name, epochs in self.max_epochs.items():
            if epochs <= 0:
                raise ValueError(
                    f"max_epochs.{name} must be above 0, got {epochs}; set the share to 0 to leave a source out"
                )
        return self

    def shares_in_millionths(self) -> dict[str, int]:
        """The starting shares in whole thousandths; a positive one keeps at least one."""
        return rounded(self.shares)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The global batch of a step, sorted by source: slot ``first_slot + i`` holds ``sample[i]`` of ``segment[i]`` of
    ``source[i]``. All [G].
    """

    step: int
    first_slot: int
    source: IntArray
    segment: IntArray
    epoch: IntArray
    sample: IntArray


@dataclass(frozen=True, kw_only=True)
class State:
    """All that is to be known before batch ``step``: slots drawn, lags (integral minus drawn, in millionths of a
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


@dataclass(frozen=True, kw_only=True)
class DeficitChange:
    """A lag that a change of shares forced to another value, in millionths of a sample."""

    step: int
    source: str
    before: int
    after: int


class MissingSamplesError(ValueError):
    """A source has a share but no live segment to draw from."""


@dataclass(frozen=True)
class _Terms:
    """What is in force from a step on, as arrays: shares [K] and what a batch adds to them, in millionths of a sample,
    by source [K] and for all synthetic ones together; per source the indices of its live segments.
    """

    step: int
    global_batch: int
    shares: IntArray
    weights: IntArray
    synthetic_weight: int
    live: tuple[tuple[int, ...], ...]

    def with_another_source(self) -> Self:
        """The same terms, once a source is known that joined later."""
        return replace(
            self, shares=np.append(self.shares, 0), weights=np.append(self.weights, 0), live=(*self.live, ())
        )


class Plan:
    """The batches of a run as a function of (seed, ledger, step). Reads the ledger anew when it has grown."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self.seed, self.ledger = seed, ledger
        self.sources: list[str] = []
        self.kinds: list[Kind] = []
        self.segments: list[Segment] = []
        self._index: dict[tuple[str, int], int] = {}
        self._source_of: list[int] = []  # by segment
        self._terms: list[_Terms] = []
        self._starts: list[int] = []
        self._snapshots: list[Snapshot] = []
        self._facts_read = 0
        self._evaluation = threading.Lock()  # the loop and the prefetching thread share one plan
        self._shares: dict[str, int] = {}
        self._global_batch = 0
        self._retired: set[int] = set()
        self._synthetic = np.zeros(0, dtype=bool)  # by source
        self._members: list[IntArray] = []  # the sources of each kind: real, synthetic

    # Evaluation the ledger

    def refresh(self) -> None:
        """Take in the facts appended since the last call."""
        facts = self.ledger.facts
        if self._facts_read == len(facts):
            return
        with self._evaluation:
            while self._facts_read < len(facts):
                fact = facts[self._facts_read]
                if isinstance(fact, Snapshot):
                    self._snapshots.append(fact)
                if isinstance(fact, GOVERNING):
                    self._apply(fact)
                    upcoming = facts[self._facts_read + 1 : self._facts_read + 2]
                    if not (upcoming and isinstance(upcoming[0], GOVERNING) and upcoming[0].step == fact.step):
                        self._freeze_terms(fact.step)
                self._facts_read += 1

    def _apply(self, fact: Shares | BatchSize | Segment | Retire) -> None:
        match fact:
            case Shares():
                unknown = sorted(set(fact.shares) - set(self.sources))
                if unknown:
                    raise ValueError(
                        f"shares name sources without a segment: {', '.join(unknown)}; known: {', '.join(self.sources)}"
                    )
                self._shares = dict(fact.shares)
            case BatchSize():
                self._global_batch = fact.global_batch
            case Segment():
                if fact.source not in self.sources:
                    self.sources.append(fact.source)
                    self.kinds.append(fact.kind)
                    self._synthetic = np.array([kind == "synthetic" for kind in self.kinds])
                    self._members = [np.flatnonzero(~self._synthetic), np.flatnonzero(self._synthetic)]
                    self._terms = [terms.with_another_source() for terms in self._terms]
                self._index[fact.source, fact.segment] = len(self.segments)
                self._source_of.append(self.sources.index(fact.source))
                self.segments.append(fact)
            case Retire():
                self._retired.add(self._index[fact.source, fact.segment])

    def _freeze_terms(self, step: int) -> None:
        live = tuple(
            tuple(i for i, segment in enumerate(self.segments) if segment.source == source and i not in self._retired)
            for source in self.sources
        )
        shares = np.array([self._shares.get(source, 0) for source in self.sources], dtype=np.int64)
        weights = shares * self._global_batch
        terms = _Terms(step, self._global_batch, shares, weights, int(weights[self._synthetic].sum()), live)
        if self._starts and self._starts[-1] == step:
            self._terms[-1] = terms
        else:
            self._terms.append(terms)
            self._starts.append(step)

    def terms(self, step: int) -> _Terms:
        """What governs batch ``step``."""
        self.refresh()
        return self._terms[bisect_right(self._starts, step) - 1]

    def global_batch(self, step: int) -> int:
        """Samples of the global batch of ``step``."""
        return self.terms(step).global_batch

    def shares(self, step: int) -> dict[str, int]:
        """Shares in force for batch ``step``, millionths by source."""
        return dict(zip(self.sources, self.terms(step).shares.tolist(), strict=True))

    # Moving through the batches

    def start(self) -> State:
        """The state before the first batch."""
        self.refresh()
        zeros = np.zeros(len(self.segments), dtype=np.int64)
        return State(
            step=1,
            slot=0,
            synthetic_deficit=0,
            deficits=np.zeros(len(self.sources), dtype=np.int64),
            cursors=zeros,
            segment_deficits=zeros,
        )

    def state(self, step: int) -> State:
        """The state before batch ``step``: the last snapshot, and at most SNAPSHOT_EVERY_STEPS batches counted (not
        materialized) from there.
        """
        self.refresh()
        snapshots = [snapshot for snapshot in self._snapshots[-64:] if snapshot.step <= step] or [
            snapshot for snapshot in self._snapshots if snapshot.step <= step
        ]
        state = self._from_snapshot(snapshots[-1]) if snapshots else self.start()
        while state.step < step:
            state = self._advance(state)[0]
        return state

    def batch(self, step: int) -> Batch:
        """The global batch of ``step``; any step, in any order."""
        return self.draw(self.state(step))[0]

    def draw(self, state: State) -> tuple[Batch, State]:
        """The batch that ``state`` stands before, and the state after it."""
        return self.draw_ahead(state, 1)[0]

    def draw_ahead(self, state: State, steps: int) -> list[tuple[Batch, State]]:
        """The next ``steps`` batches, each with the state after it, as ``draw`` gives them one by one; fewer, but one,
        where a later one lacks samples.

        Small batches cost mostly numpy calls, which are shared here.
        """
        states, drawns = [state], list[IntArray]()
        while len(drawns) < steps:
            try:
                state, drawn = self._advance(states[-1])
            except MissingSamplesError:
                if not drawns:
                    raise
                break
            states.append(state)
            drawns.append(drawn)
        return list(zip(self._materialize(states[:-1], drawns), states[1:], strict=True))

    def segment_index(self, source: str, segment: int) -> int:
        """Where a segment stands in ``segments`` and in a state's ``cursors``."""
        self.refresh()
        return self._index[source, segment]

    def place_of(self, index: int, epoch: int, sample: int) -> int:
        """Place of a sample in an epoch of its segment: the inverse of the order."""
        segment = self.segments[index]
        keys = round_keys(self.seed, segment.source, segment.segment, epoch)[:, None]
        return int(place_of(np.array([sample]), np.array([segment.num_samples]), keys)[0])

    def step_that_draws(self, index: int, place: int) -> int:
        """The step whose batch takes a segment's cursor past ``place`` (counted through all epochs)."""
        self.refresh()
        states = [self.start(), *map(self._from_snapshot, self._snapshots)]
        state = states[max(0, bisect_right([int(self._padded(s).cursors[index]) for s in states], place) - 1)]
        while True:
            after = self._advance(state)[0]
            if after.cursors[index] > place:
                return state.step
            state = after

    def live(self, step: int) -> dict[str, tuple[int, ...]]:
        """The segments of each source that batch ``step`` can draw from, by their numbers."""
        return {
            source: tuple(self.segments[i].segment for i in rows)
            for source, rows in zip(self.sources, self.terms(step).live, strict=True)
        }

    def sizes(self, step: int) -> dict[str, int]:
        """Samples in each source's live segments at batch ``step``."""
        return {
            source: sum(self.segments[i].num_samples for i in rows)
            for source, rows in zip(self.sources, self.terms(step).live, strict=True)
        }

    def epochs(self, state: State) -> dict[str, float]:
        """Epochs drawn so far of what the next batch can draw from: samples drawn from each source's live segments over
        samples in them. A segment that joins has none behind it, and one that is retired counts no more.
        """
        sizes, live, cursors = self.sizes(state.step), self.terms(state.step).live, self._padded(state).cursors
        return {
            source: sum(int(cursors[i]) for i in rows) / sizes[source] if rows else 0.0
            for source, rows in zip(self.sources, live, strict=True)
        }

    def segment_epochs(self, state: State) -> dict[tuple[str, int], float]:
        """Epochs drawn so far of each (source, segment) that has joined, the retired ones included."""
        return {
            (segment.source, segment.segment): int(cursor) / segment.num_samples
            for segment, cursor in zip(self.segments, self._padded(state).cursors, strict=True)
        }

    def deficit_changes(self, state: State) -> list[DeficitChange]:
        """Deficits that drawing the next batch will force to another value, because shares change there."""
        before, after = self._padded(state), self._rebased(state)
        return [
            DeficitChange(step=state.step, source=source, before=int(old), after=int(new))
            for source, old, new in zip(self.sources, before.deficits, after.deficits, strict=True)
            if old != new
        ]

    def snapshot(self, state: State) -> Snapshot:
        """The state as a ledger fact."""
        segments: dict[str, dict[str, tuple[int, int]]] = {source: {} for source in self.sources}
        for segment, cursor, deficit in zip(
            self.segments, state.cursors.tolist(), state.segment_deficits.tolist(), strict=False
        ):
            segments[segment.source][str(segment.segment)] = (cursor, deficit)
        deficits = dict(zip(self.sources, state.deficits.tolist(), strict=False))
        return Snapshot(
            step=state.step,
            slot=state.slot,
            synthetic_deficit=state.synthetic_deficit,
            deficits=deficits,
            segments=segments,
        )

    def _from_snapshot(self, snapshot: Snapshot) -> State:
        places = [
            snapshot.segments.get(segment.source, {}).get(str(segment.segment), (0, 0)) for segment in self.segments
        ]
        return State(
            step=snapshot.step,
            slot=snapshot.slot,
            synthetic_deficit=snapshot.synthetic_deficit,
            deficits=np.array([snapshot.deficits.get(source, 0) for source in self.sources], dtype=np.int64),
            cursors=np.array([cursor for cursor, _ in places], dtype=np.int64),
            segment_deficits=np.array([deficit for _, deficit in places], dtype=np.int64),
        )

    def _padded(self, state: State) -> State:
        """The state with room for sources and segments that joined since it was taken."""
        if len(state.cursors) == len(self.segments) and len(state.deficits) == len(self.sources):
            return state
        more, sources = len(self.segments) - len(state.cursors), len(self.sources) - len(state.deficits)
        return replace(
            state,
            deficits=np.pad(state.deficits, (0, sources)),
            cursors=np.pad(state.cursors, (0, more)),
            segment_deficits=np.pad(state.segment_deficits, (0, more)),
        )

    def _rebased(self, state: State) -> State:
        """The state as the terms that start at its step want it: lags settled where shares change, segment lags dropped
        where segments do (their unit is the source's size).
        """
        terms = self.terms(state.step)
        state = self._padded(state)
        if terms.step != state.step:
            return state
        before = self._terms[bisect_right(self._starts, state.step - 1) - 1] if state.step > self._starts[0] else None
        deficits, segment_deficits = state.deficits, state.segment_deficits
        if before is None or not np.array_equal(before.shares, terms.shares):
            deficits = np.zeros_like(deficits)
            for synthetic, total in ((True, state.synthetic_deficit), (False, -state.synthetic_deficit)):
                active = np.flatnonzero((self._synthetic == synthetic) & (terms.shares > 0))
                if active.size:
                    deficits[active] = settle_deficits(state.deficits[active], terms.shares[active], total)
        if before is not None and before.live != terms.live:
            segment_deficits = np.zeros_like(segment_deficits)
        return replace(state, deficits=deficits, segment_deficits=segment_deficits)

    def _advance(self, state: State) -> tuple[State, IntArray]:
        """Count one batch: the state after it and the samples drawn from each segment, int64 [S]."""
        terms, state = self.terms(state.step), self._rebased(state)
        synthetic_due = state.synthetic_deficit + terms.synthetic_weight
        num_synthetic = (2 * synthetic_due + SHARE_ONE) // (2 * SHARE_ONE)
        due = state.deficits + terms.weights
        counts = np.zeros(len(self.sources), dtype=np.int64)
        for kind, count in zip(self._members, (terms.global_batch - num_synthetic, num_synthetic), strict=True):
            if count:
                counts[kind] = apportion(due[kind], terms.weights[kind], count, SHARE_ONE)
        deficits = np.where(terms.weights > 0, due - counts * SHARE_ONE, 0)
        drawn = np.zeros(len(self.segments), dtype=np.int64)
        segment_deficits = state.segment_deficits
        for k in np.flatnonzero(counts).tolist():
            live = terms.live[k]
            if len(live) == 1:
                drawn[live[0]] = counts[k]
                continue
            if not live:
                raise MissingSamplesError(
                    f"source {self.sources[k]} has a share of {terms.shares[k] / SHARE_ONE:g} but no live segment"
                )
            rows = list(live)
            sizes = np.array([self.segments[i].num_samples for i in rows], dtype=np.int64)
            grown = sizes * counts[k]
            drawn[rows] = apportion(segment_deficits[rows] + grown, grown, int(counts[k]), int(sizes.sum()))
            segment_deficits = segment_deficits.copy()
            segment_deficits[rows] += grown - drawn[rows] * sizes.sum()
        after = State(
            step=state.step + 1,
            slot=state.slot + terms.global_batch,
            synthetic_deficit=synthetic_due - num_synthetic * SHARE_ONE,
            deficits=deficits,
            cursors=state.cursors + drawn,
            segment_deficits=segment_deficits,
        )
        return after, drawn

    def _materialize(self, states: Sequence[State], drawns: Sequence[IntArray]) -> list[Batch]:
        """Which samples: slots sorted by source, each with segment, epoch and sample number."""
        rows: list[tuple[int, int, int, int]] = []  # segment index, epoch, first place in the epoch, samples
        for state, drawn in zip(states, drawns, strict=True):
            cursors = self._padded(state).cursors
            for i in sorted(np.flatnonzero(drawn).tolist(), key=self._source_of.__getitem__):
                size, cursor, left = self.segments[i].num_samples, int(cursors[i]), int(drawn[i])
                while left:
                    epoch, place = divmod(cursor, size)
                    take = min(left, size - place)
                    rows.append((i, epoch, place, take))
                    cursor, left = cursor + take, left - take
        epochs, places, takes = (np.array([row[field] for row in rows], dtype=np.int64) for field in (1, 2, 3))
        row_of_slot = np.repeat(np.arange(len(rows)), takes)
        within = np.arange(len(row_of_slot)) - np.repeat(np.cumsum(takes) - takes, takes)
        keys = np.stack(
            [round_keys(self.seed, self.segments[i].source, self.segments[i].segment, e) for i, e, _, _ in rows], axis=1
        )
        sizes = np.array([self.segments[i].num_samples for i, *_ in rows], dtype=np.int64)
        source = np.array([self._source_of[i] for i, *_ in rows], dtype=np.int64)
        segment = np.array([self.segments[i].segment for i, *_ in rows], dtype=np.int64)
        columns = {
            "source": source[row_of_slot],
            "segment": segment[row_of_slot],
            "epoch": epochs[row_of_slot],
            "sample": permute(places[row_of_slot] + within, sizes[row_of_slot], keys[:, row_of_slot]),
        }
        ends = np.cumsum([int(drawn.sum()) for drawn in drawns]).tolist()
        return [
            Batch(step=state.step, first_slot=state.slot, **{name: all_[start:end] for name, all_ in columns.items()})
            for state, start, end in zip(states, [0, *ends], ends, strict=False)
        ]


def accumulation(global_batch: int, world_size: int, micro_batch: int) -> int:
    """Forwards per rank and step, M: the same on every rank, for any world size, also with more ranks than samples."""
    return max(1, -(-global_batch // (world_size * micro_batch)))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The part of every global batch that falls to one rank."""

    rank: int
    world_size: int
    micro_batch: int

    def positions(self, global_batch: int) -> list[IntArray]:
        """Places in the sorted batch of each of this rank's M micro-batches: each source within one of its part."""
        micro_batches = accumulation(global_batch, self.world_size, self.micro_batch)
        cells = self.world_size * micro_batches
        first = self.rank * micro_batches
        return [np.arange(first + m, global_batch, cells, dtype=np.int64) for m in range(micro_batches)]
