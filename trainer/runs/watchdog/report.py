"""How a failure becomes known: once, in ``outcome.json``, and as the last words of the rank that wrote it."""

from pathlib import Path

from trainer.base.failures import Cause, leave_for_launcher, say, say_last
from trainer.base.heartbeat import own_heartbeat
from trainer.runs.folder import FAILED, failed_outcome, write_outcome
from trainer.runs.watchdog.attribution import StallAttribution
from trainer.runs.watchdog.signs import stacks_of

OWN_CODE = "trainer/"


class FailureReport:
    """The failure of a run as this rank reports it; ``run`` is the run folder."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._written: Cause | None = None

    @property
    def is_written(self) -> bool:
        """Whether this rank was the first to report."""
        return self._written is not None

    def exists(self) -> bool:
        """Whether any rank of this launch has reported."""
        return failed_outcome(self._run) is not None

    def write(self, cause: Cause) -> None:
        """Into ``outcome.json``, unless a rank was first; and to a launcher that may end this process soon."""
        first = write_outcome(
            self._run,
            state="failed",
            step=own_heartbeat().step or None,
            reason=cause.reason,
            exit_code=FAILED,
            trace=cause.trace,
            place=(cause.rank, cause.host),
        )
        self._written = cause if first else None
        if first:
            leave_for_launcher(self._last_words(cause))

    def say(self) -> None:
        """On stderr, by the rank that was first."""
        if self._written is not None:
            if self._written.trace:
                say(self._written.trace)
            say_last(self._last_words(self._written))

    def _last_words(self, cause: Cause) -> str:
        where = f"\nsee {self._run / 'outcome.json'}" if self.exists() else ""
        return f"the run failed: {cause}{where}"


def cause_of(attribution: StallAttribution, folder: Path) -> Cause:
    """The attribution with the place in our own code where the rank stands; ``folder`` holds the signs."""
    sign = attribution.sign
    where = [frame for frame in sign.stack if frame.startswith(OWN_CODE)] or sign.stack
    reason = f"{attribution.reason}, at {where[-1]}" if where else attribution.reason
    return Cause(rank=sign.rank, host=sign.host, reason=reason, trace=stacks_of(folder, sign))
