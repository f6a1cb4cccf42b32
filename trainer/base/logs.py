"""The logger `trainer`: silent in somebody's program, on stderr under the command line.

A library that prints is a nuisance to the program that uses it, so a handler is installed by the commands only; a
program that wants the messages adds one of its own: ``logging.getLogger("trainer").addHandler(...)``.
"""

import logging
import sys

logger = logging.getLogger("trainer")
logger.addHandler(logging.NullHandler())
logger.setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    """Writes to what is stderr now; a message has its level before it only where it is a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        sys.stderr.write(f"{prefix}{record.getMessage()}\n")
        sys.stderr.flush()


def log_to_stderr() -> None:
    """Shows messages and progress on the terminal; for commands. Called twice it has no further effect."""
    if not is_command_line():
        logger.addHandler(_ToStderr())
        logger.propagate = False


def is_command_line() -> bool:
    """Whether messages and progress are shown on the terminal."""
    return any(isinstance(handler, _ToStderr) for handler in logger.handlers)
