"""The root cause of a failed run, and where it is told: once, where the last lines of the output will be.

With several processes the first to fail takes the others down: their collectives break (an echo, not a cause), and the
launcher adds forty lines of its own. torchrun, and ``accelerate launch`` through it, end with the message that the
failing process left in ``TORCHELASTIC_ERROR_FILE`` with the earliest time: so the root cause goes there, and to
stderr only where no such launcher is.
"""

import json
import os
import re
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trainer.base.logs import logger
from trainer.base.room import no_room, room_in
from trainer.base.terminal import printable

ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
EARLIER_S = 10  # launchers show the earliest failure as the root cause; what takes longest to tell is a rank that died
_ECHO = re.compile(
    r"gloo|nccl|connection (was )?(reset|closed|refused|aborted)|broken pipe|socket|process group"
    r"|remote (process|worker)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a run failed: which rank, where it ran, what happened, and the stack that shows it."""

    rank: int
    host: str
    reason: str
    trace: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The error of this process; without a stack where it is that a disk is full, which is nobody's mistake."""
        words, trace = no_room(error), "".join(traceback.format_exception(error))
        reason = in_words(error) if words is None else _without_room(error, words)
        return cls(rank=own_rank(), host=socket.gethostname(), reason=reason, trace=trace if words is None else None)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.reason}"


def _without_room(error: BaseException, words: str) -> str:
    """What could not be written, and what to do."""
    place = getattr(error, "filename", None)
    what = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    told = what if words in what else f"{what}: {words}"
    where = f" in {place} ({room_in(Path(place))})" if isinstance(place, str) else ""
    return f"{told}{where}. Free some space, and run the same command again: it resumes from its last checkpoint"


def own_rank() -> int:
    """This process's number among all, as its launcher says; known before there is an engine."""
    return int(os.environ.get("RANK", "0"))


def in_words(error: BaseException) -> str:
    """The error in one line; its type only where the message alone may say nothing (KeyError: 'loss')."""
    text = " ".join(str(error).split())
    speaks = text and (type(error) is RuntimeError or type(error).__module__ != "builtins")
    return text if speaks else f"{type(error).__name__}: {text}"


def is_echo(error: BaseException) -> bool:
    """Whether the error may only say that another process went away: a collective or the store broke."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError | ConnectionError) and _ECHO.search(str(error)) is not None


def say(text: str) -> None:
    """Log a line about this process."""
    logger.info(text)


def warn(text: str) -> None:
    """Log a warning about this process."""
    logger.warning(text)


def say_last(text: str) -> None:
    """Log an error where the reader will look last: among the launcher's own closing words if it has any."""
    if not leave_for_launcher(text):
        logger.error(text)


def leave_for_launcher(text: str) -> bool:
    """Leave the root cause for the launcher to end with; whether there is one that will."""
    file = os.environ.get(ERROR_FILE_VARIABLE)
    if not file:
        return False
    message = {"message": printable(text), "timestamp": int(time.time()) - EARLIER_S}
    with suppress(OSError):  # its folder went with the launcher
        Path(file).write_text(json.dumps(message), encoding="utf-8")
        return True
    return False
