"""Whether generated text repeats the real training text: word for word, and closer than it is to held-out text."""

# R generated texts, D real documents

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.base.hashing import splitmix64
from trainer.data.documents import BATCH_DOCUMENTS
from trainer.data.shingles import Hashes, Ints, word_hashes
from trainer.synthesis.diversity import vectors

MOST_GRAMS = 1 << 25  # kept, 8 bytes each; of more text every second one, then every fourth
MOST_DOCUMENTS = 4096  # of each part: a cosine of each text and each document is held
NUM_GROUPS = 10
_BASE = 0x9E3779B97F4A7C15


class Verbatim:
    """The sequences of ``num_words`` words of a text, to find them again in another. Memory: 8 bytes a sequence.

    Of a large text only those are kept, and looked for, whose hash ends in zeros: which part of a text is found stays
    the same on average.
    """

    def __init__(self, num_words: int) -> None:
        self.num_words = num_words
        self._zeros = 0  # bits that are zero in every hash that is kept
        self._kept: Hashes = np.zeros(0, np.uint64)
        self._waiting: list[Hashes] = []
        self._num_waiting = 0
        self._batch: list[str] = []

    def add(self, text: str) -> None:
        """A text whose sequences are found from now on."""
        self._batch.append(text)
        if len(self._batch) == BATCH_DOCUMENTS:
            self._hash_batch()

    def _hash_batch(self) -> None:
        if self._batch:
            grams, _ = self._grams(self._batch)
            self._waiting.append(self._chosen(grams))
            self._num_waiting += len(grams)
            self._batch = []
        if self._num_waiting > MOST_GRAMS // 4:
            self._merge()

    def _merge(self) -> None:
        self._kept = np.unique(np.concatenate([self._kept, *self._waiting]))
        self._waiting, self._num_waiting = [], 0
        while len(self._kept) > MOST_GRAMS:
            self._zeros += 1
            self._kept = self._chosen(self._kept)

    def _chosen(self, grams: Hashes) -> Hashes:
        return grams[self._is_chosen(grams)]

    def _is_chosen(self, grams: Hashes) -> NDArray[np.bool_]:
        return np.asarray((grams & np.uint64((1 << self._zeros) - 1)) == 0)

    def _grams(self, texts: Sequence[str]) -> tuple[Hashes, Ints]:
        """The hashes of all sequences, and the text of each."""
        words, offsets = word_hashes(texts)
        text_of = np.repeat(np.arange(len(texts)), np.diff(offsets))
        last = len(words) - self.num_words + 1
        if last <= 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        inside = text_of[:last] == text_of[self.num_words - 1 :]
        total = np.zeros(last, np.uint64)
        for place in range(self.num_words):
            total = total * np.uint64(_BASE) + words[place : place + last]
        return splitmix64(total[inside]), text_of[:last][inside]

    def shares(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[R] the part of each text's sequences that were added; 0 for a text shorter than one."""
        self._hash_batch()
        self._merge()
        shares = [np.zeros(0)]
        for start in range(0, len(texts), BATCH_DOCUMENTS):
            batch = texts[start : start + BATCH_DOCUMENTS]
            grams, text_of = self._grams(batch)
            chosen = self._is_chosen(grams)
            grams, text_of = grams[chosen], text_of[chosen]
            places = np.minimum(np.searchsorted(self._kept, grams), max(0, len(self._kept) - 1))
            known = self._kept[places] == grams if len(self._kept) else np.zeros(len(grams), np.bool_)
            found, every = (np.bincount(text_of[part], minlength=len(batch)) for part in (known, slice(None)))
            shares.append(found / np.maximum(1, every))
        return np.concatenate(shares)


@dataclass(frozen=True, kw_only=True)
class Asymmetry:
    """The part of generated texts whose nearest real document is a training document rather than a held-out one of as
    many: one half where nothing was memorized. ``low`` and ``high``: 95 %, over texts and documents.
    """

    nearer_training: float
    low: float
    high: float
    num_texts: int
    num_documents: int

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)


def asymmetry(texts: Sequence[str], training: Sequence[str], held_out: Sequence[str], *, seed: int) -> Asymmetry | None:
    """By cosines of words and pairs of words; as many of each part are compared. None where there are
    too few.
    """
    rng = np.random.default_rng(seed)
    num = min(len(training), len(held_out), MOST_DOCUMENTS)
    if num < NUM_GROUPS or not texts:
        return None
    documents = [text for part in (training, held_out) for text in _drawn(part, num, rng)]
    split = [[text.lower().split() for text in part] for part in (texts, documents)]
    cosines_RD = (vectors(split[0]) @ vectors(split[1]).T).toarray()
    share = float(_nearer(cosines_RD, num, np.ones(num, np.bool_)).mean())
    error = 1.96 * _variance(cosines_RD, num, rng) ** 0.5
    return Asymmetry(
        nearer_training=round(share, 4),
        low=round(max(0.0, share - error), 4),
        high=round(min(1.0, share + error), 4),
        num_texts=len(texts),
        num_documents=num,
    )


def _drawn(texts: Sequence[str], num: int, rng: np.random.Generator) -> list[str]:
    return [texts[place] for place in rng.permutation(len(texts))[:num]]


def _nearer(cosines_RD: NDArray[np.float64], num: int, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[R] 1 where the nearest of the ``kept`` documents is in training, 0 where it is not, a half for both."""
    training, held_out = (cosines_RD[:, part][:, kept].max(axis=1) for part in (slice(num), slice(num, None)))
    return np.asarray(0.5 + 0.5 * np.sign(training - held_out))


def _variance(cosines_RD: NDArray[np.float64], num: int, rng: np.random.Generator) -> float:
    """Of the mean: over the texts, and over the documents by a jackknife that leaves out a group of both parts."""
    every = _nearer(cosines_RD, num, np.ones(num, np.bool_))
    groups = rng.permutation(num) % NUM_GROUPS
    without = np.array([_nearer(cosines_RD, num, groups != group).mean() for group in range(NUM_GROUPS)])
    of_documents = (len(without) - 1) / len(without) * float(((without - without.mean()) ** 2).sum())
    return float(every.var()) / len(every) + of_documents
