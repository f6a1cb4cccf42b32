"""Parquet, read in record batches of the needed columns."""

from collections.abc import Iterator, Sequence
from typing import Any

from trainer.base.errors import DataError
from trainer.data.readers.arrow import require_text_column, table_rows
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

SUFFIXES = (".parquet",)
_BATCH_ROWS = 256


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per record, with the needed columns that the file has."""
    import pyarrow

    with file.open() as stream:
        table = _opened(file, stream)
        names = table.schema_arrow.names
        require_text_column(names, options, file.path)
        needed = [column for column in options.columns if column in names]
        try:
            yield from table_rows(table.iter_batches(_BATCH_ROWS, columns=needed), file.name)
        except pyarrow.ArrowException as error:
            raise DataError("a parquet file cannot be read to its end", got=str(error), file=file.path) from error


def columns(file: OpenableFile, options: ReadOptions) -> Sequence[str]:
    """All columns of the file."""
    with file.open() as stream:
        names: list[str] = _opened(file, stream).schema_arrow.names
        return names


def _opened(file: OpenableFile, stream: Any) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(stream)
    except pyarrow.ArrowException as error:
        raise DataError("a parquet file cannot be opened", got=str(error), file=file.path) from error
