"""CSV with a header line; tab-separated where the name ends in .tsv or the recipe says so.

A quote that is never closed takes in all rows after it, and a parser calls that one bad row, or one long cell. So the
lines of a broken record are read again one by one, from the second on, and a cell whose lines are rows of their own is
refused. Prose has lines with as many commas as a row, too: where few lines are such, a warning tells, and
`quoting: trusted` takes every closed cell as it is.
"""

import csv
import io
import logging
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from trainer.base.errors import DataError
from trainer.data.readers.arrow import needed_names, require_text_column
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv")
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*")
_SURE_ROWS = 5  # rows after which a column of numbers is one
_SURE_SHARE = 0.9  # of the lines inside a cell that are rows by themselves, from which on the cell is refused
_SURE_LINES, _SURE_LINES_WITH_NUMBERS = 50, 3  # so many of them at least; fewer where a column of numbers helps to tell
_ODD_LINES = 8  # such lines inside a cell that are worth a warning
_LONG_LINES, _LONG_FACTOR = 100, 20  # a cell of so many lines, and so many times those of the second longest


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per record, at the line where it begins; its columns are the cells of the header. UserError where a
    quote is open at the end, and where a quoted cell swallows other rows.
    """
    csv.field_size_limit(max(options.max_line_bytes, csv.field_size_limit()))
    with io.TextIOWrapper(file.open_text(), encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        yield from _Table(file, options, stream).rows()


class _Table:
    def __init__(self, file: OpenableFile, options: ReadOptions, stream: io.TextIOWrapper) -> None:
        self._file, self._options = file, options
        default = "\t" if file.suffix == ".tsv" else ","
        self._dialect: dict[str, Any] = {"delimiter": options.delimiter or default, "strict": True}
        if not options.quoting:
            self._dialect |= {"quoting": csv.QUOTE_NONE, "quotechar": None}
        self._lines = _Lines(stream, options.max_line_bytes)
        self._records = csv.reader(self._lines, **self._dialect)
        self._header: list[str] = []
        self._numbers: list[bool] = []  # whether a column holds nothing but numbers so far
        self._num_rows = 0
        self._longest = [(0, 0), (0, 0)]  # lines and first line of the longest cell, then of the second
        self._odd: list[int] = []  # first lines of the cells that may have swallowed rows

    def rows(self) -> Iterator[Row | Malformed]:
        while not self._header:
            record = self._next_record()
            if record is None:
                return
            if isinstance(record, Malformed):
                self._suggest_delimiter(self._lines.taken[0])
                problem = "the header of a CSV file cannot be read"
                raise DataError(problem, got=record.reason, file=self._file.path, line=record.line)
            self._header = record
        self._require_columns()
        self._numbers = [True] * len(self._header)
        while (record := self._next_record()) is not None:
            line = self._lines.first
            if isinstance(record, Malformed):
                yield record
            elif record:
                yield self._row(record, line)
        self._warn_of_a_long_cell()
        self._warn_of_odd_cells()

    def _row(self, cells: list[str], line: int) -> Row | Malformed:
        if len(cells) != len(self._header):
            breaks_off = len(cells) < len(self._header) and not self._lines.taken[-1].endswith(("\n", "\r"))
            self._lines.put_back()  # what a quote took in
            end = ", and the file ends without a line end: is it whole?" if breaks_off else ""
            return Malformed(self._file.name, line, f"bad CSV: the number of cells is not that of the header{end}")
        self._check_swallowed(line)
        self._num_rows += 1
        self._numbers = [is_number and _is_number(cell) for is_number, cell in zip(self._numbers, cells, strict=True)]
        return Row(dict(zip(self._header, cells, strict=True)), self._file.name, line)

    def _next_record(self) -> list[str] | Malformed | None:
        """The next record; None at the end."""
        self._lines.begin()
        try:
            return next(self._records, None)
        except csv.Error as error:
            return self._broken(error)
        except _TooLongError:
            line, more = self._lines.first, len(self._lines.taken) - 1
            if more:
                got = f"not within {self._options.max_line_bytes} characters, {more} more lines"
                raise self._refusal("a quote that opens on this line is not closed", line, got=got) from None
            self._lines.skip_line()
            self._records = csv.reader(self._lines, **self._dialect)
            return Malformed(self._file.name, line, self._options.too_long)

    def _broken(self, error: csv.Error) -> Malformed:
        """One bad line; those that its quote took in are put back. UserError where the file ends inside the quote."""
        line, more, last = self._lines.first, len(self._lines.taken) - 1, self._lines.taken[-1]
        is_open = "unexpected end" in str(error)
        if is_open and not last.endswith(("\n", "\r")):
            got = f"it takes in {more} more lines, to the end of the file"
            raise self._refusal("a quote that opens on this line is never closed", line, got=got)
        self._lines.put_back()
        self._records = csv.reader(self._lines, **self._dialect)
        if is_open:
            return Malformed(self._file.name, line, "bad CSV: a quote that opens here is never closed")
        return Malformed(self._file.name, line, f"bad CSV: {error}")

    def _check_swallowed(self, line: int) -> None:
        """Refuses a record whose inner lines are rows by themselves."""
        taken = self._lines.taken
        if len(taken) > self._longest[0][0]:
            self._longest = [(len(taken), line), self._longest[0]]
        elif len(taken) > self._longest[1][0]:
            self._longest[1] = (len(taken), line)
        if len(taken) == 1 or len(self._header) == 1 or self._options.quoting == "trusted":
            return
        has_numbers = self._num_rows >= _SURE_ROWS and any(self._numbers)
        sure = _SURE_LINES_WITH_NUMBERS if has_numbers else _SURE_LINES
        num_rows = sum(map(self._is_row, taken[1:-1]))
        if num_rows >= max(sure, _SURE_SHARE * (len(taken) - 2)):
            got = f"{len(taken) - 1} more lines, of which {num_rows} are rows of their own"
            remedy = (
                "Close it or double it. Where the cell is meant so, write `quoting: trusted`; where quotes are text in "
                "this file, `quoting: false`"
            )
            raise self._refusal("a quote that opens on this line takes in other rows", line, got=got, remedy=remedy)
        if num_rows >= _ODD_LINES or (has_numbers and self._are_all_rows(taken)):
            self._odd.append(line)

    def _are_all_rows(self, lines: list[str]) -> bool:
        """Whether every line of a record is a row by itself, were there no quotes: two stray ones may have joined
        them.
        """
        return all(self._is_row(line.replace('"', "")) for line in lines)

    def _is_row(self, line: str) -> bool:
        cells = next(csv.reader([line], delimiter=self._dialect["delimiter"]), [])
        return len(cells) == len(self._header) and all(
            _is_number(cell) or not is_number for cell, is_number in zip(cells, self._numbers, strict=True)
        )

    def _refusal(self, what: str, line: int, *, got: str | None = None, remedy: str | None = None) -> DataError:
        remedy = remedy or "Close it or double it, or write `quoting: false` if quotes are text in this file"
        return DataError(what, got=got, remedy=remedy, file=self._file.path, line=line)

    def _require_columns(self) -> None:
        if self._options.text_column not in self._header and len(self._header) == 1:
            self._suggest_delimiter(self._header[0])
        require_text_column(self._header, self._options, self._file.path)
        needed_names(self._header, self._options, self._file.path)

    def _suggest_delimiter(self, line: str) -> None:
        """Refuses a header that has the text column if it is cut at another sign."""
        for delimiter, written in ((";", "';'"), ("\t", '"\\t"'), ("|", "'|'"), (",", "','")):
            if self._options.text_column in (cell.strip().strip('"') for cell in line.split(delimiter)):
                remedy = f"Name what separates its cells: `delimiter: {written}`"
                raise DataError("the header has one cell", got=line.rstrip(), remedy=remedy, file=self._file.path)

    def _warn_of_a_long_cell(self) -> None:
        (most, line), (second, _) = self._longest
        if most >= _LONG_LINES and most >= _LONG_FACTOR * max(second, 1):
            text = "%s:%d: a quoted cell of %d lines, no other has more than %d: is its quote closed where it should?"
            logger.warning(text, self._file.path, line, most, second)

    def _warn_of_odd_cells(self) -> None:
        if self._odd:
            text = "%s:%d: the lines of a quoted cell look like rows of their own (%d such cells): is its quote closed "
            text += "where it should? Where it is, write `quoting: trusted`"
            logger.warning(text, self._file.path, self._odd[0], len(self._odd))


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


class _TooLongError(Exception):
    """A record over the limit of what is held in memory."""


class _Lines:
    """Lines with their ends, of which those of the present record can be put back."""

    def __init__(self, stream: io.TextIOWrapper, max_characters: int) -> None:
        self._stream, self._max = stream, max_characters
        self._back: deque[str] = deque()
        self.first = 1
        self.taken: list[str] = []
        self._size = 0

    def begin(self) -> None:
        """Begins a record."""
        self.first += len(self.taken)
        self.taken, self._size = [], 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else self._stream.readline(self._max)
        if not line:
            raise StopIteration
        self.taken.append(line)
        self._size += len(line)
        if self._size >= self._max:
            raise _TooLongError
        return line

    def put_back(self) -> None:
        """Gives the lines of the record again, but for the first."""
        self._back.extendleft(reversed(self.taken[1:]))
        self.taken = self.taken[:1]

    def skip_line(self) -> None:
        """Passes over the rest of a line that was read in part."""
        line = self.taken[-1]
        while line and not line.endswith(("\n", "\r")):
            line = self._stream.readline(self._max)
