"""Hashes that are the same on every machine: of 64-bit words, and of names, from which random streams are derived."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

# Multipliers of splitmix64 (Steele, Lea, Flood 2014; constants of variant 13 by Stafford).
SPLITMIX_1 = np.uint64(0xBF58476D1CE4E5B9)
SPLITMIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(words: Words) -> Words:
    """The finalizer of splitmix64: a bijection of 64-bit words that spreads every input bit. Any shape."""
    words = (words ^ (words >> np.uint64(30))) * SPLITMIX_1
    words = (words ^ (words >> np.uint64(27))) * SPLITMIX_2
    return words ^ (words >> np.uint64(31))


def derived_hash(*names: object) -> int:
    """64 bits that are a pure function of the names."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest(), "little")


def derived_rng(*names: object) -> np.random.Generator:
    """A generator that is a pure function of the names: derived, never held."""
    return np.random.Generator(np.random.PCG64(derived_hash(*names)))
