"""How diverse the texts of a round are, by n-grams, beside as much real text.

- distinct-n (Li et al. 2016, arXiv:1510.03055): different n-grams of words, as a part of a fixed number of them.
- self-BLEU (Zhu et al. 2018, arXiv:1802.01886): BLEU-4 of a text against all others, on average; 1 where all say the
  same.
- Vendi score (Friedman and Dieng 2023, arXiv:2210.02410): how many entirely different texts they amount to; the
  exponential of the entropy of the eigenvalues of their similarities (cosine of words and pairs of words).
- tail coverage: of the occurrences of rare words in real text, the part whose word the texts have at all.

Every figure depends on how much text it is measured on, so texts and real text are cut to the same size.
"""

# N texts

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse

from trainer.base.records import FloatArray

DISTINCT_WORDS, BLEU_WORDS = 3, 4
FEATURES = 1 << 16
TAIL = 0.2  # of the occurrences of words: those of the rarest words


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """The figures of one body of text."""

    distinct: float
    self_bleu: float
    vendi: float
    tail_coverage: float | None  # None without real text

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**record)


def compared(texts: Sequence[str], real: Sequence[str], *, most: int, seed: int) -> tuple[Diversity, Diversity | None]:
    """The figures of ``texts`` and of as much real text, from at most ``most`` texts of each; None where there is no
    real text. The tail is that of real text that neither of the two is measured on.
    """
    rng = np.random.default_rng(seed)
    chosen = [texts[place].lower().split() for place in rng.permutation(len(texts))[:most]]
    others = [real[place].lower().split() for place in rng.permutation(len(real))]
    half = min(len(chosen), len(others) // 2)
    if not half:
        return _measured(chosen, None, sum(map(len, chosen))), None
    num_words = min(sum(map(len, chosen)), sum(map(len, others[:half])))
    return tuple(_measured(words, others[half:], num_words) for words in (chosen[:half], others[:half]))  # type: ignore[return-value]


def _measured(words: Sequence[Sequence[str]], real: Sequence[Sequence[str]] | None, num_words: int) -> Diversity:
    return Diversity(
        distinct=distinct(words, DISTINCT_WORDS, num_words),
        self_bleu=self_bleu(words),
        vendi=vendi(words),
        tail_coverage=None if real is None else tail_coverage(words, real, num_words),
    )


def _grams(words: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(length)), strict=False)


def distinct(texts: Sequence[Sequence[str]], length: int, num_grams: int) -> float:
    """Different n-grams as a part of the first ``num_grams``."""
    seen: set[tuple[str, ...]] = set()
    number = 0
    for words in texts:
        for gram in _grams(words, length):
            if number == num_grams:
                return len(seen) / number
            seen.add(gram)
            number += 1
    return len(seen) / number if number else 0.0


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Mean BLEU-4 of each text against all others (Papineni et al. 2002), a half in the place of zero matches."""
    if len(texts) < 2:
        return 0.0
    log_precision = np.zeros(len(texts))
    for length in range(1, BLEU_WORDS + 1):
        counts = [Counter(_grams(words, length)) for words in texts]
        best, second = _two_largest(counts)
        for place, own in enumerate(counts):
            matched = sum(
                min(count, second.get(gram, 0) if best[gram] == (count, place) else best[gram][0])
                for gram, count in own.items()
            )
            total = max(1, sum(own.values()))
            log_precision[place] += np.log(max(matched, 0.5) / total) / BLEU_WORDS
    lengths = np.array([len(words) for words in texts])
    return float((np.minimum(1, np.exp(log_precision)) * _brevity(lengths)).mean())


def _two_largest(counts: Sequence[Counter[tuple[str, ...]]]) -> tuple[dict[Any, tuple[int, int]], dict[Any, int]]:
    """Of each n-gram the largest count in a text with the first text that has it, and the largest in the others."""
    best: dict[tuple[str, ...], tuple[int, int]] = {}
    second: dict[tuple[str, ...], int] = {}
    for place, own in enumerate(counts):
        for gram, count in own.items():
            before = best.get(gram)
            if before is None:
                best[gram] = (count, place)
            elif count > before[0]:
                best[gram], second[gram] = (count, place), before[0]
            else:
                second[gram] = max(second.get(gram, 0), count)
    return best, second


def _brevity(lengths: np.ndarray[Any, Any]) -> FloatArray:
    """The penalty of a text shorter than the other that is closest in length."""
    order = np.argsort(lengths, kind="stable")
    placed = lengths[order].astype(float)
    before, after = np.append(-np.inf, placed[:-1]), np.append(placed[1:], np.inf)
    closest = np.where(placed - before <= after - placed, before, after)
    penalty = np.where(placed >= closest, 1.0, np.exp(1 - closest / np.maximum(placed, 1)))
    unordered = np.empty(len(lengths))
    unordered[order] = penalty
    return unordered


def vectors(texts: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """[N, FEATURES] of length 1: square roots of the counts of words and pairs of words, hashed."""
    rows, columns, values = [], [], []
    for place, words in enumerate(texts):
        keys = Counter(zlib.crc32(" ".join(gram).encode()) % FEATURES for n in (1, 2) for gram in _grams(words, n))
        rows += [place] * len(keys)
        columns += list(keys)
        values += list(keys.values())
    matrix = sparse.csr_matrix((np.sqrt(values), (rows, columns)), shape=(len(texts), FEATURES))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.diags(1 / np.maximum(norms, 1e-9)) @ matrix


def vendi(texts: Sequence[Sequence[str]]) -> float:
    """exp(entropy) of the eigenvalues of the texts' cosines over N: from 1 (all the same) to N."""
    if not texts:
        return 0.0
    unit = vectors(texts)
    values = np.linalg.eigvalsh((unit @ unit.T).toarray() / len(texts))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def tail_coverage(texts: Sequence[Sequence[str]], real: Sequence[Sequence[str]], num_words: int) -> float:
    """Of the occurrences of the rarest words of ``real`` (the last ``TAIL`` of all), the part whose word is among the
    first ``num_words`` words of the texts.
    """
    counts = Counter(word for words in real for word in words)
    budget, tail = TAIL * sum(counts.values()), Counter[str]()
    for word, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        if budget <= 0:
            break
        tail[word] = count
        budget -= count
    known: set[str] = set()
    left = num_words
    for words in texts:
        known.update(words[:left])
        left -= len(words[:left])
        if left <= 0:
            break
    total = sum(tail.values())
    return sum(count for word, count in tail.items() if word in known) / total if total else 0.0
