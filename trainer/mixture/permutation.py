"""Which sample of a segment comes next: a keyed bijection on [0, N), so that an epoch's order needs no memory and no
generator state.

A shuffled index array costs 8 bytes a sample and O(N) on every resume; a Feistel network with cycle walking costs
neither, at any N up to 2^62, and each epoch gets its own key. The algorithm is versioned: a run's order must not change
when the library does.
"""

# n slots, each with its own key and domain; all arithmetic is modulo 2^64

import hashlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.base.hashing import SPLITMIX_1, SPLITMIX_2
from trainer.base.records import IntArray

ORDER_VERSION = "feistel-1"
NUM_ROUNDS = 6  # 4 suffice for ideal round functions (Luby and Rackoff); two more because ours is not ideal
MIN_BITS = 4  # narrower halves leave too few round functions to shuffle two or three samples well

Words = NDArray[np.uint64]
_Network = Callable[[Words, Words, Words, Words, Words], Words]

_SHIFT_1, _SHIFT_2 = np.uint64(32), np.uint64(29)


@lru_cache(maxsize=1 << 16)
def round_keys(seed: int, source: str, segment: int, epoch: int) -> Words:
    """Round keys [NUM_ROUNDS] of one epoch of one segment, derived from what they stand for and from nothing else."""
    text = f"{ORDER_VERSION}|{seed}|{source}|{segment}|{epoch}".encode()
    digest = hashlib.blake2b(text, digest_size=8 * NUM_ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def permute(index: IntArray, size: IntArray, keys: Words) -> IntArray:
    """Place ``index[n]`` of an epoch over ``size[n]`` samples under ``keys[NUM_ROUNDS, n]``: the sample drawn, int64
    [n] in [0, size).

    For fixed size and keys this is a bijection. Points that leave [0, size) are sent through again (cycle walking); the
    domain is the next power of two, so on average fewer than one extra pass is needed.
    """
    return _walk(index, size, keys, _feistel)


def place_of(sample: IntArray, size: IntArray, keys: Words) -> IntArray:
    """The inverse of ``permute``: the place at which ``sample[n]`` is drawn, int64 [n]."""
    return _walk(sample, size, keys, _feistel_back)


def _walk(points: IntArray, size: IntArray, keys: Words, network: _Network) -> IntArray:
    value, limit = points.astype(np.uint64), size.astype(np.uint64)
    bits = _bits(size)
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    value = network(value, keys, low_bits, low_mask, high_mask)
    outside = np.flatnonzero(value >= limit)
    while outside.size:
        again = network(value[outside], keys[:, outside], low_bits[outside], low_mask[outside], high_mask[outside])
        value[outside] = again
        outside = outside[again >= limit[outside]]
    return value.astype(np.int64)


def _bits(size: IntArray) -> Words:
    """Bits of the domain: those of size - 1, at least MIN_BITS."""
    bits = np.maximum(np.frexp((size - 1).astype(np.float64))[1], MIN_BITS).astype(np.int64)
    bits += (size - 1) >> np.minimum(bits, 62) > 0  # sizes above 2^53 are rounded when they become floats
    return bits.astype(np.uint64)


def _feistel(value: Words, keys: Words, low_bits: Words, low_mask: Words, high_mask: Words) -> Words:
    high, low = value >> low_bits, value & low_mask
    for i in range(0, NUM_ROUNDS, 2):
        high = high ^ (_mix(low, keys[i]) & high_mask)
        low = low ^ (_mix(high, keys[i + 1]) & low_mask)
    return (high << low_bits) | low


def _feistel_back(value: Words, keys: Words, low_bits: Words, low_mask: Words, high_mask: Words) -> Words:
    high, low = value >> low_bits, value & low_mask
    for i in range(NUM_ROUNDS - 2, -1, -2):
        low = low ^ (_mix(high, keys[i + 1]) & low_mask)
        high = high ^ (_mix(low, keys[i]) & high_mask)
    return (high << low_bits) | low


def _mix(half: Words, key: Words) -> Words:
    word = (half + key) * SPLITMIX_1
    word ^= word >> _SHIFT_1
    word += key
    word *= SPLITMIX_2
    word ^= word >> _SHIFT_2
    return word
