"""No room left: a disk, a quota or a limit on files is used up, told in one line with what is needed."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.base.errors import UserError
from trainer.base.formatting import size

_REMEDY = "Free some space, or name another folder"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: `ulimit -f`


def no_room(error: BaseException) -> str | None:
    """The system's words where an error, or what caused it, is that there is no room; else None.

    Libraries that write files (safetensors, torch) pass on the words alone.
    """
    cause: BaseException | None = error
    seen: set[int] = set()  # an error can be its own cause
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        for code in _NO_ROOM:
            if getattr(cause, "errno", None) == code or os.strerror(code) in str(cause):
                return os.strerror(code)
        cause = cause.__cause__ or cause.__context__
    return None


def room_in(place: Path) -> str:
    """What is free at a place, in words; of its nearest folder where it is not there yet."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return f"{size(shutil.disk_usage(place).free)} are free"


@contextmanager
def told_if_no_room(
    what: str, place: Path, needed_bytes: Callable[[], int] | None = None, *, remedy: str = _REMEDY
) -> Iterator[None]:
    """Raises UserError where the body finds no room for ``what`` at ``place``, of which about ``needed_bytes`` is
    needed.
    """
    try:
        yield
    except Exception as error:
        words = no_room(error)
        if words is None:
            raise
        needed = "" if needed_bytes is None else f"about {size(needed_bytes())} are needed, "
        raise UserError(
            f"no room for {what}: {words} ({needed}{room_in(place)})",
            file=place,
            remedy=remedy,
        ) from error
