"""One save at a time, at once or in a thread while training goes on.

A thread, not a process: what it saves is already a copy in host memory, and hashing and writing leave Python's lock
alone. Only while torch makes a file in memory is the lock held, for some tenths of a second each; the files are kept
small for that (``engines.tensors``). The thread's failure is kept until somebody asks, so that all ranks hear of it at
the same point of the run.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that is complete: the step, its folder and bytes, and what it took from the first copy on. Of
    ``seconds`` training waited for ``stalled_s``.
    """

    step: int
    folder: Path
    num_bytes: int
    seconds: float
    stalled_s: float


class Saver:
    """Does one save after the other. ``start`` only after ``wait``."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._step: int | None = None
        self._saved: Saved | None = None
        self._failure: BaseException | None = None

    def start(self, step: int, save: Callable[[], tuple[Path, int]], *, started_s: float, in_a_thread: bool) -> None:
        """Begin the save of a step; ``started_s`` (monotonic) is when its copying began."""
        stalled_s = time.monotonic() - started_s

        def work() -> None:
            try:
                folder, num_bytes = save()
            except BaseException as error:  # whatever it is: a thread that ends without a word would pass for a save
                if not in_a_thread and not isinstance(error, Exception):
                    raise
                self._failure = error
                return
            seconds = time.monotonic() - started_s
            self._saved = Saved(
                step=step,
                folder=folder,
                num_bytes=num_bytes,
                seconds=seconds,
                stalled_s=stalled_s if in_a_thread else seconds,
            )

        self._step = step
        if in_a_thread:
            # daemon: a run that fails meanwhile ends as if it were killed, and leaves the checkpoint before
            self._thread = threading.Thread(target=work, name=f"save-{step}", daemon=True)
            self._thread.start()
        else:
            work()

    def is_done(self) -> bool:
        """Whether a save in a thread has come to its end, one way or the other."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self) -> Saved | None:
        """What came of the save that was begun; None when there is none. OSError when it failed."""
        if self._thread is not None:
            self._thread.join()
        step, saved, failure = self._step, self._saved, self._failure
        self._thread, self._step, self._saved, self._failure = None, None, None, None
        if failure is not None:
            raise OSError(f"the checkpoint after step {step} could not be saved: {failure}") from failure
        return saved
