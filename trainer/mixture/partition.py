"""How a global batch is split over ranks and micro-batches: by position in the batch, which is sorted by source.

Taking every n-th position of a sorted batch gives each of the n parts every source within one sample of its due.
"""

# G samples of the global batch, R ranks, M micro-batches per rank

from dataclasses import dataclass

import numpy as np

from trainer.base.records import IntArray


def accumulation(global_batch: int, world_size: int, micro_batch: int) -> int:
    """Forwards per rank and step, M: the same on every rank, for any world size, also with more ranks than samples."""
    return max(1, -(-global_batch // (world_size * micro_batch)))


@dataclass(frozen=True, kw_only=True)
class RankPartition:
    """The part of every global batch that rank ``rank`` of ``world_size`` trains on, in micro-batches of at most
    ``micro_batch`` samples.
    """

    rank: int
    world_size: int
    micro_batch: int

    def positions(self, global_batch: int) -> list[IntArray]:
        """Positions in the sorted batch of each of this rank's M micro-batches: each source within one of its part."""
        micro_batches = accumulation(global_batch, self.world_size, self.micro_batch)
        parts = self.world_size * micro_batches
        first = self.rank * micro_batches
        return [np.arange(first + m, global_batch, parts, dtype=np.int64) for m in range(micro_batches)]
