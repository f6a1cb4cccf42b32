"""Parquet, read in record batches of the needed columns."""

from collections.abc import Iterator, Sequence
from typing import Any

from trainer.base.errors import DataError
from trainer.data.readers.arrow import class_names, needed_names, require_text_column, table_rows
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

SUFFIXES = (".parquet",)
_BATCH_ROWS = 256


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per record, with the needed columns that the file has."""
    import pyarrow

    with file.open() as stream:
        table = _opened(file, stream)
        schema = table.schema_arrow
        require_text_column(schema.names, options, file.path)
        needed = needed_names(schema.names, options, file.path)
        if not table.metadata.num_rows:
            return
        number = 0
        try:
            for row in table_rows(table.iter_batches(_BATCH_ROWS, columns=needed), file.name, class_names(schema)):
                number = row.line
                yield row
        except (pyarrow.ArrowException, OSError) as error:
            got = f"{error}, after row {number}"
            raise DataError("a parquet file cannot be read to its end", got=got, file=file.path) from error
        if number != table.metadata.num_rows:
            got = f"{number} of {table.metadata.num_rows} rows"
            raise DataError("a parquet file cannot be read to its end", got=got, file=file.path)


def columns(file: OpenableFile, options: ReadOptions) -> Sequence[str]:
    """All columns of the file."""
    with file.open() as stream:
        names: list[str] = _opened(file, stream).schema_arrow.names
        return names


def _opened(file: OpenableFile, stream: Any) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(stream, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        remedy = "Is it whole?"
        raise DataError("a parquet file cannot be opened", got=str(error), remedy=remedy, file=file.path) from error
