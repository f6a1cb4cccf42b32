"""The same command line with one fault put in, on one rank, at one step: `python -m tests.together.faulty fit RECIPE`.

The fault is described by the variable FAULT (JSON: kind, rank, step). What is replaced is what the fault would break (a
batch that does not come, a loss, a clock, a lock), never what has to deal with it. The moment it strikes is left in
the file that FAULT_AT names.
"""

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.data.loader import Stream
from trainer.engines import engine as engines
from trainer.mixture.ledger import Fact, Shares
from trainer.tracking.journal import Journal
from trainer.training import facts
from trainer.training.run import Run

DAWDLE_S = 0.3
STEP_OF_SHARES = 1_000  # millionths that the rank which disagrees moves from one source to another


def main() -> None:
    """Put the fault in where this is its rank, and become the command."""
    fault = json.loads(os.environ["FAULT"])
    if fault["rank"] in (None, int(os.environ.get("RANK", "0"))):
        KINDS[fault["kind"]](fault["step"])
    from trainer.commands.cli import main as command

    sys.argv[0] = "trainer"
    command()


def strikes() -> None:
    """Leave the moment behind."""
    path = Path(os.environ["FAULT_AT"])
    if not path.exists():
        path.write_text(repr(REAL_TIME()))


def before_step(step: int, act: Callable[[], None]) -> None:
    """Act when the batch of the step is asked for."""
    following = Stream.next

    def next_batch(stream: Stream) -> Any:
        if stream.state.step == step:
            strikes()
            act()
        return following(stream)

    Stream.next = next_batch  # type: ignore[method-assign]


def raises(step: int) -> None:
    def fail() -> None:
        raise RuntimeError("the sample store of this rank does not answer")

    before_step(step, fail)


def hangs(step: int) -> None:
    """The thread that prepares the batches never comes back."""
    prepare = Stream._prepare

    def stuck(stream: Stream) -> Any:
        if stream._ahead.step >= step:
            strikes()
            time.sleep(3600)
        return prepare(stream)

    Stream._prepare = stuck  # type: ignore[method-assign]


def dawdles(step: int) -> None:
    """No fault yet: from the step on a batch takes its time, so that the test's next act finds the run in progress."""
    following = Stream.next

    def slow(stream: Stream) -> Any:
        if stream.state.step >= step:
            time.sleep(DAWDLE_S)
        return following(stream)

    Stream.next = slow  # type: ignore[method-assign]


def scaled_loss(step: int, factor: float) -> None:
    """The losses of one step times the factor, gradient included."""
    current, losses = [0], engines.token_losses
    train_step = engines.TrainingEngine.train_step

    def noting(engine: Any, batch: Any, **how: Any) -> Any:
        current[0] = batch.step
        if batch.step == step:
            strikes()
        return train_step(engine, batch, **how)

    def broken(*arguments: Any) -> Any:
        return losses(*arguments) * (factor if current[0] == step else 1.0)

    engines.TrainingEngine.train_step = noting  # type: ignore[method-assign]
    engines.token_losses = broken


def disagrees(step: int) -> None:
    """From the first decision after the step on, this rank holds other shares."""
    take = facts.take

    def other(run: Run, taken: Sequence[Fact]) -> None:
        if run.data.stream.state.step > step:
            strikes()
            taken = [_moved(fact) for fact in taken]
        take(run, taken)

    facts.take = other


def _moved(fact: Fact) -> Fact:
    if not isinstance(fact, Shares):
        return fact
    shares = dict(fact.shares)
    shares["real"] += STEP_OF_SHARES
    shares["good"] -= STEP_OF_SHARES
    return replace(fact, shares=shares)


def clock_jumps(step: int) -> None:
    """The wall clock goes a day back at the step and two days ahead three steps later."""
    offset_s = [0.0]

    def jump(seconds: float) -> Callable[[], None]:
        def act() -> None:
            offset_s[0] = seconds

        return act

    time.time = lambda: REAL_TIME() + offset_s[0]
    time.time_ns = lambda: int((REAL_TIME() + offset_s[0]) * 1e9)
    before_step(step, jump(-86_400.0))
    before_step(step + 3, jump(2 * 86_400.0))


def no_locks(_step: int) -> None:
    """The file system grants every lock, as some network file systems do between hosts."""
    fcntl.flock = lambda _file, _operation: None  # type: ignore[assignment]


def ends_late(_step: int) -> None:
    """What the main rank closes at the end, as trackers upload there, takes its time."""
    close = Journal.close

    def late(journal: Journal) -> None:
        time.sleep(6.0)
        close(journal)

    Journal.close = late  # type: ignore[method-assign]


REAL_TIME = time.time
KINDS: dict[str, Callable[[int], None]] = {
    "dawdles": dawdles,
    "raises": raises,
    "hangs": hangs,
    "nan": lambda step: scaled_loss(step, float("nan")),
    "spike": lambda step: scaled_loss(step, 5.0),
    "disagrees": disagrees,
    "clock": clock_jumps,
    "no-locks": no_locks,
    "ends-late": ends_late,
}

if __name__ == "__main__":
    main()
