"""What the learning rate does where a run resumes under another schedule.

A run that had ended may be trained longer by more ``training.steps``. Its schedule is then another curve, which at the
step of the resume lies far above the rate that the run had come down to: an annealed model is thrown back. That is
told before the first step, and ``training.rate_jump`` says what is done about it.
"""

from dataclasses import dataclass
from functools import partial
from math import inf, isclose
from typing import Literal

from trainer.model.config import TrainingConfig

FACTOR = 1.5  # between the last step's rate and the next one's, from which it is a jump
REWARM_PART = 0.1  # of the steps left, where the schedule has no warm-up whose length could be taken


@dataclass(frozen=True, kw_only=True)
class RateChange:
    """How the rate goes from what it was after a resume at schedule ``position`` on.

    ``hold``: never above ``from_rate`` again. ``rewarm``: from there to the schedule over so many steps, linearly.
    ``accept``: as the schedule has it; ``from_rate`` is kept for a later resume that chooses otherwise.
    """

    how: Literal["accept", "hold", "rewarm"]
    position: int
    from_rate: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class RateJump:
    """The rate of the last step done and of the next one, and what is done about it."""

    before: float
    by_schedule: float
    after: float
    change: RateChange

    @property
    def factor(self) -> float:
        """By how much the schedule's rate is higher; below 1 where it is lower."""
        return self.by_schedule / self.before if self.before else inf


def rate_at(training: TrainingConfig, change: RateChange | None, position: int) -> float:
    """Learning rate at a schedule position. A ``change`` that the recipe no longer asks for has no effect."""
    rate = training.rate(position)
    if change is None or change.how == "accept" or training.rate_jump != change.how:
        return rate
    if change.how == "hold":
        return min(rate, change.from_rate)
    part = (position - change.position + 1) / (change.steps + 1)
    return change.from_rate + (rate - change.from_rate) * part if 0 < part < 1 else rate


def rates_of(training: TrainingConfig, change: RateChange | None) -> tuple[float, ...]:
    """Learning rates over the run, as ``TrainingConfig.rates`` gives them without a change."""
    return training.rates(partial(rate_at, training, change))


def jump_at(
    before: TrainingConfig, now: TrainingConfig, *, change: RateChange | None, position: int
) -> RateJump | None:
    """The jump of the rate between the last step, made under ``before``, and the next one at ``position``; None where
    there is none, or where it is the schedule's own course.
    """
    if not 0 < position < now.steps:
        return None
    last = rate_at(before, change, position - 1)
    if change is not None and change.how == "accept" != now.rate_jump:  # the run has jumped and is told to come back
        return _jump(now, last, _change(now, change.from_rate, position))
    if isclose(last, rate_at(now, change, position - 1), rel_tol=1e-9):
        return None
    next_rate = rate_at(now, change, position)
    if last > 0 and 1 / FACTOR <= next_rate / last <= FACTOR:
        return None
    return _jump(now, last, _change(now, last, position))


def _jump(training: TrainingConfig, last: float, change: RateChange) -> RateJump:
    by_schedule, after = training.rate(change.position), rate_at(training, change, change.position)
    return RateJump(before=last, by_schedule=by_schedule, after=after, change=change)


def _change(training: TrainingConfig, rate: float, position: int) -> RateChange:
    steps = training.schedule.warmup_steps or max(1, round(REWARM_PART * (training.steps - position)))
    return RateChange(how=training.rate_jump, position=position, from_rate=rate, steps=steps)
