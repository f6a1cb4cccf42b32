"""Data sets of the Hugging Face hub, through `datasets`."""

from collections.abc import Iterator

from trainer.base.errors import DataError
from trainer.data.readers.arrow import dataset_rows
from trainer.data.readers.rows import Malformed, ReadOptions, Row


def read(
    hub: str, options: ReadOptions, *, configuration: str | None, revision: str | None, streaming: bool
) -> Iterator[Row | Malformed]:
    """Rows of a split of a data set. ``UserError`` where it cannot be loaded, lacks a column, or breaks off."""
    import datasets
    import pyarrow

    try:
        data = datasets.load_dataset(
            hub, configuration, split=options.split or "train", revision=revision, streaming=streaming
        )
    except (OSError, ValueError) as error:  # hub errors and unknown configurations are OSError and ValueError
        remedy = "Check the id, the configuration, the split and the network (HF_HUB_OFFLINE, HF_TOKEN)"
        raise DataError(f"a data set cannot be loaded: {hub}", got=str(error), remedy=remedy) from error
    names = data.column_names or options.columns  # a stream may not know its columns before its first row
    if missing := sorted({*options.columns} - {*names, options.text_column}):
        raise DataError(
            f"the data set {hub} has no such column", got=missing, remedy=f"The columns are {sorted(names)}"
        )
    try:
        yield from dataset_rows(data, options, hub)
    except (OSError, datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException) as error:
        remedy = "Try again; a data set with a broken row cannot be read past it"
        raise DataError(
            f"reading a data set failed while it was indexed: {hub}", got=str(error), remedy=remedy
        ) from error
