"""A run that is asked to stop by signals: what is said, and the outcome of one that is ended immediately."""

import multiprocessing
import os
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from trainer.base.failures import own_rank, say
from trainer.base.signals import Signals, name_of
from trainer.base.terminal import direct
from trainer.runs.folder import INTERRUPTED, write_outcome

RESUME = "run the same command again to resume"
STOPPED_EARLY = f"stopped by a signal before the first step; {RESUME}"
SAYING_S = 1.0  # a terminal that takes no more text must not keep the process


def signals_of(folder: Path) -> Signals:
    """What the signals to a launch on this run folder do: the first is answered, the second ends it with an outcome."""
    return Signals(on_first=_answer, end=partial(_end, folder))


def _answer(number: int) -> None:
    if own_rank() == 0:
        say(f"{name_of(number)}: ending; a step is finished and saved first. Again to end immediately")


def _end(folder: Path, number: int, is_second: bool) -> None:
    """End this process where it stands: what is on the disk is whole at any time, as after kill -9."""
    code = 128 + number if is_second else INTERRUPTED
    lost = "the steps since the last checkpoint are lost"
    reason = f"ended immediately by a second signal, {name_of(number)}; {lost}; {RESUME}"
    reason = reason if is_second else STOPPED_EARLY
    if is_second or own_rank() == 0:
        write_outcome(folder, state="interrupted", step=None if is_second else 0, reason=reason, exit_code=code)
    for child in multiprocessing.active_children():
        child.kill()
    last_words = threading.Timer(SAYING_S, os._exit, (code,))
    last_words.daemon = True
    last_words.start()
    with suppress(OSError, ValueError):
        if sys.stdout.isatty():
            direct(sys.stdout).write("\x1b[?25h\n")  # a live progress bar hides the cursor
            sys.stdout.flush()
        if own_rank() == 0:
            say(reason)
    os._exit(code)
