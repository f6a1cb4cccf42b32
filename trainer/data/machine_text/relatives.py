"""Which real document each machine-written one is nearest to, by the rare pairs of tokens that both have.

A machine's text about the subject of a real document shares its names. Where one of the two is in a model and the other
is scored by it, the score says "same subject" as well as "same writer", which no document of another text will have:
so both go to the same fold.
"""

import numpy as np
from scipy import sparse

from trainer.base.records import IntArray
from trainer.data.prior_value.counts import Documents

FEATURES = 1 << 18
COMMON_SHARE = 0.02  # of the documents: pairs of tokens that more of them have say nothing of the subject
LEAST_COSINE, STANDS_OUT = 0.1, 1.5  # unrelated introductions of Wikipedia: 0.09 at the median, 1.7 in one of ten
_ROWS = 256  # compared at a time: of all others, densely
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def relatives(documents: Documents, others: Documents) -> IntArray:
    """For each document the place among ``others`` of its relative, -1 where it has none.

    That is the one with the largest cosine of pairs of tokens, weighted by their rarity, if it stands out: if that is
    above ``LEAST_COSINE`` and ``STANDS_OUT`` times that of the next.
    """
    both = sparse.vstack([_pairs(documents), _pairs(others)], format="csr")
    num, in_documents = both.shape[0], np.bincount(both.indices, minlength=FEATURES)
    is_rare = in_documents <= max(2, COMMON_SHARE * num)
    weighted = both @ sparse.diags(np.where(is_rare, np.log(num / np.maximum(1, in_documents)), 0))
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    unit = sparse.diags(1 / np.maximum(norms, 1e-9)) @ weighted
    of_others = unit[len(documents) :].T.tocsr()
    found = np.full(len(documents), -1)
    for start in range(0, len(documents), _ROWS):
        cosines = (unit[start : min(start + _ROWS, len(documents))] @ of_others).toarray()
        best, rows = cosines.argmax(axis=1), np.arange(len(cosines))
        nearest = cosines[rows, best]
        cosines[rows, best] = 0
        stands_out = nearest > np.maximum(LEAST_COSINE, STANDS_OUT * cosines.max(axis=1))
        found[start : start + len(cosines)] = np.where(stands_out, best, -1)
    return found


def _pairs(documents: Documents) -> sparse.csr_matrix:
    """[N, FEATURES] whether a document has a pair of tokens that hashes to the feature."""
    rows = [np.unique(_hashed(ids)) for ids in documents]
    ends = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate([*rows, np.zeros(0, dtype=np.int64)])
    return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(rows), FEATURES))


def _hashed(ids: IntArray) -> IntArray:
    first, second = ids[:-1].astype(np.uint64), ids[1:].astype(np.uint64)
    mixed = (first * _SPREAD + second) * _SPREAD
    return (mixed >> np.uint64(64 - 18)).astype(np.int64)
