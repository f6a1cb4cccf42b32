"""Names all data files that cannot be read in one message.

Whoever has fetched one file anew should not learn of the next an hour later, so after the first one that cannot be read
the rest is read as well, for its defects alone.
"""

from collections.abc import Iterable, Sequence

from trainer.base.errors import DataError
from trainer.data.readers import OpenableFile, ReadOptions, read_rows

MOST_NAMED = 50


class UnreadableFilesError(DataError):
    """Several data files that cannot be read; ``errors`` has one for each."""

    def __init__(self, errors: Sequence[DataError]) -> None:
        self.errors = tuple(errors)
        count = f"{len(errors)} data files" if len(errors) < MOST_NAMED else f"{MOST_NAMED} data files or more"
        super().__init__("\n  ".join([f"{count} cannot be read:", *map(str, errors)]))


def all_unreadable(first: DataError, others: Iterable[tuple[OpenableFile, ReadOptions]]) -> DataError:
    """``first`` together with what is wrong with ``others``, each of which is read to its end; ``first`` itself where
    they are whole.
    """
    errors = [first]
    for file, options in others:
        if len(errors) == MOST_NAMED:
            break
        try:
            for _ in read_rows([file], options):
                pass
        except DataError as error:
            errors.append(error)
    return first if len(errors) == 1 else UnreadableFilesError(errors)
