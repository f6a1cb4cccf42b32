"""n-gram counts of a text, of those contexts alone that occur in held-out text, and how well they predict it.

Only what held-out positions ask for is kept: a context is numbered by the held-out text, and a position of other text
whose context has no number is dropped at once. So memory is limited by the sample, no key is ever hashed to another's
place, and any vocabulary will do. Documents are told apart: no n-gram reaches from one into the next.
"""

# N orders, P held-out positions

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.base.records import FloatArray, IntArray

ORDERS = 4
# Interpolated absolute discounting: taken off every count, and the weight of the next lower order, in counts. In trials
# on encyclopedia text the optimum was flat (0.01 nats).
DISCOUNTS = (0.5, 0.7, 0.8, 0.85)
STRENGTHS = (5.0, 5.0, 3.0, 2.0)
CHUNK_TOKENS = 1 << 20  # counted at a time: temporaries stay small
FILTER_BITS = 20
LARGEST_TABLE = 1 << 22
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio

Documents = Sequence[NDArray[Any]]  # token ids of one document each
Shared = NDArray[np.float32]  # [N, P]: different tokens that two texts both have after the context
Looks = NDArray[np.float32]  # [N, 3, P]: count of the n-gram, count of its context, different tokens after that context


class _Numbered:
    """Sorted keys, each with its place as its number: in a table where they are small; else most keys that are asked
    for are unknown, which a table of bits says at once.
    """

    def __init__(self, keys: IntArray) -> None:
        self.keys = np.unique(keys)
        self._table = None
        if self.keys[-1] < LARGEST_TABLE:
            self._table = np.full(int(self.keys[-1]) + 2, -1, dtype=np.int32)
            self._table[self.keys] = np.arange(len(self.keys), dtype=np.int32)
            return
        self._known = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._known[self._hash(self.keys)] = True

    @staticmethod
    def _hash(keys: IntArray) -> NDArray[np.int64]:
        hashed: NDArray[np.uint64] = (keys.view(np.uint64) * _SPREAD) >> np.uint64(64 - FILTER_BITS)
        return hashed.view(np.int64)

    def find(self, keys: IntArray) -> tuple[IntArray, IntArray]:
        """Places of the keys that are known, and their numbers."""
        if self._table is not None:
            found = self._table[np.minimum(keys, len(self._table) - 1)]
            places = np.flatnonzero(found >= 0)
            return places, found[places].astype(np.int64)
        places = np.flatnonzero(self._known[self._hash(keys)])
        numbers = np.searchsorted(self.keys, keys[places])
        numbers[numbers == len(self.keys)] = 0
        is_known = self.keys[numbers] == keys[places]
        return places[is_known], numbers[is_known]


class HeldOutText:
    """P held-out positions: every token of ``documents`` (ids below ``num_ids``), after up to three of its own
    document.
    """

    def __init__(self, documents: Documents, num_ids: int) -> None:
        self.num_ids, self.radix = num_ids, num_ids + 1  # one more id: before the first token of a document
        stream, places = joined(documents, boundary=num_ids)
        self.num_positions = len(places)
        numbers = np.zeros(len(places), dtype=np.int64)
        self.contexts = [numbers]  # of each order [P]: the number of the position's context
        self.numbered: list[_Numbered] = []
        for order in range(2, ORDERS + 1):
            keys = numbers * self.radix + stream[places - order + 1]
            self.numbered.append(_Numbered(keys))
            numbers = np.searchsorted(self.numbered[-1].keys, keys)
            self.contexts.append(numbers)
        grams = [numbers * self.radix + stream[places] for numbers in self.contexts]
        self.grams = [np.unique(keys, return_inverse=True) for keys in grams]
        self.num_contexts = [1, *(len(numbered.keys) for numbered in self.numbered)]

    def asked(self, stream: IntArray, places: IntArray) -> list[IntArray]:
        """Of each order the n-grams (number of the context, then the token) that end at ``places`` and whose context is
        held-out text's; repeated as often as they occur.
        """
        numbers = np.zeros(len(places), dtype=np.int64)
        grams = [stream[places]]
        for order, numbered in enumerate(self.numbered, start=2):
            kept, numbers = numbered.find(numbers * self.radix + stream[places - order + 1])
            places = places[kept]
            grams.append(numbers * self.radix + stream[places])
        return grams


class Counts:
    """What a text that grows has of the n-grams that held-out text asks for."""

    def __init__(self, held_out: HeldOutText) -> None:
        self._held_out = held_out
        nothing = np.zeros(0, dtype=np.int64)
        self._counted = [(nothing, nothing)] * ORDERS  # different n-grams, sorted, and how often each occurs

    def add(self, documents: Documents) -> "Counts":
        """Counts more documents."""
        for part in _chunks(documents):
            grams = self._held_out.asked(*joined(part, boundary=self._held_out.num_ids))
            self._counted = [_merged(old, keys) for old, keys in zip(self._counted, grams, strict=True)]
        return self

    def looks(self) -> Looks:
        """What the counts say at every held-out position."""
        looks = np.empty((ORDERS, 3, self._held_out.num_positions), dtype=np.float32)
        for order, (keys, counts) in enumerate(self._counted):
            contexts = keys // self._held_out.radix
            num = self._held_out.num_contexts[order]
            wanted, inverse = self._held_out.grams[order]
            looks[order, 0] = _values_of(wanted, keys, counts)[inverse]
            place = self._held_out.contexts[order]
            looks[order, 1] = np.bincount(contexts, weights=counts, minlength=num)[place]
            looks[order, 2] = np.bincount(contexts, minlength=num)[place]
        return looks

    def shared_with(self, other: "Counts") -> Shared:
        """How many different tokens both texts have after the context of every held-out position."""
        shared = np.empty((ORDERS, self._held_out.num_positions), dtype=np.float32)
        for order, ((keys, _), (others, counts)) in enumerate(zip(self._counted, other._counted, strict=True)):
            in_both = keys[_values_of(keys, others, counts) > 0]
            num = self._held_out.num_contexts[order]
            by_context = np.bincount(in_both // self._held_out.radix, minlength=num)
            shared[order] = by_context[self._held_out.contexts[order]]
        return shared

    def copy(self) -> "Counts":
        """The counts as they are now."""
        copied = Counts(self._held_out)
        copied._counted = list(self._counted)
        return copied


def joined(documents: Documents, *, boundary: int) -> tuple[IntArray, IntArray]:
    """The documents as one stream with the id ``boundary`` three times before each, and the places of their own
    tokens.
    """
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    apart = ORDERS - 1
    places = np.arange(int(lengths.sum())) + apart * (np.repeat(np.arange(len(lengths)), lengths) + 1)
    stream = np.full(int(lengths.sum()) + apart * len(lengths), boundary, dtype=np.int64)
    if len(places):
        stream[places] = np.concatenate(documents)
    return stream, places


def nats(base: Looks, num_ids: int) -> FloatArray:
    """Loss at each held-out position [P] of the counts of one text."""
    nothing = np.zeros_like(base)
    return nats_together(base, nothing, nothing[:, 0], 0.0, num_ids)


def nats_together(base: Looks, added: Looks, shared: Shared, weight: float, num_ids: int) -> FloatArray:
    """Loss at each held-out position [P] of two texts counted together, where a count of the second weighs ``weight``.

    An n-gram that both have is discounted once, so that at weight 1 two parts of a text are the whole text.
    """
    p: NDArray[Any] = np.full(base.shape[2], 1 / num_ids, dtype=np.float32)
    w = np.float32(weight)
    for order, (discount, strength) in enumerate(zip(DISCOUNTS, STRENGTHS, strict=True)):
        (count, context, types), (more, more_context, more_types) = base[order], added[order]
        d = np.float32(discount)
        taken = np.where(count > 0, d, np.minimum(more, 1) * (w * d))
        left = d * (types + w * (more_types - shared[order])) + np.float32(strength)
        p = (count + w * more - taken + left * p) / (context + w * more_context + np.float32(strength))
    return -np.log(p.astype(np.float64))


def _chunks(documents: Documents) -> list[Documents]:
    """The documents in lists of about ``CHUNK_TOKENS``."""
    ends = np.cumsum([len(document) for document in documents])
    edges = np.searchsorted(ends, np.arange(CHUNK_TOKENS, (ends[-1] if len(ends) else 0) + 1, CHUNK_TOKENS)) + 1
    cuts = np.unique(np.concatenate([[0], edges, [len(documents)]]))
    return [documents[start:end] for start, end in pairwise(cuts)]


def _merged(old: tuple[IntArray, IntArray], keys: IntArray) -> tuple[IntArray, IntArray]:
    """Different keys and their counts, of ``old`` and of ``keys`` as often as they stand there."""
    new = _runs(np.sort(keys))
    if not len(old[0]):
        return new
    both, counts = (np.concatenate([one, other]) for one, other in zip(old, new, strict=True))
    order = np.argsort(both, kind="stable")  # two sorted runs: one pass
    return _runs(both[order], counts[order])


def _runs(keys: IntArray, counts: IntArray | None = None) -> tuple[IntArray, IntArray]:
    """The different ones of sorted keys, and the sum of the counts of each; without counts each counts once."""
    if not len(keys):
        return keys, np.zeros(0, dtype=np.int64)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    if counts is None:
        return keys[first], np.diff(np.concatenate([first, [len(keys)]]))
    return keys[first], np.add.reduceat(counts, first)


def _values_of(wanted: IntArray, keys: IntArray, values: IntArray) -> IntArray:
    """The value of each wanted key; 0 where there is none."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
