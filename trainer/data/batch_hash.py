"""The hash of a batch: equal on two runs when every sample was handed to the model with the same tokens.

It is a sum modulo 2^64 over all samples, so that ranks can add their parts in any order and split.
"""

# n samples, T tokens a sample

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.base.hashing import splitmix64
from trainer.base.records import IntArray
from trainer.mixture.draw import Batch
from trainer.mixture.permutation import Words

SegmentSlots = Sequence[tuple[tuple[int, int], IntArray]]  # of each (source, segment) the slots of its samples

BATCH_HASH_VERSION = "fed-1"  # changing it changes every hash that runs have journaled


class SampleStore(Protocol):
    """What the stream needs of a prepared segment."""

    def gather(self, samples: IntArray) -> NDArray[np.integer[Any]]:
        """Tokens [n, T], of any integer type."""
        ...

    def valid_tokens(self, samples: IntArray) -> IntArray:
        """How many of the T tokens are real, int64 [n]."""
        ...


@lru_cache(maxsize=8)
def _batch_hash_keys(length: int) -> tuple[Words, np.uint64]:
    """Odd keys of the positions, and the constant of the sum."""
    digest = hashlib.shake_128(BATCH_HASH_VERSION.encode()).digest(8 * (length + 1))
    keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64) | np.uint64(1)
    return keys[1:], keys.sum(dtype=np.uint64)


def sample_hashes(tokens: IntArray) -> Words:
    """64-bit hash of each row of ``tokens[n, T]``: multilinear over the positions, then ``splitmix64``, so that
    rows may be summed.
    """
    keys, constant = _batch_hash_keys(tokens.shape[1])
    # keys[0] + sum((token + 1) * key), without a copy of the tokens; matmul, with no BLAS for integers, is slower
    return splitmix64(np.einsum("nt,t->n", tokens.view(np.uint64), keys) + constant)


def by_segment(source: IntArray, segment: IntArray) -> Iterator[tuple[tuple[int, int], IntArray]]:
    """Each (source, segment) that occurs, with the places where it does."""
    pairs = (source << 32) | segment
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(order)]):
        places = order[start:end]
        yield divmod(int(pairs[places[0]]), 1 << 32), places


def batch_hash(batch: Batch, stores: Mapping[tuple[int, int], SampleStore]) -> int:
    """What a run must journal as ``batch_hash`` for this batch, from the plan and the store alone."""
    hashes = (
        sample_hashes(stores[pair].gather(batch.sample[slots]).astype(np.int64)).sum(dtype=np.uint64)
        for pair, slots in by_segment(batch.source, batch.segment)
    )
    return sum(map(int, hashes)) % (1 << 64)
