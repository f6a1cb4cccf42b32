"""How many samples of each source a batch gets, exactly, in integers.

Random draws miss a share of 0.2 in a batch of 256 by 2.5 points (one standard deviation) and never make up for it;
largest remainder without carry repeats the same error in every batch. Here the synthetic total is the nearest integer
of the integral of its share, and inside a kind the sources are unit jobs scheduled by earliest deadline, which keeps
each within one sample of its own integral at every step.

Why earliest deadline suffices: let X_i(n) be the integral of source i, its m-th sample released when X_i > m - 1 and
due when X_i >= m. In any window the jobs due number at most floor(sum of the growth of X_i) and the kind draws at least
that many; the jobs released always fill what the kind draws. Unit jobs with integer times are scheduled by earliest
deadline whenever that is possible at all (Horn 1974; the same argument as proportionate fairness, Baruah et al. 1996),
so no source leaves the interval [floor X_i, ceil X_i].
"""

import numpy as np

from trainer.base.records import SHARE_ONE, IntArray

MOST = SHARE_ONE - 1  # that a source may be behind or ahead, in millionths of a sample


def apportion(due: IntArray, weights: IntArray, count: int, unit: int) -> IntArray:
    """Split ``count`` samples over parts that are owed ``due`` (in 1/``unit`` of a sample) after growing by ``weights``
    in this batch: int64 counts that sum to ``count``.

    Each part first gets the whole samples it is owed; what is left goes to the parts whose next sample falls due
    soonest. Stays within one sample of every part's due as long as the deficits start within one sample and sum to the
    rest of the total (module docstring).
    """
    if len(due) == 1:
        return np.array([count], dtype=np.int64)
    counts: IntArray = np.maximum(due // unit, 0)
    rest = count - int(counts.sum())
    if rest:
        ahead = due - counts * unit
        open_ = np.flatnonzero(ahead > 0)
        deadline = -((ahead[open_] - unit) // weights[open_])
        counts[open_[np.lexsort((-ahead[open_], deadline))[:rest]]] += 1
    assert int(counts.sum()) == count, "the deficits of a kind must sum to the deficit of its total"
    return counts


def settle_deficits(deficits: IntArray, shares: IntArray, total: int, *, global_batch: int) -> IntArray:
    """Deficits to begin a new span with: as near to those carried as lets every source stay within one sample from here
    on.

    The deficits sum to ``total`` (at most half a sample). Carried ones are clipped to one sample, and what is missing
    is shared out in proportion to ``shares``. What sources are ahead by in all must be less than half a sample after
    the first batch: whoever is ahead cannot give back, so the others would be owed more than is drawn (sum of floor X_i
    over X_i >= 0 is at most floor(X + ahead), and floor(X + 1/2) are drawn). What is more comes off the others in
    proportion to ``shares``, so that many changes do not add up to a loss of a source that gets little; where they
    cannot give it, all shrink towards an even start.
    """
    weights = shares * global_batch  # what a batch adds to each source's integral
    settled = _with_total(np.clip(deficits, -MOST, MOST), shares, total)
    even = _with_total(np.zeros_like(deficits), shares, total)
    ahead, least = (int(-np.minimum(values + weights, 0).sum()) for values in (settled, even))
    room = max(0, SHARE_ONE // 2 - len(deficits) - least)  # a millionth each for rounding
    excess = ahead - least - room
    if excess <= 0:
        return settled
    after_first = settled + weights
    give = np.clip(np.minimum(after_first, settled + MOST), 0, None)
    if int(give.sum()) >= excess:
        behind = np.maximum(-after_first, 0)
        return settled + _shared(excess, behind, behind) - _shared(excess, shares, give)
    shrunk: IntArray = even + (settled - even) * room // (ahead - least)
    shrunk[np.argmax(shrunk)] += total - int(shrunk.sum())
    return shrunk


def _with_total(deficits: IntArray, shares: IntArray, total: int) -> IntArray:
    """``deficits`` with what is missing to ``total`` shared out in proportion to ``shares``,
    nobody beyond one sample.
    """
    missing = total - int(deficits.sum())
    room = MOST - deficits if missing > 0 else deficits + MOST
    parts = _shared(abs(missing), shares, room)
    return deficits + parts if missing > 0 else deficits - parts


def _shared(amount: int, weights: IntArray, room: IntArray) -> IntArray:
    """``amount`` in parts in proportion to ``weights``, none above its ``room``."""
    parts = np.zeros_like(room)
    while amount:
        open_ = np.flatnonzero(room > parts)
        part = amount * weights[open_] // int(weights[open_].sum())
        step = np.minimum(part, (room - parts)[open_])
        if not step.any():  # less than one millionth each: to the first with room
            step[0] = 1
        parts[open_] += step
        amount -= int(step.sum())
    return parts
