"""Rounding of shares to thousandths, for recipes and decisions alike.

Shares are integers in millionths that sum to one exactly, so nothing drifts; what is decided is rounded to thousandths,
the same on every machine. Ties are broken by value first and by declared order last, so that swapping the names of two
sources swaps their shares.
"""

from collections.abc import Mapping
from math import floor, fsum

from trainer.base.records import SHARE_ONE, SHARE_STEP

NUM_STEPS = SHARE_ONE // SHARE_STEP
FUZZ = 1e-6  # of a thousandth: what float arithmetic may leave below a whole number


def rounded(targets: Mapping[str, float]) -> dict[str, int]:
    """The whole thousandths (in millionths) nearest to ``targets``, in any unit; they sum to ``SHARE_ONE`` exactly.

    Largest remainders; a source with a positive target keeps at least one thousandth, since only a zero means "never
    drawn". Raises ``ValueError`` for negative or non-finite targets, when all are zero, or when more than 1,000 sources
    are positive.
    """
    total = fsum(targets.values())
    if not all(0 <= target < float("inf") for target in targets.values()) or not 0 < total < float("inf"):
        raise ValueError(f"shares must be finite, not negative, and not all zero, got {dict(targets)}")
    if sum(target > 0 for target in targets.values()) > NUM_STEPS:
        raise ValueError(f"at most {NUM_STEPS} sources can have a share of a thousandth each")
    exact = {name: target / total * NUM_STEPS for name, target in targets.items()}
    whole = {name: max(1, floor(value + FUZZ)) if value > 0 else 0 for name, value in exact.items()}
    missing = NUM_STEPS - sum(whole.values())
    while missing:
        sign = 1 if missing > 0 else -1
        open_ones = [name for name in whole if (whole[name] > 1 if sign < 0 else exact[name] > 0)]
        neediest = max(open_ones, key=lambda name: (sign * (exact[name] - whole[name]), exact[name]))
        whole[neediest] += sign
        missing -= sign
    return {name: count * SHARE_STEP for name, count in whole.items()}
