"""The shares when a generation joins: its source gets its part from all others, and real data keep theirs."""

from collections.abc import Mapping
from fractions import Fraction

from trainer.base.records import SHARE_ONE, Kind
from trainer.mixture.shares import rounded, step_of


def with_made_source(
    shares: Mapping[str, int], kinds: Mapping[str, Kind], source: str, *, share: float, real_floor: float
) -> dict[str, int]:
    """``shares`` (millionths) with ``source`` at ``share``, taken from all others in proportion to what they have.

    It gets less where the real sources together would fall below ``real_floor``, and nothing where they are there
    already; what they have below it is none of this rule's doing and stays.
    """
    real = sum(value for name, value in shares.items() if kinds[name] == "real")
    others = sum(value for name, value in shares.items() if name != source)
    if not real or not others:
        return dict(shares)
    most = 1 - Fraction(real_floor).limit_denominator(SHARE_ONE) * others / real  # real * (1 - most) = floor
    given = min(Fraction(share).limit_denominator(SHARE_ONE), most)
    if given <= 0:
        return dict(shares)
    targets = {name: float(Fraction(value, others) * (1 - given)) for name, value in shares.items() if name != source}
    step = step_of([*shares.values(), round(share * SHARE_ONE)])
    wanted = {name: targets.get(name, float(given)) for name in shares}
    after = rounded(wanted, step=step)
    return after if _is_kept(after, kinds, real_floor) else rounded(wanted, step=1)


def _is_kept(shares: Mapping[str, int], kinds: Mapping[str, Kind], real_floor: float) -> bool:
    """Whether the real sources together have at least ``real_floor``."""
    return sum(value for name, value in shares.items() if kinds[name] == "real") >= real_floor * SHARE_ONE - 1
