"""Arithmetic of shares, in one place: rounding, who gets the share of a source that leaves, floors and ceilings.

Shares that are in force are integers in millionths that sum to one exactly, so nothing drifts; what is decided is
rounded to thousandths, the same on every machine. Ties are broken by value first and by declared order last, so that
swapping the names of two sources swaps their shares. Everything else here works in any unit.
"""

from collections.abc import Collection, Mapping
from fractions import Fraction
from math import ceil, floor, fsum

import numpy as np

from trainer.base.records import SHARE_ONE, SHARE_STEP, Kind

NUM_STEPS = SHARE_ONE // SHARE_STEP
FUZZ = 1e-6  # of a thousandth: what float arithmetic may leave below a whole number


def rounded(targets: Mapping[str, float], *, step: int = SHARE_STEP) -> dict[str, int]:
    """The whole thousandths (in millionths) nearest to ``targets``, in any unit; they sum to ``SHARE_ONE`` exactly.

    Largest remainders; a source with a positive target keeps at least one thousandth, since only a zero means "never
    drawn". Raises ``ValueError`` for negative or non-finite targets, when all are zero, or when more than 1,000 sources
    are positive. ``step``: another grid than thousandths, in millionths.
    """
    total, num_steps = fsum(targets.values()), SHARE_ONE // step
    if not all(0 <= target < float("inf") for target in targets.values()) or not 0 < total < float("inf"):
        raise ValueError(f"shares must be finite, not negative, and not all zero, got {dict(targets)}")
    if sum(target > 0 for target in targets.values()) > num_steps:
        raise ValueError(f"at most {num_steps} sources can have a share of a thousandth each")
    exact = {name: target / total * num_steps for name, target in targets.items()}
    whole = {name: max(1, floor(value + FUZZ)) if value > 0 else 0 for name, value in exact.items()}
    missing = num_steps - sum(whole.values())
    while missing:
        sign = 1 if missing > 0 else -1
        open_ones = [name for name in whole if (whole[name] > 1 if sign < 0 else exact[name] > 0)]
        neediest = max(open_ones, key=lambda name: (sign * (exact[name] - whole[name]), exact[name]))
        whole[neediest] += sign
        missing -= sign
    return {name: count * step for name, count in whole.items()}


def millionths(shares: Mapping[str, float]) -> dict[str, int]:
    """``shares`` that sum to one as whole millionths that do so exactly: 0.0004 is 400, never rounded to thousandths.

    Raises ``ValueError`` for a positive share that is less than a millionth, naming what can be kept.
    """
    for name, share in shares.items():
        if 0 < share < (1 - FUZZ) / SHARE_ONE:
            raise ValueError(f"shares.{name} is {share:g}; the least share that can be kept is {1 / SHARE_ONE:g}")
    return rounded(shares, step=1)


def thousandths_up(share: float) -> int:
    """A share of one in millionths, rounded up to whole thousandths."""
    return ceil(share * NUM_STEPS - FUZZ) * SHARE_STEP


def thousandths_down(share: float) -> int:
    """A share of one in millionths, rounded down to whole thousandths."""
    return floor(share * NUM_STEPS + FUZZ) * SHARE_STEP


def redistributed(
    shares: Mapping[str, float], cut: Collection[str], kinds: Mapping[str, Kind]
) -> dict[str, float] | None:
    """``shares`` with the sources of ``cut`` at 0: what they had goes to the rest of their kind in proportion.

    A kind with nothing left gives its part to the other kind. In any unit; the sum stays. None when nothing at all
    would be left to train on.
    """
    rest = {name: float(share) for name, share in shares.items() if name not in cut and share > 0}
    if not rest:
        return None
    losers = [name for name in cut if shares.get(name, 0) > 0]
    of_kind = {
        kind: fsum(share for name, share in rest.items() if kinds[name] == kind) for kind in ("real", "synthetic")
    }
    freed = {kind: fsum(shares[name] for name in losers if kinds[name] == kind) for kind in ("real", "synthetic")}
    targets = dict.fromkeys(shares, 0.0)
    for name, share in rest.items():
        kind = kinds[name]
        other = "synthetic" if kind == "real" else "real"
        total = of_kind[kind] + freed[kind] + (freed[other] if of_kind[other] == 0 else 0.0)
        targets[name] = share / of_kind[kind] * total
    return targets


def without(shares: Mapping[str, int], cut: Collection[str], kinds: Mapping[str, Kind]) -> dict[str, int] | None:
    """``redistributed`` in whole thousandths; shares that lose nothing stay as they are."""
    if not any(shares.get(name, 0) > 0 for name in cut):
        return dict(shares)
    targets = redistributed(shares, cut, kinds)
    return None if targets is None else rounded(targets)


def without_within_kinds(
    shares: Mapping[str, int], cut: Collection[str], kinds: Mapping[str, Kind]
) -> dict[str, int] | None:
    """``shares`` with the sources of ``cut`` at 0 and each kind at exactly its share; None when a kind has none left.

    Differs from ``without`` on purpose: a cap on epochs must not change how much is synthetic, neither by rounding over
    both kinds together nor by giving to the other kind.
    """
    result: dict[str, int] = {}
    for kind in ("real", "synthetic"):
        total = sum(share for source, share in shares.items() if kinds[source] == kind)
        remaining = {
            source: share
            for source, share in shares.items()
            if kinds[source] == kind and source not in cut and share > 0
        }
        if total and not remaining:
            return None
        exact = {source: Fraction(total * share, sum(remaining.values())) for source, share in remaining.items()}
        counts = {source: int(value // SHARE_STEP) * SHARE_STEP for source, value in exact.items()}
        for source in sorted(exact, key=lambda source: counts[source] - exact[source])[: 1 if remaining else 0]:
            counts[source] += total - sum(counts.values())
        result |= {source: counts.get(source, 0) for source in shares if kinds[source] == kind}
    return {source: result[source] for source in shares}


def with_real(shares: Mapping[str, float], kinds: Mapping[str, Kind], real: float) -> dict[str, float]:
    """``shares`` scaled within each kind: real sources have ``real`` of one together, synthetic ones the rest."""
    target = {"real": real, "synthetic": 1 - real}
    before = {kind: fsum(share for name, share in shares.items() if kinds[name] == kind) for kind in target}
    return {
        name: share / before[kinds[name]] * target[kinds[name]] if share > 0 else 0.0 for name, share in shares.items()
    }


def within(
    weights: Mapping[str, float], floors: Mapping[str, float], ceilings: Mapping[str, float], *, total: float
) -> dict[str, float]:
    """Shares that sum to ``total`` in proportion to ``weights`` as far as floors and ceilings allow (water-filling).

    s_k = min(c_k, max(f_k, scale w_k)) with the scale that makes the sum; where the bounds cannot meet the total they
    give way in proportion. Sources without a weight get 0.
    """
    names = [name for name, weight in weights.items() if weight > 0]
    if not names or total <= 0:
        return dict.fromkeys(weights, 0.0)
    weight, least, most = (np.array([table[name] for name in names]) for table in (weights, floors, ceilings))
    if least.sum() >= total:
        share = least * total / least.sum()
    elif most.sum() <= total:
        share = most * total / most.sum()
    else:
        turns = np.sort(np.concatenate([least / weight, most / weight]))
        sums = np.array([np.clip(turn * weight, least, most).sum() for turn in turns])
        share = np.clip(float(np.interp(total, sums, turns)) * weight, least, most)
    return {**dict.fromkeys(weights, 0.0), **dict(zip(names, share.tolist(), strict=True))}


def filled(amount: float, weights: Mapping[str, float], room: Mapping[str, float]) -> dict[str, float]:
    """``amount`` divided in proportion to ``weights``, nobody above their ``room``; what finds no room is left over."""
    room = {name: room[name] for name in weights}
    return within(weights, dict.fromkeys(weights, 0.0), room, total=min(amount, fsum(room.values())))
