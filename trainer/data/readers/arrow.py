"""Arrow: a file, or a folder as `save_to_disk` of `datasets` writes it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trainer.base.errors import DataError
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

SUFFIXES = (".arrow",)
_BATCH_ROWS = 256


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per record, with the needed columns that the data set has."""
    yield from dataset_rows(_opened(file, options), options, file.name)


def columns(file: OpenableFile, options: ReadOptions) -> Sequence[str]:
    """All columns of the data set."""
    names: list[str] = _opened(file, options).column_names
    return names


def dataset_rows(data: Any, options: ReadOptions, name: str) -> Iterator[Row | Malformed]:
    """Rows of a data set of `datasets` (map style or iterable), with the needed columns that it has."""
    names = data.column_names or []
    require_text_column(names, options, name)
    needed = [column for column in options.columns if column in names]
    if needed:
        yield from table_rows(data.select_columns(needed).with_format("arrow").iter(batch_size=_BATCH_ROWS), name)


def table_rows(tables: Iterable[Any], name: str) -> Iterator[Row | Malformed]:
    """Rows of Arrow tables or record batches, numbered from 1 on."""
    number = 0
    for table in tables:
        names = table.schema.names
        for index in range(table.num_rows):
            number += 1
            try:
                yield Row({column: table.column(column)[index].as_py() for column in names}, name, number)
            except UnicodeDecodeError:
                yield Malformed(name, number, "bad UTF-8")


def require_text_column(names: Sequence[str], options: ReadOptions, name: str) -> None:
    """Raises UserError where a data set has columns, but not the one that holds the text."""
    if names and options.text_column not in names:
        remedy = f"The columns are {sorted(names)}"
        raise DataError("the text column does not exist", got=options.text_column, remedy=remedy, file=name)


def _opened(file: OpenableFile, options: ReadOptions) -> Any:
    import datasets

    if "://" in file.path:
        raise DataError(
            "an arrow file is read from a local path only", got=file.path, remedy="Copy it, or store it as parquet"
        )
    try:
        if file.is_folder:
            data = datasets.load_from_disk(file.path)
            return data[options.split] if isinstance(data, datasets.DatasetDict) else data
        return datasets.Dataset.from_file(file.path)
    except (KeyError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError("an arrow file cannot be opened", got=str(error), file=file.path) from error
