"""What a user is told of the rounds of a run: lines of the journal, and warnings."""

import time
from typing import Any

from trainer.runs.rounds.files import Made
from trainer.runs.rounds.withdrawn import Withdrawn
from trainer.tracking.round_line import RoundLine
from trainer.training.run import Run


class RoundTeller:
    """(main) Tells what becomes of the rounds that make ``source``, with the time since the newest one began."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.began()

    def began(self) -> None:
        """A round begins now, or the launch."""
        self._began_s = time.monotonic()

    def failed(self, run: Run, generation: int, problem: str, *, step: int) -> None:
        """A round failed; it is tried again at its next time."""
        run.io.warn(
            f"generation {generation} failed: {problem}. Training continues; it is tried again at its next time"
        )
        self.line(run, generation, "failed", problem, step=step)

    def ended(self, run: Run, made: Made, step: int) -> None:
        """A round is over: what became of its requests, and what buying rested on."""
        record = made.record
        reason = f"{record['accepted']} of {record['requests']} rows passed, {made.num_samples} samples"
        if made.reason is not None and made.value is not None:
            state = "lot" if made.fingerprint is not None or record.get("quarantined") else "not-bought"
            self.line(run, made.generation, state, made.reason, step=step, value=made.value)
        self.line(run, made.generation, "ended", reason, step=step, record=record)

    def quarantined(self, run: Run, item: Withdrawn, *, step: int) -> None:
        """A generation is drawn no more."""
        number, size = item.segment.segment, item.segment.num_samples
        self.line(run, item.generation, "quarantined", item.reason, step=step, segment=number, num_samples=size)

    def line(self, run: Run, generation: int, state: str, reason: str, *, step: int, **more: Any) -> None:
        """A line of the journal."""
        seconds = time.monotonic() - self._began_s
        run.io.journal.write(
            RoundLine(
                step=step,
                generation=generation,
                state=state,
                source=self._source,
                reason=reason,
                seconds=seconds,
                **more,
            )
        )
