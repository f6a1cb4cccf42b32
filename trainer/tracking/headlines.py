"""Events of a run in one line of text each: for the terminal, the marks of trackers and the list of the report."""

from trainer.base.formatting import figure, percent_about, shares_in_words
from trainer.base.records import SHARE_ONE
from trainer.tracking.record import JournalLine
from trainer.tracking.round_line import RoundLine
from trainer.tracking.schema import (
    CapLine,
    DecisionLine,
    DeficitLine,
    JoinLine,
    NonFiniteLine,
    RateLine,
    RetireLine,
    RollbackLine,
    SkewLine,
    SpikeLine,
    StartLine,
)


def headline(line: JournalLine) -> str:
    """What happened; empty for a line that only adds figures."""
    match line:
        case DecisionLine():
            return f"{line.action}: {line.reason}"
        case RollbackLine():
            return f"rolled back to step {line.to_step}: {line.reason}"
        case RateLine():
            return _of_the_rate(line)
        case NonFiniteLine():
            return f"not finite: loss {figure(line.loss)}, gradient norm {figure(line.grad_norm)}, no update"
        case SpikeLine():
            return f"loss spike: {figure(line.loss)} against a median of {figure(line.median)} in the steps before"
        case RoundLine():
            return f"generation {line.generation} {line.state}: {line.reason}"
        case StartLine() if line.resumed_from:
            return f"resumed from {line.resumed_from}, {line.world_size} processes"
        case _:
            return _of_the_mixture(line)


def _of_the_rate(line: RateLine) -> str:
    before, by_schedule = figure(line.learning_rate_before), figure(line.learning_rate_by_schedule)
    jump = f"learning rate {before} at the last step, {by_schedule} by the schedule at the next"
    return jump if line.choice == "accept" else f"{jump}; {line.choice}: {figure(line.learning_rate)}"


def _of_the_mixture(line: JournalLine) -> str:
    match line:
        case CapLine():
            shares = shares_in_words(line.shares)
            return f"{line.source} has reached its cap of {figure(line.epochs)} epochs -> {shares}"
        case JoinLine():
            return f"segment {line.segment} of {line.source} joins, {figure(line.num_samples)} samples"
        case RetireLine():
            return f"segment {line.segment} of {line.source} is retired"
        case DeficitLine():
            before, after = (f"{value / SHARE_ONE:.3f}" for value in (line.before_millionths, line.after_millionths))
            return f"the deficit of {line.source} was clipped from {before} to {after} samples"
        case SkewLine():
            real, drawn = (percent_about(part) for part in (line.real, line.drawn))
            return f"slice {line.slice} is {drawn} of what was drawn, {real} of the real data"
        case _:
            return ""
