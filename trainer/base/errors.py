"""Errors that are the user's to fix: what is wrong, what was given, what to do, and where it stands."""

from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave us: shown as text without a stack trace, exit code 2.

    ``what`` says what is wrong, ``got`` the offending value, ``remedy`` what to do, ``file`` and ``line`` where it
    stands.
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        remedy: str | None = None,
        file: Path | str | None = None,
        line: int | None = None,
    ) -> None:
        self.what, self.got, self.remedy, self.file, self.line = what, got, remedy, file, line
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        got = f" (got {self.got!r})" if self.got is not None else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{got}{remedy}"


class RecipeError(UserError):
    """All that is wrong with a recipe, in the order of its lines: ``mistakes`` has each of them."""

    def __init__(self, mistakes: Iterable[UserError]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=_in_file_order))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


def _in_file_order(mistake: UserError) -> tuple[bool, str, int]:
    return (mistake.line is None, str(mistake.file) if mistake.line else "", mistake.line or 0)


class DataError(UserError):
    """Data that cannot be read, or rows that are not what the recipe says they are."""


class LaunchError(UserError):
    """A launch (processes, devices, engine) that cannot train the recipe."""


class RunFolderError(UserError):
    """A run folder that cannot be used: not one, unreadable, of another recipe or version."""


class RunLockedError(RunFolderError):
    """A run folder that another launch is using."""


class RunFailedError(Exception):
    """A run that failed by something other than the caller's mistake; ``__cause__`` is what was raised.

    The cause has been logged and stands in the run folder's `outcome.json`. ``exit_code`` is a command's.
    """

    def __init__(self, *, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__("the run failed; see its outcome.json")
