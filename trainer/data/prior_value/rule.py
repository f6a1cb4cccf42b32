"""The rule: merge counts of a source with those of half of the real text, and read off a learning curve of real text
how many real tokens would predict the validation documents as well.

Real text in random order is halved: A is the base, B is kept for what fresh real text would have done. As many tokens
of the source as A has are counted with one weight, chosen on one half of the validation blocks and read off on the
other. With the loss that this gives, ``value = (tokens on the learning curve of real text - tokens of A) / tokens of
the source``. Several random halvings; the error is that over them and over eight groups of validation blocks.

Nearest in print: mixtures of small experts as proxies of data mixtures (MDE, arXiv 2502.15950; MixMin, 2502.10510);
the contrast with a source's own shuffled copy is ours.
"""

# P held-out positions, F groups of validation blocks

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.base.hashing import derived_rng
from trainer.base.records import FloatArray, IntArray
from trainer.data.prior_value.counts import Counts, Documents, HeldOutText, Looks, nats, nats_together
from trainer.data.prior_value.record import LEAST_ERROR, LEAST_VALUE, PriorValue

SAMPLE_TOKENS = 5_000_000  # of real text, and of a source, at most
VALIDATION_TOKENS = 24_000
BLOCK_TOKENS = 500  # of validation text that fall into the same group
GROUPS = 8  # F: even ones choose the weight for odd ones, and the other way round
WEIGHTS = (0.0, 0.03, 0.1, 0.25, 0.5, 1.0)
CURVE = (-1.5, -1.0, -0.75, -0.5, 0.0)  # octaves of real text that its learning curve is measured at; -1 is the base A
MOST_HALVINGS, LEAST_HALVINGS, HALVED_TOKENS = 3, 2, 6_000_000  # of random halvings, and of their real tokens together
MOST_MEASURED, MOST_EFOLDS = 100.0, 20.0  # where a loss lies far beyond the learning curve
LEAST_FALL = 0.01  # nats per e-fold of real text: where it teaches less, nothing is said in tokens of it
# Of less text than this nothing is said.
LEAST_REAL, LEAST_SOURCE, LEAST_VALIDATION = 4_000, 500, 1_000
LONGEST_WORD = 8  # tokens on average, where a language is written with spaces
LEAST_ORDER_NATS = 0.02  # that word order of real text must be worth before another's is held against it


@dataclass(frozen=True)
class _Curve:
    """Loss of real text alone: at the base, and its fall per e-fold of real tokens around it."""

    base_tokens: int
    base_loss: float
    fall: float

    def tokens_at(self, loss: float) -> float:
        """Real tokens that reach ``loss``."""
        return self.base_tokens * exp(min((self.base_loss - loss) / self.fall, MOST_EFOLDS))


@dataclass(frozen=True)
class _Halving:
    """One random halving: A with its looks and loss, B, and the learning curve by group of blocks."""

    base: Counts
    looks: Looks  # of the base
    base_tokens: int
    other: Documents  # B
    places: IntArray  # of the documents of B that are whole, in the real text
    sizes: tuple[int, ...]
    curve: FloatArray  # sums of losses [sizes, F]
    alone: FloatArray  # that of the base [F]

    def others_at(self, places: range) -> Documents:
        """The whole documents of B that stand at ``places`` of the real text."""
        whole = self.other[len(self.other) - len(self.places) :]
        return [document for document, place in zip(whole, self.places.tolist(), strict=True) if place in places]


class RealText:
    """The real text of a run, cut in halves, that sources are held against.

    ``word_starts`` [ids]: whether a token begins a word; the words of a document are what the contrast shuffles, its
    single tokens without it.
    """

    def __init__(
        self, real: Documents, validation: Documents, seed: int, *, word_starts: NDArray[np.bool_] | None = None
    ) -> None:
        self._seed = seed
        order = derived_rng(seed, "prior value", "validation").permutation(len(validation))
        held_out = _first_tokens([validation[place] for place in order], VALIDATION_TOKENS)
        self._num_ids = 1 + max((int(document.max()) for document in (*real, *held_out) if len(document)), default=1)
        self._held_out = HeldOutText(held_out, self._num_ids)
        self._word_starts = word_starts if _has_words(held_out, word_starts) else None
        block = min(BLOCK_TOKENS, max(1, self._held_out.num_positions // (4 * GROUPS)))
        self._group = np.arange(self._held_out.num_positions) // block % GROUPS
        self._sizes_F = np.bincount(self._group, minlength=GROUPS).astype(np.float64)
        total = min(sum(len(document) for document in real), SAMPLE_TOKENS)
        self.is_enough = total >= LEAST_REAL and self._held_out.num_positions >= LEAST_VALIDATION
        num = min(MOST_HALVINGS, max(LEAST_HALVINGS, HALVED_TOKENS // max(1, total)))
        self._halvings = [self._halved(real, total, number) for number in range(num)] if self.is_enough else []
        falls = [self._curve(halving, range(GROUPS)).fall for halving in self._halvings]
        self.is_enough &= bool(falls) and min(falls) > LEAST_FALL
        self._order_of_real: float | None = None

    @property
    def sample_tokens(self) -> int:
        """Tokens of a source that are held against this text at most, in all halvings together."""
        return sum(halving.base_tokens for halving in self._halvings)

    def value_of(self, source: Documents) -> PriorValue | None:
        """Value of a token of a source beside this real text; None where there is too little text of any to say."""
        if not self.is_enough or sum(len(document) for document in source) < LEAST_SOURCE:
            return None
        return self._value(
            [self._sample(source, each.base_tokens, number) for number, each in enumerate(self._halvings)]
        )

    def value_of_part(self, places: range) -> PriorValue | None:
        """Value of a token of the real documents at ``places`` beside all of them; those in B alone are held against
        A.
        """
        parts = [_first_tokens(each.others_at(places), each.base_tokens) for each in self._halvings]
        if not parts or min(sum(len(document) for document in part) for part in parts) < LEAST_SOURCE:
            return None
        return self._value(parts)

    def _value(self, samples: Sequence[Documents]) -> PriorValue:
        """Value of the token of a source, of which there is a sample for each halving."""
        by_halving, weights, errors, gains = [], [], [], []
        for halving, sample in zip(self._halvings, samples, strict=True):
            counts = Counts(self._held_out).add(sample)
            rows = self._merged(halving, counts)
            value, error, weight = self._measured(halving, rows, sum(len(document) for document in sample))
            gains.append(self._gain(halving, rows))
            by_halving.append(value)
            errors.append(error)
            weights.append(weight)
        measured = min(float(np.mean(by_halving)), MOST_MEASURED)
        error = float(np.hypot(np.sqrt(np.mean(np.square(errors))), np.std(by_halving, ddof=1)))
        return PriorValue(
            mean=min(max(measured, LEAST_VALUE), 1.0),
            error=max(error, LEAST_ERROR),
            measured=measured,
            weight=float(np.mean(weights)),
            order_contrast=self._order_contrast(samples[0], gains[0]),
            real_tokens=self._halvings[0].base_tokens,
            source_tokens=sum(len(document) for document in samples[0]),
            validation_tokens=self._held_out.num_positions,
        )

    def _halved(self, real: Documents, total: int, number: int) -> _Halving:
        order = derived_rng(self._seed, "prior value", "halving", number).permutation(len(real))
        shuffled = _first_tokens([real[place] for place in order], total)
        counts, curve, base, sizes, start = Counts(self._held_out), [], None, [], 0
        for octaves in CURVE:
            end = int(total * 2**octaves)
            looks = counts.add(_cut(shuffled, start, end)).looks()
            curve.append(self._by_group(nats(looks, self._num_ids)))
            sizes.append(end)
            if octaves == -1.0:
                base = counts.copy(), looks
            start = end
        assert base is not None
        alone = curve[CURVE.index(-1.0)]
        base_tokens = sizes[CURVE.index(-1.0)]
        other = _cut(shuffled, base_tokens, total)
        begins = np.cumsum([0, *(len(document) for document in shuffled)])[:-1]
        whole = order[: len(shuffled)][begins >= base_tokens]
        return _Halving(*base, base_tokens, other, whole, tuple(sizes), np.array(curve), alone)

    def _sample(self, source: Documents, most: int, number: int) -> Documents:
        """Random documents of a source, as many tokens as the base has if there are so many."""
        order = derived_rng(self._seed, "prior value", "source", number).permutation(len(source))
        sample = _first_tokens([source[place] for place in order], most)
        return [np.minimum(document.astype(np.int64), self._num_ids) for document in sample]  # ids no real text has

    def _by_group(self, loss_P: FloatArray) -> FloatArray:
        """Sums [F] of the losses at the positions of each group."""
        sums: FloatArray = np.bincount(self._group, weights=loss_P, minlength=GROUPS).astype(np.float64)
        return sums

    def _mean(self, sums_F: FloatArray, groups: Sequence[int]) -> float:
        return float(sums_F[groups].sum() / self._sizes_F[groups].sum())

    def _measured(self, halving: _Halving, rows: FloatArray, tokens: int) -> tuple[float, float, float]:
        """Value of a token of a sample, its jackknife error over groups of blocks, and the mean weight."""
        weights = self._weights(rows)

        def value(left_out: int | None) -> float:
            values = []
            for parity in (0, 1):
                groups = [group for group in range(GROUPS) if group % 2 != parity and group != left_out]
                curve = self._curve(halving, groups)
                loss = self._mean(rows[weights[parity]], groups)
                values.append((curve.tokens_at(loss) - halving.base_tokens) / tokens)
            return float(np.mean(values))

        parts = [value(group) for group in range(GROUPS)]
        return value(None), float(np.std(parts) * (GROUPS - 1) ** 0.5), float(np.mean([WEIGHTS[w] for w in weights]))

    def _merged(self, halving: _Halving, counts: Counts) -> FloatArray:
        """Sums of losses [weights, F] of the base with a sample at every weight."""
        looks, shared = counts.looks(), counts.shared_with(halving.base)
        merged = (nats_together(halving.looks, looks, shared, weight, self._num_ids) for weight in WEIGHTS[1:])
        return np.array([halving.alone, *(self._by_group(loss_P) for loss_P in merged)])

    def _weights(self, rows: FloatArray) -> list[int]:
        """The best weight by the even groups, and by the odd ones, as places in ``WEIGHTS``."""
        halves = [[group for group in range(GROUPS) if group % 2 == parity] for parity in (0, 1)]
        return [int(np.argmin([self._mean(row, groups) for row in rows])) for groups in halves]

    def _curve(self, halving: _Halving, groups: Sequence[int]) -> _Curve:
        """A straight line in log tokens through the base, as a curve is within an octave or two."""
        losses = np.array([self._mean(sums_F, groups) for sums_F in halving.curve])
        base = CURVE.index(-1.0)
        efolds, falls = np.log(np.array(halving.sizes) / halving.base_tokens), losses[base] - losses
        fall = float(efolds @ falls / (efolds @ efolds))
        return _Curve(halving.base_tokens, float(losses[base]), max(fall, LEAST_FALL))

    def _order_contrast(self, sample: Documents, gain: float) -> float | None:
        """What shuffling its words takes from the ``gain`` of a sample, over what it takes from as much real text."""
        halving, tokens = self._halvings[0], sum(len(document) for document in sample)
        if tokens < halving.base_tokens // 2:  # a small lot is held against as little real text
            real = self._real_order(_first_tokens(halving.other, tokens))
        else:
            self._order_of_real = (
                self._real_order(halving.other) if self._order_of_real is None else self._order_of_real
            )
            real = self._order_of_real
        is_known = real >= LEAST_ORDER_NATS * min(1.0, tokens / halving.base_tokens)
        return (gain - self._gain_shuffled(halving, sample)) / real if is_known else None

    def _real_order(self, other: Documents) -> float:
        """What shuffling their words takes from the gain of documents of B, in nats per validation token."""
        halving = self._halvings[0]
        rows = self._merged(halving, Counts(self._held_out).add(other))
        return self._gain(halving, rows) - self._gain_shuffled(halving, other)

    def _gain_shuffled(self, halving: _Halving, sample: Documents) -> float:
        """The gain of a sample whose words are shuffled."""
        order = derived_rng(self._seed, "prior value", "shuffled")
        shuffled = [shuffled_words(document, self._word_starts, order) for document in sample]
        return self._gain(halving, self._merged(halving, Counts(self._held_out).add(shuffled)))

    def _gain(self, halving: _Halving, rows: FloatArray) -> float:
        """Loss per validation token of the base alone, less that with a sample at the weight that others chose."""
        sums_F = np.empty(GROUPS)
        for parity, weight in enumerate(self._weights(rows)):
            others = [group for group in range(GROUPS) if group % 2 != parity]
            sums_F[others] = rows[weight][others]
        everything = range(GROUPS)
        return self._mean(halving.alone, everything) - self._mean(sums_F, everything)


def prior_value(
    real: Documents,
    source: Documents,
    validation: Documents,
    seed: int,
    *,
    word_starts: NDArray[np.bool_] | None = None,
) -> PriorValue | None:
    """Value of a token of ``source``, in fresh real tokens, for a run that trains on ``real`` and is judged by
    ``validation``, each a list of the token ids of its documents; None where there is too little text to say.

    For several sources make one ``RealText`` and ask it for each.
    """
    return RealText(real, validation, seed, word_starts=word_starts).value_of(source)


def shuffled_words(
    document: NDArray[Any], word_starts: NDArray[np.bool_] | None, order: np.random.Generator
) -> IntArray:
    """The words of a document in random order; its tokens, where no token is known to begin a word."""
    ids = np.asarray(document, dtype=np.int64)
    if word_starts is None:
        return order.permutation(ids)
    begins = word_starts[np.minimum(ids, len(word_starts) - 1)].copy()
    begins[:1] = True
    word = np.cumsum(begins) - 1
    rank = order.permutation(int(begins.sum()))
    return ids[np.argsort(rank[word], kind="stable")]


def _has_words(documents: Documents, word_starts: NDArray[np.bool_] | None) -> bool:
    """Whether the text is written in words that ``word_starts`` tells."""
    if word_starts is None or not documents:
        return False
    ids = np.minimum(np.concatenate(documents).astype(np.int64), len(word_starts) - 1)
    return bool(word_starts[ids].mean() > 1 / LONGEST_WORD)


def _first_tokens(documents: Documents, most: int) -> Documents:
    """Documents up to so many tokens; the last one is cut."""
    return _cut(documents, 0, most)


def _cut(documents: Documents, start: int, end: int) -> Documents:
    """Tokens ``start`` to ``end`` of the documents, as documents."""
    parts, place = [], 0
    for document in documents:
        first, last = max(start - place, 0), min(end - place, len(document))
        if first < last:
            parts.append(document[first:last])
        place += len(document)
        if place >= end:
            break
    return parts
