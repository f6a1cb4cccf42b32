"""Errors that are the user's to fix: what is wrong, what was found, what to do, and where it stands."""

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
