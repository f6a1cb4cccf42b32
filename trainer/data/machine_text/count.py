"""How much of a text is machine-written, by a calibrated count of its documents.

A document's score is the mean log-ratio of two n-gram models: of a reference text that a machine wrote, and of one that
people wrote. Above a threshold it counts as a hit. Single documents are told badly (on encyclopedia text 7 in 10 of the
machine's are hits, and 2 in 10 of people's), their number well: with TPR and FPR the parts of machine-written and of
real labeled documents that are hits, a text of which the part ``rate`` are hits has the share

    share = (rate - FPR) / (TPR - FPR)

of machine-written documents (Rogan and Gladen 1978), exactly on average where text and references are of one kind.
The reference documents are cut into folds: a fold's are scored by models of the others, and the threshold (largest
TPR - FPR) is that of the others too, so that no labeled document decides what it is counted by; a machine's document is
in the fold of the real one that it is nearest to (``relatives``). The interval resamples
the documents of the text and the labeled documents (percentile bootstrap).

What is found is text like this reference: of another machine's text fewer documents are hits than TPR says, and the
share is a lower bound.
"""

# F folds, N documents, B bootstrap samples

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.base.records import FloatArray, IntArray
from trainer.data.machine_text.account import ShareEstimate
from trainer.data.machine_text.relatives import relatives
from trainer.data.prior_value.counts import Counts, Documents, HeldOutText, nats

FOLDS = 4
NUM_SAMPLES = 2000
LEAST_SEPARATION = 0.1  # of TPR and FPR; under it the references cannot be told apart
FEWEST_DOCUMENTS = 8 * FOLDS


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Hits among the labeled documents, as 0 and 1."""

    real_hits: FloatArray
    machine_hits: FloatArray

    @property
    def separation(self) -> float:
        """TPR - FPR: 0 where the references cannot be told apart, 1 where every document can."""
        return float(self.machine_hits.mean() - self.real_hits.mean())

    @property
    def can_tell(self) -> bool:
        """Whether TPR - FPR is above ``LEAST_SEPARATION`` by two standard errors."""
        variance = sum(float(hits.var()) / len(hits) for hits in (self.machine_hits, self.real_hits))
        return bool(self.separation - 2 * variance**0.5 > LEAST_SEPARATION)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A text's documents: the mean score, and the part of the folds by which each is a hit."""

    scores: FloatArray
    hits: FloatArray


def score(
    real: Documents, machine: Documents, texts: Mapping[str, Documents], *, num_ids: int, seed: int
) -> tuple[Labeled, dict[str, Scored]]:
    """Scores the documents (token ids below ``num_ids``) of ``texts`` and of both references. ``ValueError`` where a
    reference has too few documents.
    """
    if min(len(real), len(machine)) < FEWEST_DOCUMENTS:
        raise ValueError(f"a reference has at least {FEWEST_DOCUMENTS} documents, got {len(real)} and {len(machine)}")
    every = [*real, *machine, *(document for text in texts.values() for document in text)]
    held_out, document_of = HeldOutText(every, num_ids), np.repeat(np.arange(len(every)), [len(d) for d in every])
    lengths_N = np.maximum(1, np.bincount(document_of, minlength=len(every)))
    rng = np.random.default_rng(seed)
    real_folds = rng.permutation(np.arange(len(real)) % FOLDS)
    relative = relatives(machine, real)
    machine_folds = np.where(relative >= 0, real_folds[relative], rng.permutation(np.arange(len(machine)) % FOLDS))
    scores_FN = np.empty((FOLDS, len(every)))
    for fold in range(FOLDS):
        losses = [
            _losses(held_out, part, folds != fold) for part, folds in ((real, real_folds), (machine, machine_folds))
        ]
        ratio = np.bincount(document_of, weights=losses[0] - losses[1], minlength=len(every))
        scores_FN[fold] = ratio / lengths_N
    folds = np.concatenate([real_folds, machine_folds])
    labeled, thresholds_F = _labeled(scores_FN[folds, np.arange(len(folds))], folds, num_real=len(real))
    scored, start = {}, len(folds)
    for name, text in texts.items():
        part_FN = scores_FN[:, start : start + len(text)]
        scored[name] = Scored(scores=part_FN.mean(0), hits=(part_FN > thresholds_F[:, None]).mean(0))
        start += len(text)
    return labeled, scored


def _losses(held_out: HeldOutText, reference: Documents, chosen: NDArray[np.bool_]) -> FloatArray:
    counted = Counts(held_out).add(
        [each for each, is_chosen in zip(reference, chosen.tolist(), strict=True) if is_chosen]
    )
    return nats(counted.looks(), held_out.num_ids)


def _labeled(scores_N: FloatArray, folds_N: IntArray, *, num_real: int) -> tuple[Labeled, FloatArray]:
    """Hits of the labeled documents, and the threshold of each fold: the best one for the documents of the others."""
    is_machine_N = np.arange(len(scores_N)) >= num_real
    thresholds_F = np.array([
        _threshold(scores_N[(folds_N != fold) & ~is_machine_N], scores_N[(folds_N != fold) & is_machine_N])
        for fold in range(FOLDS)
    ])  # fmt: skip
    hits_N = (scores_N > thresholds_F[folds_N]).astype(np.float64)
    return Labeled(real_hits=hits_N[:num_real], machine_hits=hits_N[num_real:]), thresholds_F


def _threshold(real_N: FloatArray, machine_N: FloatArray) -> float:
    """Where TPR - FPR is largest, of the scores themselves."""
    at_N = np.unique(np.concatenate([real_N, machine_N]))
    above = [1 - np.searchsorted(np.sort(part), at_N, side="right") / len(part) for part in (machine_N, real_N)]
    return float(at_N[np.argmax(above[0] - above[1])])


def estimate(labeled: Labeled, hits_N: FloatArray, *, seed: int, level: float = 0.95) -> ShareEstimate:
    """The share of machine-written documents among those with these hits, with its interval at ``level``."""
    rng = np.random.default_rng(seed)
    parts = (hits_N, labeled.machine_hits, labeled.real_hits)
    rate_B, tpr_B, fpr_B = (_resampled_means(part, rng) for part in parts)
    separation_B = np.maximum(tpr_B - fpr_B, LEAST_SEPARATION / 2)
    low, high = np.quantile((rate_B - fpr_B) / separation_B, [(1 - level) / 2, (1 + level) / 2])
    rate, tpr, fpr = (float(part.mean()) for part in parts)
    share = (rate - fpr) / max(tpr - fpr, LEAST_SEPARATION / 2)
    share, low, high = (float(np.clip(value, 0, 1)) for value in (share, low, high))
    return ShareEstimate(
        share=share,
        low=min(low, share),
        high=max(high, share),
        rate=rate,
        true_positive_rate=tpr,
        false_positive_rate=fpr,
        num_documents=len(hits_N),
    )


def _resampled_means(values_N: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Means [B] of as many values drawn with replacement."""
    levels, counts = np.unique(values_N, return_counts=True)
    drawn = rng.multinomial(len(values_N), counts / len(values_N), size=NUM_SAMPLES)
    return np.asarray(drawn @ levels / len(values_N))
