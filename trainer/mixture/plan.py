"""Who is in a batch: exact counts for every source, spread over ranks and micro-batches, all in integers.

Random draws miss a share of 0.2 in a batch of 256 by 2.5 points (one standard deviation) and never make up for it;
largest remainder without carry repeats the same error for ever. Here the synthetic total is the nearest integer of the
integral of its share, and inside a kind the sources are unit jobs scheduled by earliest deadline, which keeps each
within one sample of its own integral at every step.

Why earliest deadline suffices: let X_i(n) be the integral of source i, its m-th sample released when X_i > m - 1 and
due when X_i >= m. In any window the jobs due number at most floor(sum of the growth of X_i) and the kind draws at least
that many; the jobs released always fill what the kind draws. Unit jobs with integer times are scheduled by earliest
deadline whenever that is possible at all (Horn 1974; the same argument as proportionate fairness, Baruah et al. 1996),
so no source leaves the interval [floor X_i, ceil X_i].
"""

# G samples of the global batch, K sources, S segments ever seen, R ranks, M micro-batches per rank

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from trainer.mixture.ledger import GOVERNING, BatchSize, Ledger, Mark, Retire, Segment, Shares
from trainer.mixture.order import permute, place_of, round_keys
from trainer.records import SHARE_ONE, SHARE_STEP, Config, IntArray, Kind
from trainer.shares import rounded

MARK_EVERY_STEPS = 1_000


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

    ``lags`` [K] by source, ``cursors`` [S] samples drawn from each segment, ``segment_lags`` [S] in samples times the
    source's size.
    """

    step: int
    slot: int
    synthetic_lag: int
    lags: IntArray
    cursors: IntArray
    segment_lags: IntArray


@dataclass(frozen=True, kw_only=True)
class LagChange:
    """A lag that a change of shares forced to another value, in millionths of a sample."""

    step: int
    source: str
    before: int
    after: int


class MissingSamplesError(ValueError):
    """A source has a share but no live segment to draw from."""


@dataclass(frozen=True)
class _Terms:
    """What is in force from a step on, as arrays: shares [K], and per source the indices of its live segments."""

    step: int
    global_batch: int
    shares: IntArray
    live: tuple[tuple[int, ...], ...]


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
        self._marks: list[Mark] = []
        self._facts_read = 0
        self._reading = threading.Lock()  # the loop and the prefetching thread share one plan
        self._shares: dict[str, int] = {}
        self._global_batch = 0
        self._retired: set[int] = set()
        self._synthetic = np.zeros(0, dtype=bool)

    # Reading the ledger

    def refresh(self) -> None:
        """Take in the facts appended since the last call."""
        facts = self.ledger.facts
        if self._facts_read == len(facts):
            return
        with self._reading:
            while self._facts_read < len(facts):
                fact = facts[self._facts_read]
                if isinstance(fact, Mark):
                    self._marks.append(fact)
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
        terms = _Terms(step, self._global_batch, shares, live)
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
            synthetic_lag=0,
            lags=np.zeros(len(self.sources), dtype=np.int64),
            cursors=zeros,
            segment_lags=zeros,
        )

    def state(self, step: int) -> State:
        """The state before batch ``step``: the last mark, and at most MARK_EVERY_STEPS batches counted (not
        materialised) from there.
        """
        self.refresh()
        marks = [mark for mark in self._marks[-64:] if mark.step <= step] or [
            mark for mark in self._marks if mark.step <= step
        ]
        state = self._from_mark(marks[-1]) if marks else self.start()
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
        return list(zip(self._materialise(states[:-1], drawns), states[1:], strict=True))

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
        states = [self.start(), *map(self._from_mark, self._marks)]
        state = states[max(0, bisect_right([int(self._padded(s).cursors[index]) for s in states], place) - 1)]
        while True:
            after = self._advance(state)[0]
            if after.cursors[index] > place:
                return state.step
            state = after

    def drawn(self, state: State) -> IntArray:
        """Samples drawn so far from each source, int64 [K]."""
        total = np.zeros(len(self.sources), dtype=np.int64)
        np.add.at(total, self._source_of[: len(state.cursors)], state.cursors)
        return total

    def epochs(self, state: State) -> dict[str, float]:
        """Epochs drawn so far: samples drawn over samples in the source's segments."""
        sizes: dict[str, int] = dict.fromkeys(self.sources, 0)
        for segment in self.segments:
            sizes[segment.source] += segment.num_samples
        return {source: int(n) / sizes[source] for source, n in zip(self.sources, self.drawn(state), strict=True)}

    def lag_changes(self, state: State) -> list[LagChange]:
        """Lags that drawing the next batch will force to another value, because shares change there."""
        before, after = self._padded(state), self._rebased(state)
        return [
            LagChange(step=state.step, source=source, before=int(old), after=int(new))
            for source, old, new in zip(self.sources, before.lags, after.lags, strict=True)
            if old != new
        ]

    def mark(self, state: State) -> Mark:
        """The state as a ledger fact."""
        segments: dict[str, dict[str, tuple[int, int]]] = {source: {} for source in self.sources}
        for segment, cursor, lag in zip(
            self.segments, state.cursors.tolist(), state.segment_lags.tolist(), strict=False
        ):
            segments[segment.source][str(segment.segment)] = (cursor, lag)
        lags = dict(zip(self.sources, state.lags.tolist(), strict=False))
        return Mark(step=state.step, slot=state.slot, synthetic_lag=state.synthetic_lag, lags=lags, segments=segments)

    def _from_mark(self, mark: Mark) -> State:
        places = [mark.segments.get(segment.source, {}).get(str(segment.segment), (0, 0)) for segment in self.segments]
        return State(
            step=mark.step,
            slot=mark.slot,
            synthetic_lag=mark.synthetic_lag,
            lags=np.array([mark.lags.get(source, 0) for source in self.sources], dtype=np.int64),
            cursors=np.array([cursor for cursor, _ in places], dtype=np.int64),
            segment_lags=np.array([lag for _, lag in places], dtype=np.int64),
        )

    def _padded(self, state: State) -> State:
        """The state with room for sources and segments that joined since it was taken."""
        if len(state.cursors) == len(self.segments) and len(state.lags) == len(self.sources):
            return state
        more, sources = len(self.segments) - len(state.cursors), len(self.sources) - len(state.lags)
        return replace(
            state,
            lags=np.pad(state.lags, (0, sources)),
            cursors=np.pad(state.cursors, (0, more)),
            segment_lags=np.pad(state.segment_lags, (0, more)),
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
        lags, segment_lags = state.lags, state.segment_lags
        if before is None or not np.array_equal(before.shares, terms.shares):
            lags = np.zeros_like(lags)
            for synthetic, total in ((True, state.synthetic_lag), (False, -state.synthetic_lag)):
                active = np.flatnonzero((self._synthetic == synthetic) & (terms.shares > 0))
                if active.size:
                    lags[active] = settle_lags(state.lags[active], terms.shares[active], total)
        if before is not None and before.live != terms.live:
            segment_lags = np.zeros_like(segment_lags)
        return replace(state, lags=lags, segment_lags=segment_lags)

    def _advance(self, state: State) -> tuple[State, IntArray]:
        """Count one batch: the state after it and the samples drawn from each segment, int64 [S]."""
        terms, state = self.terms(state.step), self._rebased(state)
        weights = terms.shares * terms.global_batch
        synthetic_due = state.synthetic_lag + int(weights[self._synthetic].sum())
        num_synthetic = (2 * synthetic_due + SHARE_ONE) // (2 * SHARE_ONE)
        counts = np.zeros(len(self.sources), dtype=np.int64)
        for kind, count in ((self._synthetic, num_synthetic), (~self._synthetic, terms.global_batch - num_synthetic)):
            counts[kind] = apportion(state.lags[kind], weights[kind], count, SHARE_ONE)
        lags = np.where(weights > 0, state.lags + weights - counts * SHARE_ONE, 0)
        drawn = np.zeros(len(self.segments), dtype=np.int64)
        segment_lags = state.segment_lags
        for k in np.flatnonzero(counts):
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
            drawn[rows] = apportion(segment_lags[rows], sizes * counts[k], int(counts[k]), int(sizes.sum()))
            segment_lags = segment_lags.copy()
            segment_lags[rows] += sizes * counts[k] - drawn[rows] * sizes.sum()
        after = State(
            step=state.step + 1,
            slot=state.slot + terms.global_batch,
            synthetic_lag=synthetic_due - num_synthetic * SHARE_ONE,
            lags=lags,
            cursors=state.cursors + drawn,
            segment_lags=segment_lags,
        )
        return after, drawn

    def _materialise(self, states: Sequence[State], drawns: Sequence[IntArray]) -> list[Batch]:
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


def apportion(lags: IntArray, weights: IntArray, count: int, unit: int) -> IntArray:
    """Split ``count`` samples over parts that are owed ``lags + weights`` (in 1/``unit`` of a sample): int64 counts
    that sum to ``count``.

    Each part first gets the whole samples it is owed; what is left goes to the parts whose next sample falls due
    soonest. Stays within one sample of every part's due as long as the lags start within one sample and sum to the rest
    of the total (module docstring).
    """
    due = lags + weights
    counts: IntArray = np.maximum(due // unit, 0)
    rest = count - int(counts.sum())
    if rest:
        ahead = due - counts * unit
        open_ = np.flatnonzero(ahead > 0)
        deadline = -((ahead[open_] - unit) // weights[open_])
        counts[open_[np.lexsort((-ahead[open_], deadline))[:rest]]] += 1
    assert int(counts.sum()) == count, "the lags of a kind must sum to the lag of its total"
    return counts


def settle_lags(lags: IntArray, weights: IntArray, total: int) -> IntArray:
    """Lags to begin a new span with: as near to those carried as lets every source stay within one sample from here on.

    They sum to ``total`` (at most half a sample). Carried lags are clipped to one sample, and what is missing is shared
    out in proportion to ``weights``. What sources are ahead by in all must be less than half a sample: whoever is ahead
    cannot give back, so the others would be owed more than is drawn (sum of floor X_i over X_i >= 0 is at most
    floor(X + ahead), and floor(X + 1/2) are drawn). Where it is more, all lags shrink towards an even start.
    """
    settled = _with_total(np.clip(lags, 1 - SHARE_ONE, SHARE_ONE - 1), weights, total)
    even = _with_total(np.zeros_like(lags), weights, total)
    ahead, least = (int(-np.minimum(values, 0).sum()) for values in (settled, even))
    room = max(0, SHARE_ONE // 2 - len(lags) - least)  # a millionth each for rounding
    if ahead - least <= room:
        return settled
    shrunk: IntArray = even + (settled - even) * room // (ahead - least)
    shrunk[np.argmax(shrunk)] += total - int(shrunk.sum())
    return shrunk


def _with_total(lags: IntArray, weights: IntArray, total: int) -> IntArray:
    """``lags`` with what is missing to ``total`` shared out in proportion to ``weights``, nobody beyond one sample."""
    most = SHARE_ONE - 1
    lags = lags.copy()
    missing = total - int(lags.sum())
    while missing:
        room = (most - lags) if missing > 0 else (lags + most)
        open_ = np.flatnonzero(room > 0)
        part = abs(missing) * weights[open_] // int(weights[open_].sum())
        step = np.minimum(part, room[open_])
        if not step.any():  # less than one millionth each: to the first with room
            step[0] = 1
        lags[open_] += step if missing > 0 else -step
        missing = total - int(lags.sum())
    return lags


def capped_shares(shares: Mapping[str, int], kinds: Mapping[str, Kind], spent: set[str]) -> dict[str, int] | None:
    """Shares with the ``spent`` sources at 0 and the rest of each kind scaled up to the kind's share; None when a kind
    has nobody left.
    """
    result: dict[str, int] = {}
    for kind in ("real", "synthetic"):
        total = sum(share for source, share in shares.items() if kinds[source] == kind)
        left = {
            source: share
            for source, share in shares.items()
            if kinds[source] == kind and source not in spent and share > 0
        }
        if total and not left:
            return None
        exact = {source: Fraction(total * share, sum(left.values())) for source, share in left.items()}
        counts = {source: int(value // SHARE_STEP) * SHARE_STEP for source, value in exact.items()}
        for source in sorted(exact, key=lambda source: counts[source] - exact[source])[: 1 if left else 0]:
            counts[source] += total - sum(counts.values())
        result |= {source: counts.get(source, 0) for source in shares if kinds[source] == kind}
    return {source: result[source] for source in shares}


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
