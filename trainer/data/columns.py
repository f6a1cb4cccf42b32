"""Finds the columns that a recipe names and no row of a source has.

A misspelled one would give every document the slice "(none)", or the file and line for an id, without a word.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.base.errors import UserError
from trainer.data.config import DataConfig, SourceConfig, needed_columns
from trainer.data.readers import READERS, OpenableFile, ReadOptions, format_of

_COLUMNS_SHOWN = 30


def read_options(config: DataConfig, name: str) -> ReadOptions:
    """How the rows of segment ``name`` are read where they come from."""
    segment = config.every_segment[name]
    return ReadOptions(
        text_column=segment.text_column,
        columns=needed_columns(config, name),
        format=segment.format,
        text_unit=segment.text_unit,
        split=segment.split,
        max_row_bytes=config.max_row_bytes,
    )


class ColumnCheck:
    """Collects the columns of a segment's rows, and at the end refuses the needed ones that no row had."""

    def __init__(self, name: str, segment: SourceConfig, options: ReadOptions) -> None:
        self._name, self._segment, self._options = name, segment, options
        self._missing = {*options.columns} - {options.text_column}  # without a text a row is malformed, and counted
        self._columns: set[str] = set()

    def add(self, columns: Mapping[str, Any]) -> None:
        """Takes note of a row."""
        if self._missing:
            self._missing.difference_update(columns)
            self._columns.update(columns)

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
        named = [
            f"{key}: {column}" for column in sorted(self._missing) for key, names in keys.items() if column in names
        ]
        return UserError(
            f"source {self._name!r} has no row with this column",
            got=", ".join(named or sorted(self._missing)),
            remedy=f"The columns are {sorted(self._columns)[:_COLUMNS_SHOWN]}",
        )
