"""The heartbeat of this process: how far its main thread has come and in which phase, set from wherever that is known.

There is one per process, as with logging: a hang has no respect for who holds which object, and a parameter through
every floor would only say the same. A beat is a few assignments (0.2 us); nothing here waits, writes or locks.
``trainer.runs.watchdog`` looks at it from a thread of its own.
"""

from dataclasses import dataclass, replace


@dataclass
class Heartbeat:
    """Where the main thread is. ``place`` grows alike on all ranks, so that a lower one is a rank that is behind."""

    step: int = 0
    phase: str = "starting"
    beats: int = 0  # since the step began
    steps_begun: int = 0  # by this process

    @property
    def place(self) -> tuple[int, int]:
        """Step, and beats since it began."""
        return self.step, self.beats


_own = Heartbeat()


def beat(phase: str | None = None, step: int | None = None) -> None:
    """The main thread has come this far. Every rank beats at the same places: a stall is attributed to one that beats
    less.
    """
    if step is not None and step != _own.step:
        _own.step, _own.beats, _own.steps_begun = step, 0, _own.steps_begun + 1
    _own.beats += 1
    if phase is not None:
        _own.phase = phase


def own_heartbeat() -> Heartbeat:
    """A copy of this process's heartbeat."""
    return replace(_own)
