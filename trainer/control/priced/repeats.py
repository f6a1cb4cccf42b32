"""The value of repeated data: the discount that a budget of scarce tokens is calculated with.

Muennighoff et al., "Scaling Data-Constrained Language Models" (arXiv 2305.16264): U different tokens drawn E epochs
(R = E - 1 repeats) do as much as D' = U + U R* (1 - e^(-R/R*)) different ones, R* = 15.387756 in the released fit. So
a repeat is worth e^(-R/R*) of a fresh token: 0.82 at four epochs, 0.38 at sixteen. It forecasts how the value of a
source will fall further; what it is now is measured. Small models that memorize within a few epochs do worse than this.
"""

from math import exp, expm1, log

REPEATS_DECAY = 15.387756  # R*: repeats after which one more is worth 1/e


def effective_tokens(unique: float, drawn: float) -> float:
    """D': the number of different tokens that would do as much as ``drawn`` tokens of ``unique`` different ones."""
    if drawn <= unique or unique <= 0:
        return min(drawn, unique)
    return unique - unique * REPEATS_DECAY * expm1(-(drawn / unique - 1) / REPEATS_DECAY)


def repeat_value(epochs: float) -> float:
    """What one more token is worth after ``epochs`` of a source, in fresh tokens: dD'/d drawn."""
    return exp(-max(0.0, epochs - 1) / REPEATS_DECAY)


def epochs_until(value: float) -> float:
    """The epochs after which one more token of a source is worth ``value`` fresh ones (``repeat_value`` the other way
    round)."""
    return 1 - REPEATS_DECAY * log(value)


def unique_value(epochs: float) -> float:
    """What one more *different* token is worth where each is drawn ``epochs`` times and the tokens drawn stay the same.

    dD'/dU at fixed drawn = 1 + R* (1 - e^(-R/R*)) - E e^(-R/R*), in tokens of D'; 0 up to one epoch, when there are
    already more than are drawn.
    """
    if epochs <= 1:
        return 0.0
    repeated = exp(-(epochs - 1) / REPEATS_DECAY)
    return 1 + REPEATS_DECAY * (1 - repeated) - epochs * repeated


def mean_repeat_value(epochs: float, more: float) -> float:
    """What the tokens of the next ``more`` epochs are worth on average, in tokens of now, after ``epochs`` of a source.

    The mean of repeat_value(E) / repeat_value(now) over them: 1 while none of them is a repeat.
    """
    if more <= 0:
        return 1.0
    first = min(max(1.0 - epochs, 0.0), more)  # of them, still in the first epoch
    repeats = more - first
    return (first - REPEATS_DECAY * expm1(-repeats / REPEATS_DECAY)) / more
