"""Slices of the training data compared with those of the real data: synthetic text can thin a minority out long before
its held-out loss shows it.

A segment is drawn evenly, so epochs times its tokens by slice is what was drawn: exact at whole epochs, and in between
to the sampling error of the part of an epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import TypeVar

Name = TypeVar("Name")  # of a segment
UNNAMED = frozenset({"all", "(none)"})  # slices of documents without a named slice
LEAST_SHARE = 0.01  # of the real tokens, below which a slice is too small to say that it is thinned out


@dataclass(frozen=True, kw_only=True)
class SliceShare:
    """A slice's part of the tokens that have a slice: in the real sources, and in what was drawn."""

    real: float
    drawn: float

    def is_skewed(self, factor: float) -> bool:
        """Whether it is drawn ``factor`` times as often as in the real data, or that much more rarely."""
        return self.real >= LEAST_SHARE and not self.real / factor <= self.drawn <= self.real * factor


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Slices by name; ``unnamed`` is the part of the drawn tokens that no slice is known of."""

    slices: Mapping[str, SliceShare]
    unnamed: float


def composition(
    slice_tokens: Mapping[Name, Mapping[str, int]], epochs: Mapping[Name, float], real: frozenset[Name]
) -> Composition | None:
    """What was drawn, from the tokens by slice of each segment and the epochs drawn of it; None where nothing can be
    compared: no real segment has slices, or nothing with a slice was drawn.
    """
    of_real = _summed(slice_tokens, dict.fromkeys(real, 1.0))
    of_drawn = _summed(slice_tokens, epochs)
    unnamed = fsum(of_drawn.pop(name, 0.0) for name in UNNAMED)
    for name in UNNAMED:
        of_real.pop(name, None)
    all_real, all_drawn = fsum(of_real.values()), fsum(of_drawn.values())
    if not all_real or not all_drawn:
        return None
    slices = {
        name: SliceShare(real=of_real.get(name, 0.0) / all_real, drawn=of_drawn.get(name, 0.0) / all_drawn)
        for name in sorted(of_real.keys() | of_drawn.keys())
    }
    return Composition(slices=slices, unnamed=unnamed / (unnamed + all_drawn))


def _summed(slice_tokens: Mapping[Name, Mapping[str, int]], weights: Mapping[Name, float]) -> dict[str, float]:
    total: dict[str, float] = {}
    for segment, weight in weights.items():
        for name, tokens in slice_tokens[segment].items():
            total[name] = total.get(name, 0.0) + weight * tokens
    return total
