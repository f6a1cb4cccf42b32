"""Gathers what a teacher expects for the rows of this rank, beside their tokens."""

# R rows, S slots of all ranks, T tokens, k likeliest tokens, K = k + 1

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.base.records import IntArray
from trainer.data.batch_hash import SampleStore, SegmentSlots
from trainer.data.teacher_columns import Taught, TeacherColumns
from trainer.model.distillation import TeacherTargets


class Teachers:
    """The teacher's columns of the segments that it has read, by the numbers of source and segment."""

    def __init__(self, stores: Mapping[tuple[int, int], SampleStore], length: int) -> None:
        found = {pair: store.teacher for pair, store in stores.items() if isinstance(store, Taught)}
        self._columns: dict[tuple[int, int], TeacherColumns] = {pair: each for pair, each in found.items() if each}
        self._length = length
        self._top_k = next((columns.top_k for columns in self._columns.values()), 0)

    @property
    def bytes_per_token(self) -> int:
        """What the targets of a token take; 0 without a teacher."""
        return 4 * self._top_k + 2 * (self._top_k + 1) if self._columns else 0

    def read(
        self, parts: SegmentSlots, sample: IntArray, row_of_slot: IntArray, num_rows: int
    ) -> tuple[TeacherTargets | None, NDArray[np.bool_]]:
        """The targets of the rows, None in a run without a teacher; and which slots [S], of all ranks, have some."""
        is_taught = np.zeros(len(sample), dtype=np.bool_)
        if not self._columns:
            return None, is_taught
        ids = np.zeros((num_rows, self._length, self._top_k), dtype=np.int32)
        log_probabilities = np.zeros((num_rows, self._length, self._top_k + 1), dtype=np.float16)
        is_given = np.zeros(num_rows, dtype=np.bool_)
        for pair, slots in parts:
            if (columns := self._columns.get(pair)) is None:
                continue
            is_taught[slots] = True
            own = slots[row_of_slot[slots] >= 0]
            if own.size:
                rows = row_of_slot[own]
                ids[rows], log_probabilities[rows] = columns.gather(sample[own])
                is_given[rows] = True
        given = TeacherTargets(
            ids=torch.from_numpy(ids),
            log_probabilities=torch.from_numpy(log_probabilities),
            is_given=torch.from_numpy(is_given),
        )
        return given, is_taught
