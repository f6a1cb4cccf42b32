"""Arithmetic of shares, in one place: rounding, who gets the share of a source that leaves, floors and ceilings.

Shares that are in force are integers in millionths that sum to one exactly, so nothing drifts, and what a recipe names
is kept as it is written. What is decided is rounded to thousandths, the same on every machine, unless a share that is
in force or written is finer: then to millionths, so that no decision rounds what it does not touch. Ties are broken by
value first and by declared order last, so that swapping the names of two sources swaps their shares. Everything else
here works in any unit.
"""

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from math import ceil, floor, fsum

import numpy as np

from trainer.base.records import SHARE_ONE, SHARE_STEP, Kind

HALF_A_MILLIONTH = 0.5 / SHARE_ONE
FUZZ = 1e-6  # of a step: what float arithmetic may leave below a whole number


def step_of(shares: Iterable[int]) -> int:
    """The step of what is decided where ``shares`` (millionths) are in force or written: a thousandth, or a millionth
    where one of them is no whole thousandth.
    """
    return 1 if any(share % SHARE_STEP for share in shares) else SHARE_STEP


def rounded(targets: Mapping[str, float], *, step: int = SHARE_STEP) -> dict[str, int]:
    """The whole steps (in millionths) nearest to ``targets``, in any unit; they sum to ``SHARE_ONE`` exactly.

    Largest remainders; a source with a positive target keeps at least one step, since only a zero means "never drawn".
    ``step``: thousandths, or ``step_of`` the shares in force, under which a whole target stays as it is. Raises
    ``ValueError`` for negative or non-finite targets, when all are zero, or when more sources are positive than there
    are steps.
    """
    total, num_steps = fsum(targets.values()), SHARE_ONE // step
    if not all(0 <= target < float("inf") for target in targets.values()) or not 0 < total < float("inf"):
        raise ValueError(f"shares must be finite, not negative, and not all zero, got {dict(targets)}")
    if sum(target > 0 for target in targets.values()) > num_steps:
        raise ValueError(f"at most {num_steps:,} sources can have a share of {step / SHARE_ONE:g} each")
    exact = {name: target / total * num_steps for name, target in targets.items()}
    whole = {name: max(1, floor(value + FUZZ)) if value > 0 else 0 for name, value in exact.items()}
    missing = num_steps - sum(whole.values())
    while missing:
        sign = 1 if missing > 0 else -1
        open_ones = [name for name in whole if (whole[name] > 1 if sign < 0 else exact[name] > 0)]
        neediest = max(open_ones, key=lambda name: _need(exact[name], whole[name], sign))
        whole[neediest] += sign
        missing -= sign
    return {name: count * step for name, count in whole.items()}


def _need(exact: float, whole: int, sign: int) -> tuple[bool, float, float]:
    """Which gets a step more (``sign`` 1) or less (-1) first: less comes off a whole target last."""
    touched = sign > 0 or abs(exact - round(exact)) > FUZZ
    return touched, sign * (exact - whole), exact


def millionths(shares: Mapping[str, float]) -> dict[str, int]:
    """``shares`` as the whole millionths that are written: 0.0004 is 400.

    Raises ``ValueError``, with the nearest that can be kept, where one is no whole millionth: nothing is rounded in
    silence. The sum is not looked at.
    """
    finer = [name for name, share in shares.items() if not is_whole(share)]
    if finer:
        nearest = rounded(shares, step=1)
        kept = ", ".join(f"{name}: {_plain(share)}" for name, share in nearest.items())
        raise ValueError(
            f"shares are kept in whole millionths, which {finer[0]}: {shares[finer[0]]:.12g} is not; "
            f"the nearest that can be kept are {{{kept}}}"
        )
    return {name: round(share * SHARE_ONE) for name, share in shares.items()}


def is_whole(share: float) -> bool:
    """Whether a share of one is a whole number of millionths, as far as floats can tell."""
    return abs(share * SHARE_ONE - round(share * SHARE_ONE)) <= FUZZ


def _plain(share: int) -> str:
    """Millionths as a recipe writes them: 400 -> "0.0004"."""
    return f"{share / SHARE_ONE:.6f}".rstrip("0").rstrip(".")


def rounded_up(share: float, step: int = SHARE_STEP) -> int:
    """A share of one in millionths, rounded up to whole steps."""
    return ceil(share * (SHARE_ONE // step) - FUZZ) * step


def rounded_down(share: float, step: int = SHARE_STEP) -> int:
    """A share of one in millionths, rounded down to whole steps."""
    return floor(share * (SHARE_ONE // step) + FUZZ) * step


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
    """``redistributed`` in whole steps of the shares; shares that lose nothing stay as they are."""
    if not any(shares.get(name, 0) > 0 for name in cut):
        return dict(shares)
    targets = redistributed(shares, cut, kinds)
    return None if targets is None else rounded(targets, step=step_of(shares.values()))


def without_within_kinds(
    shares: Mapping[str, int], cut: Collection[str], kinds: Mapping[str, Kind]
) -> dict[str, int] | None:
    """``shares`` with the sources of ``cut`` at 0 and each kind at exactly its share; None when a kind has none left.

    Differs from ``without`` on purpose: a cap on epochs must not change how much is synthetic, neither by rounding over
    both kinds together nor by giving to the other kind.
    """
    result: dict[str, int] = {}
    step = step_of(shares.values())
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
        counts = {source: int(value // step) * step for source, value in exact.items()}
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
