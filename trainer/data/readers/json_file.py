"""JSON: a list of objects, or an object of objects (whose keys become the column `key`)."""

import json
from collections.abc import Iterator

from trainer.base.errors import DataError
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

SUFFIXES = (".json",)


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per entry. The file is read whole, so it has to fit in memory. UserError where it cannot be parsed."""
    try:
        with file.open_text() as stream:
            tree = json.loads(stream.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        remedy = "If it holds one object a line, write `format: jsonl`"
        raise DataError("a JSON file cannot be parsed", got=str(error), remedy=remedy, file=file.path) from error
    if not isinstance(tree, list | dict):
        raise DataError(
            "a JSON file must hold a list of objects or an object of objects", got=type(tree).__name__, file=file.path
        )
    entries = enumerate(tree) if isinstance(tree, list) else tree.items()
    for number, (key, entry) in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            yield Malformed(file.name, number, "not a JSON object")
        else:
            yield Row({"key": key, **entry} if isinstance(tree, dict) else entry, file.name, number)
