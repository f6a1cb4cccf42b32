"""Names all data files that cannot be read in one message.

Whoever has fetched one file anew should not learn of the next an hour later, so after the first one that cannot be read
the rest is read as well, for its defects alone.
"""

from collections.abc import Iterable, Sequence

from trainer.base.errors import DataError
from trainer.base.failures import warn
from trainer.data.readers import OpenableFile, ReadOptions, read_rows

MOST_NAMED = 50


class UnreadableFilesError(DataError):
    """Several data files that cannot be read; ``errors`` has one for each."""

    def __init__(self, errors: Sequence[DataError]) -> None:
        self.errors = tuple(errors)
        count = f"{len(errors)} data files" if len(errors) < MOST_NAMED else f"{MOST_NAMED} data files or more"
        super().__init__("\n  ".join([f"{count} cannot be read:", *map(str, errors)]))


def more_unreadable(
    first: DataError, others: Iterable[tuple[OpenableFile, ReadOptions]]
) -> UnreadableFilesError | None:
    """``first`` together with what is wrong with ``others``, each of which is read to its end; None where they are
    whole. ``first`` is told before, because reading a large corpus takes long.
    """
    errors = [first]
    for place, (file, options) in enumerate(others):
        if place == 0:
            warn(f"{first}\n  Reading on, to name every data file that cannot be read")
        if len(errors) == MOST_NAMED:
            break
        try:
            for _ in read_rows([file], options):
                pass
        except DataError as error:
            errors.append(error)
    return UnreadableFilesError(errors) if len(errors) > 1 else None
