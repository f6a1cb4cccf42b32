"""The training loop: steps are launched, completed, and followed by whatever is due after them.

Who makes the steps is left open: ``train`` makes them with an engine; under Lightning they are Lightning's, and both go
through ``Steps``. Everything a batch depends on is in the ledger, everything measured is in the journal, and everything
else that a resume needs is in ``RunState``.

The figures of a step are read one step late, so that a GPU always has the next step queued before the host waits.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.base.heartbeat import beat
from trainer.evaluate.ports import Engine, PendingFigures
from trainer.model.config import TrainingConfig
from trainer.training import facts
from trainer.training.after_step import after_step, is_due
from trainer.training.rate_jump import rate_at
from trainer.training.record_step import record_step
from trainer.training.run import Outcome, Run, RunState
from trainer.training.saver import finish_saving, save_checkpoint

if TYPE_CHECKING:
    from trainer.data.loader import StepBatch

STOPPED = "stopped by a signal; a checkpoint is saved; run the same command again to resume"


@dataclass(frozen=True, kw_only=True)
class InFlightStep:
    """A step that may still be running on the device."""

    batch: "StepBatch"
    figures: PendingFigures
    learning_rate: float
    started_s: float


class Steps:
    """The steps of a run from ``state`` on, for whoever makes them: ``batches`` gives each batch, ``complete``
    takes the launched step back.

    Figures are read one step late unless something is due. ``outcome`` is None until the run has ended.
    """

    def __init__(self, run: Run, state: RunState) -> None:
        self.run, self.state = run, state
        self._in_flight: deque[InFlightStep] = deque()
        self._drained_s = 0.0  # when the figures of the last step were read
        self.outcome = self._finished()

    def batches(self) -> Iterator["StepBatch"]:
        """This rank's part of each global batch, until the run has ended; each only after ``complete`` of the step
        before.
        """
        while self.outcome is None:
            beat("waiting for data", self.state.step + 1)
            try:
                batch = self.run.data.stream.next()
            except UserError:  # a source is used up and no other can take its share: what was trained is kept
                self.drain()
                save_checkpoint(self.run, self.state)
                finish_saving(self.run)
                raise
            facts.note_caps(self.run, batch)
            yield batch

    def complete(self, step: InFlightStep) -> None:
        """Take a step that was launched: its figures into the journal, then whatever is due after it."""
        batch, state = step.batch, self.state
        self._in_flight.append(step)
        self.state = replace(
            state, step=batch.step, position=state.position + 1, tokens=state.tokens + batch.target_tokens
        )
        due = is_due(self.run, self.state)
        interrupted = self.drain(keep=0 if due else 1)
        if due or interrupted:
            self.drain()
            self.state, self.outcome = after_step(self.run, self.state, save=interrupted)
        if interrupted and self.outcome is None:
            self.outcome = Outcome(state="interrupted", step=self.state.step, reason=STOPPED)
        self.outcome = self.outcome or self._finished()

    def drain(self, *, keep: int = 0) -> bool:
        """Read the figures of all but the newest ``keep`` steps; whether a stop was requested on any rank."""
        interrupted = False
        while len(self._in_flight) > keep:
            step = self._in_flight.popleft()
            # a step that was launched while the one before it ran has waited for that one first
            since_s = max(step.started_s, self._drained_s)
            figures = step.figures.result()
            self.state = record_step(
                self.run, self.state, step.batch, figures, learning_rate=step.learning_rate, since_s=since_s
            )
            self._drained_s = time.monotonic()
            interrupted = interrupted or figures.stop_requested
        return interrupted

    def _finished(self) -> Outcome | None:
        steps = self.run.settings.num_steps
        if self.state.position < steps:
            return None
        return Outcome(state="finished", step=self.state.step, reason=f"all {steps} steps are done")


def train(run: Run, state: RunState, engine: Engine, training: TrainingConfig) -> tuple[RunState, Outcome]:
    """Train from ``state`` to the end of the schedule, or until the guard or a signal stops the run."""
    steps = Steps(run, state)
    for batch in steps.batches():
        steps.complete(launch(run, steps.state, batch, engine, training))
    assert steps.outcome is not None
    return steps.state, steps.outcome


def launch(run: Run, state: RunState, batch: "StepBatch", engine: Engine, training: TrainingConfig) -> InFlightStep:
    """Launch the step at the schedule position of ``state``, without waiting for it."""
    rate = rate_at(training, state.rate_change, state.position)
    started_s = time.monotonic()
    beat("training", batch.step)
    figures = engine.train_step(
        batch, learning_rate=rate, stop=run.io.stop_requested(), ledger_digest=run.data.plan.ledger.digest
    )
    return InFlightStep(batch=batch, figures=figures, learning_rate=rate, started_s=started_s)
