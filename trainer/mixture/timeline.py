"""From facts to terms: what is in force for a batch, as arrays.

The ledger only grows. It is read once, fact by fact; facts of the same step take effect together, and each such step
adds one entry of terms.
"""

# K sources, S segments that ever joined

import threading
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from trainer.base.records import IntArray, Kind
from trainer.mixture.ledger import GOVERNING, BatchSize, Ledger, Retire, Segment, Shares, Snapshot, Source


@dataclass(frozen=True, eq=False)
class Roster:
    """All sources and segments that ever joined, in the order in which they did; a later roster only adds to it.

    ``members`` are the indices of the real and of the synthetic sources; ``source_of`` [S] the source of each segment,
    ``numbers`` [S] its number inside the source, ``sizes`` [S] its samples.
    """

    sources: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    segments: tuple[Segment, ...] = ()
    synthetic: np.ndarray[tuple[int], np.dtype[np.bool_]] = field(init=False)
    members: tuple[IntArray, IntArray] = field(init=False)
    source_of: IntArray = field(init=False)
    numbers: IntArray = field(init=False)
    sizes: IntArray = field(init=False)

    def __post_init__(self) -> None:
        index = {source: k for k, source in enumerate(self.sources)}
        synthetic = np.array([kind == "synthetic" for kind in self.kinds], dtype=bool)
        arrays = {
            "synthetic": synthetic,
            "members": (np.flatnonzero(~synthetic), np.flatnonzero(synthetic)),
            "source_of": np.array([index[segment.source] for segment in self.segments], dtype=np.int64),
            "numbers": np.array([segment.segment for segment in self.segments], dtype=np.int64),
            "sizes": np.array([segment.num_samples for segment in self.segments], dtype=np.int64),
        }
        for name, value in arrays.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """What is in force from ``step`` on.

    ``shares`` [K] in millionths and ``weights`` [K], what a batch adds to the integral of each source, in millionths of
    a sample; ``synthetic_weight`` the sum over the synthetic sources; ``live`` the segments that each source is drawn
    from. ``shares_change`` and ``segments_change``: whether they differ from the terms before, so that deficits have to
    be settled.
    """

    step: int
    global_batch: int
    shares: IntArray
    weights: IntArray
    synthetic_weight: int
    live: tuple[tuple[int, ...], ...]
    roster: Roster
    shares_change: bool
    segments_change: bool

    def extended(self, roster: Roster) -> Self:
        """The same terms under a roster with sources and segments that joined later: they have no part in these."""
        more = len(roster.sources) - len(self.live)
        return replace(
            self,
            shares=np.pad(self.shares, (0, more)),
            weights=np.pad(self.weights, (0, more)),
            live=(*self.live, *[()] * more),
            roster=roster,
        )


class Timeline:
    """The terms of every step, read from the ledger whenever it has grown. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._lock = threading.Lock()  # the training loop and the prefetching thread share one timeline
        self._facts_read = 0
        self._terms: list[Terms] = []
        self._starts: list[int] = []  # the first step of each entry of terms
        self._snapshots: list[Snapshot] = []
        self._roster = Roster()
        self._kinds: dict[str, Kind] = {}
        self._segments: dict[tuple[str, int], Segment] = {}
        self._retired: set[tuple[str, int]] = set()
        self._live: tuple[tuple[int, ...], ...] = ()
        self._shares: dict[str, int] = {}
        self._global_batch = 0

    @property
    def roster(self) -> Roster:
        """All sources and segments that the ledger names, those of later steps included."""
        self._read()
        return self._roster

    @property
    def snapshots(self) -> list[Snapshot]:
        """The snapshots in the ledger, by step."""
        self._read()
        return self._snapshots

    def terms(self, step: int) -> Terms:
        """What governs batch ``step``."""
        self._read()
        index = bisect_right(self._starts, step) - 1
        terms = self._terms[index]
        if terms.roster is not self._roster:
            with self._lock:
                terms = self._terms[index] = self._terms[index].extended(self._roster)
        return terms

    def _read(self) -> None:
        """Take in the facts appended since the last call."""
        facts = self.ledger.facts
        if self._facts_read == len(facts):
            return
        with self._lock:
            while self._facts_read < len(facts):
                fact = facts[self._facts_read]
                if isinstance(fact, Snapshot):
                    self._snapshots.append(fact)
                if isinstance(fact, GOVERNING):
                    self._apply(fact)
                    upcoming = facts[self._facts_read + 1 : self._facts_read + 2]
                    if not (upcoming and isinstance(upcoming[0], GOVERNING) and upcoming[0].step == fact.step):
                        self._add_terms(fact.step)
                self._facts_read += 1

    def _apply(self, fact: Shares | BatchSize | Source | Segment | Retire) -> None:
        match fact:
            case Shares():
                unknown = sorted(set(fact.shares) - set(self._kinds))
                if unknown:
                    raise ValueError(
                        f"shares name sources without a segment: {', '.join(unknown)}; known: {', '.join(self._kinds)}"
                    )
                self._shares = dict(fact.shares)
            case BatchSize():
                self._global_batch = fact.global_batch
            case Source():
                self._kinds.setdefault(fact.source, fact.kind)
            case Segment():
                self._kinds.setdefault(fact.source, fact.kind)
                self._segments[fact.source, fact.segment] = fact
            case Retire():
                if (fact.source, fact.segment) not in self._segments:
                    raise ValueError(f"segment {fact.segment} of source {fact.source} retires but never joined")
                self._retired.add((fact.source, fact.segment))

    def _add_terms(self, step: int) -> None:
        self._renew_roster()
        if self._starts and self._starts[-1] == step:
            self._starts.pop()
            self._terms.pop()
        before = self._terms[-1].extended(self._roster) if self._terms else None
        shares = np.array([self._shares.get(source, 0) for source in self._roster.sources], dtype=np.int64)
        weights = shares * self._global_batch
        self._terms.append(
            Terms(
                step=step,
                global_batch=self._global_batch,
                shares=shares,
                weights=weights,
                synthetic_weight=int(weights[self._roster.synthetic].sum()),
                live=self._live,
                roster=self._roster,
                shares_change=before is None or not np.array_equal(before.shares, shares),
                segments_change=before is not None and before.live != self._live,
            )
        )
        self._starts.append(step)

    def _renew_roster(self) -> None:
        """The roster and the live segments, where facts since the last terms changed them."""
        if len(self._segments) > len(self._roster.segments) or len(self._kinds) > len(self._roster.sources):
            self._roster = Roster(tuple(self._kinds), tuple(self._kinds.values()), tuple(self._segments.values()))
        live: list[list[int]] = [[] for _ in self._roster.sources]
        for index, (segment, source) in enumerate(zip(self._segments, self._roster.source_of.tolist(), strict=True)):
            if segment not in self._retired:
                live[source].append(index)
        self._live = tuple(map(tuple, live))
