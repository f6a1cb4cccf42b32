"""Hashes texts by their words: of the whole sequence, and of every three in a row (shingles).

Hashing is vectorized over a batch of texts; no Python runs per word. A hash of 44 bits leaves 20 for the document's
place in the batch, so one sort makes every document's shingles unique.
"""

# N documents, W words, S shingles of a batch

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.base.hashing import splitmix64

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

SHINGLE_WORDS = 3
HASH_BITS = 44
MAX_BATCH_DOCUMENTS = 1 << (64 - HASH_BITS)
_HASH_MASK = np.uint64((1 << HASH_BITS) - 1)

_random = np.random.Generator(np.random.PCG64(0x5EED))
_BYTE_CODES: Hashes = _random.integers(
    0, 2**64, size=(64, 256), dtype=np.uint64
)  # tabulation hashing: place in word, byte
_WORD_CODES: Hashes = _random.integers(0, 2**64, size=SHINGLE_WORDS, dtype=np.uint64) | np.uint64(1)
_PLACE_CODE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Shingles:
    """The distinct shingles of N documents: ``hashes[offsets[i]:offsets[i + 1]]`` sorted; ``exact[N]`` hashes the
    whole word sequence.
    """

    hashes: Hashes
    offsets: Ints
    exact: Hashes

    def of(self, document: int) -> Hashes:
        """The sorted distinct shingle hashes of one document."""
        return self.hashes[self.offsets[document] : self.offsets[document + 1]]


def _normalized(text: str) -> bytes:
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return folded.lower().encode("utf-8", "surrogatepass")


def _word_bytes() -> NDArray[np.bool_]:
    table = np.zeros(256, dtype=np.bool_)
    table[[*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1), *range(0x80, 0x100)]] = True
    return table


_WORD_BYTES = _word_bytes()


def _word_masks(data: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which bytes belong to words, and which of them start one.

    Letters, digits and whatever is not ASCII make words, less the Latin-1, general and CJK punctuation; a character
    from U+3000 on (CJK, kana, hangul, emoji), written without spaces, is a word of its own.
    """
    word = _WORD_BYTES[data]
    high = np.flatnonzero(data >= 0xC2)
    wide_start = np.zeros(len(data), dtype=np.bool_)
    wide_end = np.zeros(len(data) + 4, dtype=np.bool_)
    if len(high):
        padded = np.concatenate([data, np.zeros(2, np.uint8)])
        first, second, third = padded[high], padded[high + 1], padded[high + 2]
        latin = high[(first == 0xC2) & (second < 0xC0)]
        general = high[
            ((first == 0xE2) & ((second == 0x80) | (second == 0x81)))
            | ((first == 0xE3) & (second == 0x80) & (third < 0xA0))
        ]
        for place in (latin, latin + 1, general, general + 1, general + 2):
            word[place] = False
        wide = high[first >= 0xE3]
        wide = wide[word[wide]]
        wide_start[wide] = True
        wide_end[wide + np.where(data[wide] >= 0xF0, 4, 3)] = True
    before = np.zeros(len(data), dtype=np.bool_)
    before[1:] = word[:-1]
    return word, word & (~before | wide_start | wide_end[: len(data)])


def _word_hashes(data: NDArray[np.uint8]) -> tuple[Hashes, Ints]:
    """Hash and first byte of every word of the batch's text."""
    word, start = _word_masks(data)
    starts = np.flatnonzero(start)
    if not len(starts):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    letters = data[word]
    first_kept = np.flatnonzero(start[word])
    lengths = np.diff(np.append(first_kept, len(letters)))
    place = np.arange(len(letters)) - np.repeat(first_kept, lengths)
    codes = _BYTE_CODES.ravel()[(place & 63) * 256 + letters]
    return splitmix64(np.add.reduceat(codes, first_kept)), starts


def _shingle_keys(words: Hashes, offsets: Ints) -> Hashes:
    """One key per shingle: document in the top 20 bits, hash below. A document shorter than a shingle is one."""
    num_words = np.diff(offsets)
    document_of = np.repeat(np.arange(len(num_words)), num_words)
    keys: list[Hashes] = []
    if len(words) >= SHINGLE_WORDS:
        last = len(words) - SHINGLE_WORDS + 1
        same = document_of[:last] == document_of[SHINGLE_WORDS - 1 :]
        total = np.zeros(last, dtype=np.uint64)
        for place in range(SHINGLE_WORDS):
            total += words[place : place + last] * _WORD_CODES[place]
        hashes = splitmix64(total[same]) >> np.uint64(64 - HASH_BITS)
        keys.append((document_of[:last][same].astype(np.uint64) << np.uint64(HASH_BITS)) | hashes)
    for document in np.flatnonzero((num_words > 0) & (num_words < SHINGLE_WORDS)):
        few = words[offsets[document] : offsets[document + 1]]
        hashed = splitmix64((few * _WORD_CODES[: len(few)]).sum(keepdims=True)) >> np.uint64(64 - HASH_BITS)
        keys.append((np.uint64(document) << np.uint64(HASH_BITS)) | hashed)
    return np.concatenate(keys) if keys else np.zeros(0, np.uint64)


@dataclass(frozen=True)
class _Words:
    """The words of N texts: their hashes, and where each text's begin, with the end of the last."""

    hashes: Hashes
    offsets: Ints
    encoded: list[bytes]

    def exact(self) -> Hashes:
        """[N] a hash of each text's whole word sequence; of its stripped characters where it has no word."""
        place = np.arange(len(self.hashes)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        placed = splitmix64(self.hashes + place.astype(np.uint64) * _PLACE_CODE)
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(placed, dtype=np.uint64)])
        exact: Hashes = splitmix64(running[self.offsets[1:]] - running[self.offsets[:-1]])
        for text in np.flatnonzero(np.diff(self.offsets) == 0):
            digest = hashlib.blake2b(self.encoded[text].strip(), digest_size=8).digest()
            exact[text] = int.from_bytes(digest, "little")
        return exact


def _words_of(texts: Sequence[str]) -> _Words:
    if len(texts) > MAX_BATCH_DOCUMENTS:
        raise ValueError(f"at most {MAX_BATCH_DOCUMENTS} texts in one batch, got {len(texts)}")
    encoded = [_normalized(text) for text in texts]
    data = np.frombuffer(b"\n".join(encoded), dtype=np.uint8)
    ends = np.cumsum(np.array([len(encoded_text) + 1 for encoded_text in encoded], dtype=np.int64))
    hashes, starts = _word_hashes(data)
    return _Words(hashes, np.concatenate([np.zeros(1, np.int64), np.searchsorted(starts, ends)]), encoded)


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """The hash of every word of the texts, and where each text's begin, with the end of the last."""
    words = _words_of(texts)
    return words.hashes, words.offsets


def exact_hashes(texts: Sequence[str]) -> Hashes:
    """[N] equal where two texts are the same sequence of words, whatever their case, punctuation and white space."""
    return _words_of(texts).exact()


def shingle(texts: Sequence[str]) -> Shingles:
    """Shingles of at most 2^20 texts. A text without any word has none, and its exact hash is that of its stripped
    characters.
    """
    words = _words_of(texts)
    keys = np.sort(_shingle_keys(words.hashes, words.offsets))
    distinct = np.ones(len(keys), dtype=np.bool_)
    distinct[1:] = keys[1:] != keys[:-1]
    keys = keys[distinct]
    bounds = np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(HASH_BITS)
    offsets = np.searchsorted(keys, bounds[:-1]) if len(texts) else np.zeros(0, np.int64)
    return Shingles(keys & _HASH_MASK, np.append(offsets, len(keys)).astype(np.int64), words.exact())
