"""The door to the terminal: all that a command prints goes through it, and nothing that it prints can harm.

Texts of the data (samples, ids, names, errors that quote them) may hold control characters, by which a terminal is
cleared, renamed or made to show what is not there: they are printed escaped, whoever prints them. A terminal that
cannot show a sign gets a plain one, and a reader that has gone away (a closed pipe, a closed window) ends nothing:
what is printed is a view. Only `rich` may move the cursor, by a console from ``trainer.base.console``.
"""

import codecs
import errno
import io
import os
import re
import sys
from contextlib import suppress
from typing import IO, Any, TextIO

# C0 without tab and line feed, DEL, C1; and the marks that turn or hide the direction of what follows
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_PLAIN = {"±": "+/-", "∞": "inf", "…": "...", "—": "-", "→": "->", "·": "-", "•": "-", "━": "-"}
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # of the reader: a closed pipe, a closed terminal window
_ERRORS = "terminal"  # the name under which ``_shown`` is registered


def printable(text: str) -> str:
    """The text with every control character written out: the escape character becomes `\\x1b`."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def open_door() -> None:
    """Put the door before stdout and stderr; for commands. Called twice it has no further effect."""
    codecs.register_error(_ERRORS, _shown)
    _fill_closed_descriptors()
    sys.stdout = _behind_door(sys.stdout, 1)
    sys.stderr = _behind_door(sys.stderr, 2)


def direct(stream: TextIO) -> TextIO:
    """The stream behind the door, for control codes of our own."""
    return stream.direct if isinstance(stream, _Door) else stream


class _Stream(io.TextIOWrapper):
    """A text stream that nothing is written to any more once its reader has gone away."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        if error.errno not in _GONE:
            raise OSError(error.errno, error.strerror, "what is printed") from error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class _Door(_Stream):
    """A stream that escapes what it is given; ``direct`` is the same one without the escaping."""

    def __init__(self, binary: IO[bytes], direct: _Stream, **how: Any) -> None:
        super().__init__(binary, **how)
        self.direct = direct

    def write(self, text: str, /) -> int:
        # A progress bar of a library begins each of its pictures with a carriage return, on a line of its own.
        start = "\r" if text.startswith("\r") else ""
        return super().write(start + printable(text[len(start) :]))

    @property
    def buffer(self) -> Any:  # typer would write past the door where the encoding is ASCII
        raise AttributeError("buffer")


def _behind_door(stream: TextIO, descriptor: int) -> TextIO:
    if isinstance(stream, _Door):
        return stream
    with suppress(OSError, ValueError, AttributeError):
        stream.flush()
    how: dict[str, Any] = {
        "encoding": getattr(stream, "encoding", None) or "utf-8",
        "errors": _ERRORS,
        "line_buffering": descriptor == 2 or stream is None or stream.isatty(),
        "write_through": True,
    }
    binary = getattr(stream, "buffer", None) or os.fdopen(descriptor, "wb", closefd=False)
    return _Door(binary, _Stream(binary, **how), **how)


def _fill_closed_descriptors() -> None:
    """Open what was closed before the start: else the next file would be taken for the terminal, and be printed to."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    """A sign that the terminal's encoding lacks, in signs that it has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii") for sign in signs)
    return plain, error.end
