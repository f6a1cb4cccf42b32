"""The logger `trainer`: warnings only in somebody's program, everything on stderr under the command line.

A library that prints is a nuisance to the program that uses it, so a handler is installed by the commands only. There
is no ``NullHandler`` on purpose: where the program has set up no logging, Python's handler of last resort shows
warnings, and a guard that cannot judge the run must not be silent about it. A program that wants progress too adds a
handler: ``logging.getLogger("trainer").addHandler(...)``.
"""

import logging
import sys

logger = logging.getLogger("trainer")
logger.setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    """Writes to what is stderr now; a message has its level before it only where it is a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        sys.stderr.write(f"{prefix}{record.getMessage()}\n")
        sys.stderr.flush()


def log_to_stderr() -> None:
    """Shows messages and progress on the terminal; for commands. Called twice it has no further effect."""
    if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        logger.addHandler(_ToStderr())
        logger.propagate = False


def be_quiet() -> None:
    """Shows warnings and errors only; for commands."""
    logger.setLevel(logging.WARNING)


def is_command_line() -> bool:
    """Whether messages and progress are shown on the terminal."""
    return logger.isEnabledFor(logging.INFO) and any(isinstance(handler, _ToStderr) for handler in logger.handlers)
