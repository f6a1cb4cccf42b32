"""Finds the columns that a recipe names and no row of a source has.

A misspelled one would give every document the slice "(none)", or the file and line for an id, without a word.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.base.errors import DataError, UserError
from trainer.data.config import DataConfig, needed_columns
from trainer.data.readers import READERS, OpenableFile, ReadOptions, format_of
from trainer.data.source_config import SourceConfig

_COLUMNS_SHOWN, _VALUES_SHOWN, _VALUE_CHARACTERS = 30, 8, 40
_ROWS_NOTED = 100


def read_options(config: DataConfig, name: str) -> ReadOptions:
    """How the rows of segment ``name`` are read where they come from."""
    segment = config.every_segment[name]
    return ReadOptions(
        text_column=segment.text_column,
        columns=needed_columns(config, name),
        format=segment.format,
        text_unit=segment.text_unit,
        split=segment.split,
        delimiter=segment.delimiter,
        quoting=segment.quoting,
        max_row_bytes=config.max_row_bytes,
    )


class ColumnCheck:
    """Collects the columns of a segment's rows, and at the end refuses the needed ones that no row had."""

    def __init__(self, name: str, segment: SourceConfig, options: ReadOptions) -> None:
        self._name, self._segment, self._options = name, segment, options
        self._missing = {*options.columns}
        self._columns: set[str] = set()
        self._values: dict[str, list[Any]] = {column: [] for column in segment.where}
        self._num_rows = 0

    def add(self, columns: Mapping[str, Any]) -> None:
        """Takes note of a row."""
        if self._missing or self._num_rows < _ROWS_NOTED:
            self._num_rows += 1
            self._missing.difference_update(columns)
            self._columns.update(columns)

    def leave_out(self, columns: Mapping[str, Any], *, first: bool) -> None:
        """Takes note of a row that `where` leaves out, as long as it is among the ``first``: none was taken yet."""
        if first:
            for column, values in self._values.items():
                value = columns.get(column)
                if len(values) < _VALUES_SHOWN and value not in values:
                    values.append(value)

    def nothing_selected(self, num_rows: int) -> UserError:
        """What to say where `where` left no row: the values that there are, and where only the type differs."""
        wanted = {column: _as_tuple(value) for column, value in self._segment.where.items()}
        spelled = [
            f"{column} holds text: write {str(value)!r} in quotes" if str(value) in values else
            f"{column} holds numbers: write {value} without quotes"
            for column, values in self._values.items()
            for value in wanted[column]
            if value not in values and str(value) in map(str, values)
        ]  # fmt: skip
        hint = f". {'; '.join(spelled)}" if spelled else ""
        values = "; ".join(f"{column}: {_shown(values)}" for column, values in self._values.items())
        return DataError(
            f"`where` leaves none of the {num_rows} rows of source {self._name!r}",
            got=dict(self._segment.where),
            remedy=f"The first values of these columns are {values}{hint}",
        )

    @property
    def columns(self) -> list[str]:
        """The columns of the first rows, or of all of them while a needed one is missing."""
        return sorted(self._columns)[:_COLUMNS_SHOWN]

    def refuse_unknown(self, files: Iterable[OpenableFile]) -> None:
        """Raises UserError for the columns of no row; a source without any well-formed row is refused elsewhere."""
        if not (self._missing and self._columns):
            return
        for file in files:
            all_columns = getattr(READERS.resolve(format_of(file, self._options)), "columns", None)
            if all_columns:  # its rows hold only the columns asked for
                self._columns.update(all_columns(file, self._options))
        raise self._unknown()

    def _unknown(self) -> UserError:
        segment = self._segment
        keys = {"id_column": (segment.id_column,), "slice": (segment.slice,), "provenance": segment.provenance}
        keys |= {"where": tuple(segment.where), "sample.by": (segment.sample.by if segment.sample else None,)}
        keys |= {"text_column": (segment.text_column,)}
        named = [
            f"{key}: {column}" for column in sorted(self._missing) for key, names in keys.items() if column in names
        ]
        return UserError(
            f"source {self._name!r} has no row with this column",
            got=", ".join(named or sorted(self._missing)),
            remedy=f"The columns are {self.columns}",
        )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(values: Sequence[Any]) -> str:
    texts = [repr(value)[:_VALUE_CHARACTERS] for value in values]
    return ", ".join(texts) + (" ..." if len(texts) == _VALUES_SHOWN else "")
