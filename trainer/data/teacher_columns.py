"""What a teacher expects after each token of a prepared segment: two columns beside the tokens, sample by sample.

The teacher reads the samples as they are packed and cut, not the documents, so that it knows of each token what the
student knows. A token takes k ids as wide as the tokens', and k + 1 half-precision log-probabilities.
"""

# n samples, T tokens of a sample, k likeliest tokens, K = k + 1

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trainer.data.growing import GrowingArray
from trainer.data.mapped import MappedRows

if TYPE_CHECKING:
    from trainer.model.teacher import Teacher

IDS, LOG_PROBABILITIES = "teacher_ids.npy", "teacher_log_probabilities.npy"


class TeacherColumns:
    """The columns of one segment."""

    def __init__(self, folder: Path) -> None:
        self._ids, self._log_probabilities = MappedRows(folder / IDS), MappedRows(folder / LOG_PROBABILITIES)

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Those in a segment's folder; None where no teacher has read it."""
        return cls(folder) if (folder / IDS).is_file() else None

    @property
    def top_k(self) -> int:
        """How many tokens are told of each distribution."""
        return int(self._ids.array.shape[-1])

    def gather(self, samples: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.float16]]:
        """The likeliest tokens [n, T, k] after each token, the likeliest first, and the log-probabilities [n, T, K] of
        these and of all others together. What follows a sample's last valid token means nothing.
        """
        return self._ids.gather(samples), self._log_probabilities.gather(samples)


@runtime_checkable
class Taught(Protocol):
    """A store of samples that a teacher may have read."""

    @property
    def teacher(self) -> TeacherColumns | None:
        """What it expects; None where none has."""
        ...


class _Samples(Protocol):
    """What is read of a prepared segment."""

    @property
    def folder(self) -> Path: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def sequence_length(self) -> int: ...
    def gather(self, samples: NDArray[np.int64], /) -> NDArray[Any]: ...


def write_columns(segment: _Samples, teacher: "Teacher", *, batch: int, note: Callable[[int], None]) -> None:
    """Has the teacher read all samples of a segment, ``batch`` at a time; ``note`` is told how many are done."""
    dtype = segment.gather(np.zeros(1, dtype=np.int64)).dtype
    shape = (segment.sequence_length, teacher.top_k)
    ids = GrowingArray(segment.folder / IDS, dtype, shape)
    log_probabilities = GrowingArray(
        segment.folder / LOG_PROBABILITIES, np.dtype(np.float16), (shape[0], teacher.top_k + 1)
    )
    for start in range(0, segment.num_samples, batch):
        samples = np.arange(start, min(start + batch, segment.num_samples))
        likeliest, expected = teacher.distributions(segment.gather(samples).astype(np.int64))
        ids.append(likeliest)
        log_probabilities.append(expected)
        note(int(samples[-1]) + 1)
    ids.close()
    log_probabilities.close()
