"""Finds held-out documents that also occur in training text, exactly or nearly, without ever holding the training
text.

A held-out figure means nothing when its documents were trained on, and synthetic text is the likeliest carrier: a
generator recites. So the index is built from the held-out documents (few), and training documents (many) are streamed
past it in batches.

Exact: equal sequences of words, whatever their case, punctuation, and white space. Near: Jaccard similarity of the
sets of word 3-grams at or above the threshold. Three, where datatrove takes five: on documents of 70 words two changed
words leave a similarity of 0.84 at three but only 0.74 at five, and short documents are the rule here.

Three gates, each cheaper than the next. (1) J(A, B) >= t implies that at least t of A's own shingles are in the
index, since |A and B| >= t |A or B| >= t |A|: exact, loses nothing, and stops nearly all text at the price of a table
look-up. (2) MinHash of what is left (rensa, 128 permutations, 32 bands of 4: misses a pair at J = 0.8 with probability
5e-8). (3) The true Jaccard decides. Hashing is vectorized over the batch; no Python runs per word. A hash of 44 bits
leaves 20 for the document's place in the batch, so one sort makes every document's shingles unique.
"""

# N documents, W words, S shingles of a batch

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import rensa
from numpy.typing import NDArray

from trainer.base.hashing import splitmix64

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

SHINGLE_WORDS = 3
PERMUTATIONS = 128
BANDS = 32
HASH_BITS = 44
MAX_BATCH_DOCUMENTS = 1 << (64 - HASH_BITS)
_HASH_MASK = np.uint64((1 << HASH_BITS) - 1)
_TABLE_SLOTS_PER_SHINGLE = (
    16  # one in 16 foreign shingles looks known: far below any sensible threshold, and 16 bytes a shingle
)

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


@dataclass(frozen=True)
class Match:
    """Training document ``document`` (its place in the batch) is held-out document ``held_out``."""

    document: int
    held_out: int
    kind: Literal["exact", "near"]


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


def shingle(texts: Sequence[str]) -> Shingles:
    """Shingles of at most 2^20 texts. A text without any word has none, and its exact hash is that of its stripped
    characters.
    """
    if len(texts) > MAX_BATCH_DOCUMENTS:
        raise ValueError(f"at most {MAX_BATCH_DOCUMENTS} texts in one batch, got {len(texts)}")
    encoded = [_normalized(text) for text in texts]
    data = np.frombuffer(b"\n".join(encoded), dtype=np.uint8)
    ends = np.cumsum(np.array([len(encoded_text) + 1 for encoded_text in encoded], dtype=np.int64))
    words, starts = _word_hashes(data)
    word_offsets = np.concatenate([np.zeros(1, np.int64), np.searchsorted(starts, ends)])
    place = np.arange(len(words)) - np.repeat(word_offsets[:-1], np.diff(word_offsets))
    running = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum(splitmix64(words + place.astype(np.uint64) * _PLACE_CODE), dtype=np.uint64)]
    )
    exact = splitmix64(running[word_offsets[1:]] - running[word_offsets[:-1]])
    for document in np.flatnonzero(np.diff(word_offsets) == 0):
        exact[document] = int.from_bytes(hashlib.blake2b(encoded[document].strip(), digest_size=8).digest(), "little")
    keys = np.sort(_shingle_keys(words, word_offsets))
    distinct = np.ones(len(keys), dtype=np.bool_)
    distinct[1:] = keys[1:] != keys[:-1]
    keys = keys[distinct]
    bounds = np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(HASH_BITS)
    offsets = np.searchsorted(keys, bounds[:-1]) if len(texts) else np.zeros(0, np.int64)
    return Shingles(keys & _HASH_MASK, np.append(offsets, len(keys)).astype(np.int64), exact)


def jaccard(left: Hashes, right: Hashes) -> float:
    """|A and B| / |A or B| of two sorted arrays of distinct hashes; 0 when both are empty."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def _band_keys(hashes: Hashes, offsets: Ints) -> Hashes:
    """[N, BANDS] keys: documents that agree in a key agree in four of the 128 minima."""
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, 17)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, BANDS, PERMUTATIONS // BANDS)
    keys = np.zeros(digests.shape[:2], dtype=np.uint64)
    for row in range(digests.shape[2]):
        keys = splitmix64(keys * _PLACE_CODE + digests[:, :, row])
    banded: Hashes = keys + np.arange(BANDS, dtype=np.uint64) * _PLACE_CODE
    return banded


class HeldOutIndex:
    """Held-out documents, ready to be recognized in training text.

    ``chunks`` are lists of texts; held-out documents are numbered in that order. Memory: about 32 bytes a distinct
    shingle.
    """

    def __init__(self, chunks: Iterable[Sequence[str]], threshold: float = 0.8) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}")
        self.threshold = threshold
        parts = [shingle(chunk) for chunk in chunks]
        counts = [np.diff(part.offsets) for part in parts]
        self.num_documents = sum(len(count) for count in counts)
        no_hashes = [np.zeros(0, np.uint64)]
        hashes = np.concatenate([part.hashes for part in parts] or no_hashes)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([*counts, np.zeros(0, np.int64)]))])
        exact = np.concatenate([part.exact for part in parts] or no_hashes)
        self._shingles = Shingles(hashes, offsets, exact)
        self._exact_order = np.argsort(exact, kind="stable")
        self._exact_sorted = exact[self._exact_order]
        self._table = np.zeros(1 << max(10, (len(hashes) * _TABLE_SLOTS_PER_SHINGLE - 1).bit_length()), dtype=np.bool_)
        self._slot_mask = np.uint64(len(self._table) - 1)
        self._table[hashes & self._slot_mask] = True
        bands = [_band_keys(part.hashes, part.offsets).ravel() for part in parts if len(part.exact)]
        keys = np.concatenate(bands or no_hashes)
        order = np.argsort(keys, kind="stable")
        self._band_keys, self._band_documents = keys[order], (order // BANDS).astype(np.int32)

    def match(self, texts: Sequence[str]) -> list[Match]:
        """The texts that are held-out documents, each with its most similar one, in the order of the texts."""
        if not texts or not self.num_documents:
            return []
        batch = shingle(texts)
        place = np.searchsorted(self._exact_sorted, batch.exact)
        place[place == len(self._exact_sorted)] = 0
        is_exact = self._exact_sorted[place] == batch.exact
        matches = [Match(int(i), int(self._exact_order[place[i]]), "exact") for i in np.flatnonzero(is_exact)]
        matches.extend(self._near(batch, np.flatnonzero(self._mostly_known(batch) & ~is_exact)))
        return sorted(matches, key=lambda match: match.document)

    def _mostly_known(self, batch: Shingles) -> NDArray[np.bool_]:
        known_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._table[batch.hashes & self._slot_mask])])
        distinct = np.diff(batch.offsets)
        num_known = known_before[batch.offsets[1:]] - known_before[batch.offsets[:-1]]
        mostly: NDArray[np.bool_] = (distinct > 0) & (num_known >= self.threshold * distinct - 1e-9)
        return mostly

    def _near(self, batch: Shingles, candidates: Ints) -> list[Match]:
        if not len(candidates):
            return []
        hashes = np.concatenate([batch.of(int(i)) for i in candidates])
        lengths = np.diff(batch.offsets)[candidates]
        keys = _band_keys(hashes, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
        low, high = np.searchsorted(self._band_keys, keys), np.searchsorted(self._band_keys, keys, side="right")
        matches: list[Match] = []
        for row, document in enumerate(candidates):
            spans = [self._band_documents[a:b] for a, b in zip(low[row], high[row], strict=True)]
            scored = [
                (jaccard(batch.of(int(document)), self._shingles.of(int(h))), -int(h))
                for h in np.unique(np.concatenate(spans))
            ]
            best, held_out = max(scored, default=(0.0, 0))
            if best >= self.threshold:
                matches.append(Match(int(document), -held_out, "near"))
        return matches
