"""The value of repeated data: the discount that a budget of scarce tokens is calculated with.

Muennighoff et al., "Scaling Data-Constrained Language Models" (arXiv 2305.16264): U different tokens drawn E epochs
(R = E - 1 repeats) do as much as D' = U + U R* (1 - e^(-R/R*)) different ones, R* = 15.387756 in the released fit. So
a repeat is worth e^(-R/R*) of a fresh token: 0.82 at four epochs, 0.38 at sixteen. It forecasts how the value of a
source will fall further; what it is now is measured.

By that law a repeat is never worth less than nothing. In trials it is: text repeated for 25 epochs ended 0.7 nats above
half as much of it. So a repeat also costs what memorizing takes from all that was learned, an additive term in the loss
(as in "Prescriptive scaling", arXiv 2605.01640, whose form is not known to us):
L = a - b ln(effective tokens of all sources) + k (R / 20)^n. ``python -m experiments.repetition`` fits it.
"""

from math import exp, expm1, log

REPEATS_DECAY = 15.387756  # R*: repeats after which one more is worth 1/e
# Fitted to 15 constant shares of 0.3 M parameters, 600 steps, weight decay 0.1 (experiments/results/repetition.json):
# k / b = 0.46 e-folds of data at 20 repeats, n = 6.2.
OVERFITTING, OVERFITTING_REPEATS, OVERFITTING_POWER = 0.46, 20.0, 6.2
EFFECTIVE = 0.7  # effective tokens per token drawn, of runs whose real data are repeated about ten times
MOST_EPOCHS = 1e4


def effective_tokens(unique: float, drawn: float) -> float:
    """D': the number of different tokens that would do as much as ``drawn`` tokens of ``unique`` different ones."""
    if drawn <= unique or unique <= 0:
        return min(drawn, unique)
    return unique - unique * REPEATS_DECAY * expm1(-(drawn / unique - 1) / REPEATS_DECAY)


def repeat_value(epochs: float) -> float:
    """What one more token is worth after ``epochs`` of a source, in fresh tokens: dD'/d drawn."""
    return exp(-max(0.0, epochs - 1) / REPEATS_DECAY)


def overfitting_cost(epochs: float, scarcity: float) -> float:
    """What one more token after ``epochs`` of a source takes from all that was learned, in fresh tokens.

    ``scarcity``: tokens of the run, of all sources, per different token of this one; the effective tokens D of the run
    are about 0.7 of them. d/d drawn of k (R / 20)^n over b / D, the gain of a fresh token.
    """
    repeats = max(0.0, epochs - 1)
    slope = OVERFITTING * OVERFITTING_POWER / OVERFITTING_REPEATS
    return float(EFFECTIVE * scarcity * slope * (repeats / OVERFITTING_REPEATS) ** (OVERFITTING_POWER - 1))


def net_repeat_value(epochs: float, scarcity: float) -> float:
    """What one more token is worth after ``epochs`` of a source, less what it costs: below 0 it does harm."""
    return repeat_value(epochs) - overfitting_cost(epochs, scarcity)


def epochs_until(value: float, scarcity: float = 0.0) -> float:
    """The epochs after which one more token of a source is worth ``value`` fresh ones (``net_repeat_value`` the other
    way round); without ``scarcity`` by the published law alone.
    """
    if not scarcity:
        return 1 - REPEATS_DECAY * log(max(value, 1e-9))
    low, high = 1.0, MOST_EPOCHS
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if net_repeat_value(middle, scarcity) > value else (low, middle)
    return low


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
