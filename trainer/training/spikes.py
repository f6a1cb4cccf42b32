"""Loss spikes: a training loss far above what the last steps make likely, which says "look at this batch".

Medians, because one spike must not hide the next. The spread is taken from the differences of neighboring steps, as
the losses themselves also fall; it is at least a hundredth of the median, or on a plateau without noise every wiggle
would be a spike. Ten spreads is far outside the noise of batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_STEPS = 32
FEWEST_STEPS = 8  # also those whose median a loss is held against
SPREADS = 10.0
LEAST_SPREAD = 0.01  # of the median
MAD_TO_SIGMA = 1.4826  # makes the median absolute deviation of a normal distribution its standard deviation


@dataclass(frozen=True, kw_only=True)
class Spike:
    """What a loss is held against: median and spread of the steps before it (nats per token)."""

    median: float
    spread: float


def spike(loss: float, recent: Sequence[float]) -> Spike | None:
    """The spike that ``loss`` is after the ``recent`` losses (nats per token); None when it is none, or too few are
    known.
    """
    if len(recent) < FEWEST_STEPS:
        return None
    median, changes = float(np.median(recent[-FEWEST_STEPS:])), np.diff(recent)
    noise = MAD_TO_SIGMA * float(np.median(np.abs(changes - np.median(changes)))) / math.sqrt(2)  # of one step
    spread = max(noise, LEAST_SPREAD * median)
    return Spike(median=median, spread=spread) if loss > median + SPREADS * spread else None


def with_latest(recent: Sequence[float], loss: float) -> tuple[float, ...]:
    """The window moved on by one loss."""
    return (*recent, loss)[-WINDOW_STEPS:]
