"""The first rows of the files of a recipe, as far as they are here: what can be told before anything is prepared."""

from collections.abc import Iterator
from itertools import islice

from trainer.base.errors import UserError
from trainer.data.columns import read_options
from trainer.data.find import is_indexed, local_files
from trainer.data.readers import READERS, Row, format_of, read_rows
from trainer.recipe import LoadedRecipe

SAMPLED_ROWS = 200
COLUMNS_SHOWN = 30


def first_rows(loaded: LoadedRecipe, name: str) -> list[Row]:
    """Well-formed rows of segment ``name``; none where its files are not here or cannot be read."""
    config = loaded.recipe.data
    segment = config.every_segment[name]
    if is_indexed(segment):
        return []
    try:
        files = local_files(segment, loaded.folder)
        return [
            row for row in islice(read_rows(files, read_options(config, name)), SAMPLED_ROWS) if isinstance(row, Row)
        ]
    except UserError:
        return []


def missing_texts(loaded: LoadedRecipe) -> Iterator[UserError]:
    """What is wrong with the first rows of each source: a file that cannot be read, or none of them has the column of
    the text; with the columns that they have.
    """
    for name, segment in loaded.recipe.data.every_segment.items():
        try:
            columns = _columns(loaded, name)
        except UserError as error:
            yield error
            continue
        if columns and segment.text_column not in columns:
            shown = ", ".join(sorted(columns)[:COLUMNS_SHOWN])
            yield UserError(
                f"source {name!r} has no text: none of its first rows has the column {segment.text_column!r}",
                remedy=f"Set its text_column to one of its columns: {shown}",
            )


def _columns(loaded: LoadedRecipe, name: str) -> set[str]:
    """The columns of a segment's first file; none where that is not known."""
    config = loaded.recipe.data
    segment, options = config.every_segment[name], read_options(config, name)
    if is_indexed(segment):
        return set()
    try:
        file = local_files(segment, loaded.folder)[0]
    except UserError:
        return set()  # a plan may be made elsewhere; check has looked for the files
    of_file = getattr(READERS.resolve(format_of(file, options)), "columns", None)
    if of_file is not None:  # its rows hold only the columns asked for
        return set(of_file(file, options))
    rows = islice(read_rows([file], options), SAMPLED_ROWS)
    return {column for row in rows if isinstance(row, Row) for column in row.columns}
