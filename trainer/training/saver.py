"""Saving a run: one checkpoint at a time, synchronously or in a thread while training continues.

A thread, not a process: what it saves is already a copy in host memory, and hashing and writing release Python's lock.
Only while torch serializes a file in memory is the lock taken, for some tenths of a second each; the files are kept
small for that (``engines.checkpoint_io``). A failure of the thread is kept until ``wait``, so that all ranks raise it
at the same point of the run.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.formatting import size
from trainer.base.heartbeat import beat
from trainer.base.room import no_room, room_in
from trainer.tracking.schema import CheckpointLine
from trainer.training import checkpoint

if TYPE_CHECKING:
    from trainer.training.run import Run, RunIO, RunState, SavedOffsets


BYTES_PER_PARAMETER = 12  # of a checkpoint: a weight and Adam's two moments in fp32


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
    """Runs one save after the other: ``start`` only after ``wait``."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._step: int | None = None
        self._saved: Saved | None = None
        self._failure: BaseException | None = None

    def start(self, step: int, save: Callable[[], tuple[Path, int]], *, started_s: float, in_a_thread: bool) -> None:
        """Start the save of a step; ``started_s`` (monotonic) is when its copying started."""
        stalled_s = time.monotonic() - started_s

        def work() -> None:
            try:
                folder, num_bytes = save()
            except BaseException as error:  # whatever it is: a thread that ends in silence would pass for a save
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
            # daemon: a run that fails meanwhile ends as if killed, and the previous checkpoint stays
            self._thread = threading.Thread(target=work, name=f"save-{step}", daemon=True)
            self._thread.start()
        else:
            work()

    def is_done(self) -> bool:
        """Whether a save in a thread has ended, complete or failed."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self) -> Saved | None:
        """Wait for the save that was started and return it; None when there is none. OSError when it failed."""
        if self._thread is not None:
            self._thread.join()
        step, saved, failure = self._step, self._saved, self._failure
        self._thread, self._step, self._saved, self._failure = None, None, None, None
        if failure is not None:
            raise OSError(f"the checkpoint after step {step} could not be saved: {failure}") from failure
        return saved


def save_checkpoint(run: "Run", state: "RunState") -> None:
    """Save model, optimizer and state; journal and ledger are on disk before the checkpoint that refers to them.

    An asynchronous save has only started when this returns; ``finish_saving`` waits for it.
    """
    finish_saving(run)
    started_s = time.monotonic()
    write, writers = run.devices.capture(detached=run.settings.checkpoint.asynchronous), run.devices.writers
    offsets = checkpoint.together(writers, partial(_sync, run.io))
    save = partial(
        checkpoint.save,
        run.io.folder / "checkpoints",
        state.step,
        write=write,
        state={**state.to_json(), "files": offsets[0].to_json()},
        keep=run.settings.checkpoint.keep,
        last_healthy_step=state.last_healthy_step,
        ranks=writers,
    )
    run.io.saver.start(state.step, save, started_s=started_s, in_a_thread=run.settings.checkpoint.asynchronous)
    if not run.settings.checkpoint.asynchronous:
        finish_saving(run)


def _sync(io: "RunIO") -> "SavedOffsets":
    from trainer.training.run import SavedOffsets

    journal, (ledger, ledger_digest) = io.journal.sync(), io.sync_ledger()
    return SavedOffsets(journal=journal, ledger=ledger, ledger_digest=ledger_digest)


def finish_saving(run: "Run") -> None:
    """Wait for the save that was started, if any, and journal it. OSError on all ranks when it failed."""
    beat("saving")
    try:
        saved = run.io.saver.wait()
    except OSError as error:
        if no_room(error) is None:
            raise
        needed, root = size(BYTES_PER_PARAMETER * run.devices.num_parameters), run.io.folder / "checkpoints"
        raise OSError(f"{error} (about {needed} are needed in {root}, {room_in(root)})") from error
    if saved is not None:
        line = CheckpointLine(
            step=saved.step,
            folder=saved.folder.name,
            seconds=saved.seconds,
            stalled_seconds=saved.stalled_s,
            bytes=saved.num_bytes,
        )
        run.io.journal.write(line)
