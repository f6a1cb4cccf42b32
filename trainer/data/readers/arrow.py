"""Arrow: a file in the file or the stream format."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from trainer.base.errors import DataError
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

SUFFIXES = (".arrow", ".feather", ".ipc")
_BATCH_ROWS = 256
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\0\0\0\0"  # the length of a message that is none


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per record, with the needed columns that the file has."""
    import pyarrow

    number = 0
    try:
        with _batches(file) as (schema, batches):
            require_text_column(schema.names, options, file.path)
            needed = needed_names(schema.names, options, file.path)
            chosen = (batch.select(needed) for batch in batches)
            for row in table_rows(chosen, file.name, class_names(schema)):
                number = row.line
                yield row
    except (pyarrow.ArrowException, EOFError, OSError) as error:
        got, remedy = f"{error}, after row {number}", "Is it whole?"
        raise DataError("an arrow file cannot be read to its end", got=got, remedy=remedy, file=file.path) from error


def columns(file: OpenableFile, options: ReadOptions) -> Sequence[str]:
    """All columns of the file."""
    with _batches(file) as (schema, _):
        return list(schema.names)


def dataset_rows(data: Any, options: ReadOptions, name: str) -> Iterator[Row | Malformed]:
    """Rows of a data set of `datasets` (map style or iterable), with the needed columns that it has."""
    import datasets

    names = data.column_names or []
    require_text_column(names, options, name)
    needed = [column for column in options.columns if column in names]
    if not needed or (isinstance(data, datasets.Dataset) and not len(data)):
        return
    labels = {
        column: feature.names
        for column, feature in (data.features or {}).items()
        if isinstance(feature, datasets.ClassLabel)
    }
    tables = data.select_columns(needed).with_format("arrow").iter(batch_size=_BATCH_ROWS)
    yield from table_rows(tables, name, labels)


def table_rows(tables: Iterable[Any], name: str, labels: Mapping[str, Sequence[str]]) -> Iterator[Row | Malformed]:
    """Rows of Arrow tables or record batches, numbered from 1 on. ``labels``: the names behind numbers, by column."""
    number = 0
    for table in tables:
        columns = [(column, table.column(column), labels.get(column)) for column in table.schema.names]
        for index in range(table.num_rows):
            number += 1
            try:
                cells = {column: _named(values[index].as_py(), names) for column, values, names in columns}
            except UnicodeDecodeError:
                yield Malformed(name, number, "bad UTF-8")
            except (ValueError, OverflowError) as error:  # such as a time that Python's cannot hold
                yield Malformed(name, number, f"a value cannot be read: {error}")
            else:
                yield Row(cells, name, number)


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names behind the numbers of each ClassLabel column, from what `datasets` writes beside an Arrow schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: kind["names"] for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def require_text_column(names: Sequence[str], options: ReadOptions, name: str) -> None:
    """Raises UserError where a data set has columns, but not the one that holds the text."""
    if names and options.text_column not in names:
        remedy = f"The columns are {sorted(names)}"
        raise DataError("the text column does not exist", got=options.text_column, remedy=remedy, file=name)


def needed_names(names: Sequence[str], options: ReadOptions, name: str) -> list[str]:
    """The columns asked for that there are. Raises UserError where two have one name."""
    needed = [column for column in options.columns if column in names]
    if twice := [column for column in needed if names.count(column) > 1]:
        raise DataError("two columns have one name", got=twice, remedy="Rename one of them", file=name)
    return needed


def _named(value: Any, names: Sequence[str] | None) -> Any:
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None  # -1: without a label


@contextmanager
def _batches(file: OpenableFile) -> Iterator[tuple[Any, Iterable[Any]]]:
    """Schema and record batches of an arrow file."""
    from pyarrow import ipc

    with file.open() as stream:
        if stream.peek(len(_FILE_FORMAT)).startswith(_FILE_FORMAT):
            table = ipc.open_file(stream if stream.seekable() else stream.read())
            yield table.schema, (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            marked = _Watched(stream)
            table = ipc.open_stream(marked)
            yield table.schema, _to_end(table, marked)


class _Watched:
    """A stream that keeps the last block read."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.last = stream, b""

    def read(self, size: int = -1) -> bytes:
        self.last = self._stream.read(size)
        return self.last


def _to_end(batches: Iterable[Any], stream: _Watched) -> Iterator[Any]:
    """The batches. ``EOFError`` where the end mark is missing or is not the end: the library takes a stream that was
    cut off between two batches for a whole one, and does not see a second stream after the first.
    """
    yield from batches
    if stream.last != _END_OF_STREAM:
        raise EOFError("the stream has no end mark")
    if stream.read(1):
        raise EOFError("the file continues after the end mark")
