"""Memory-mapped arrays of a prepared store that keep little of themselves in memory."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]

# The kernel maps 16 pages around each page touched. Mapped pages count as resident memory until they are given back,
# so a pass over a large store would seem to hold all of it; after about this much they are handed back (they stay in
# the page cache).
_FAULT_AROUND_BYTES = 16 * mmap.PAGESIZE
_RESIDENT_BYTES = 256 << 20


class MappedRows:
    """A read-only .npy file, gathered by rows, that never keeps more than about 256 MB of itself
    resident.
    """

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._is_large = len(self._map) > _RESIDENT_BYTES
        self._touched_bytes = 0
        self.array: NDArray[Any] = np.frombuffer(self._map, dtype=dtype, offset=start).reshape(shape)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """``array[rows]``."""
        out: NDArray[Any] = self.array[rows]
        if self._is_large:
            self._touched_bytes += len(rows) * (_FAULT_AROUND_BYTES + self.array.strides[0])
            if self._touched_bytes > _RESIDENT_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._touched_bytes = 0
        return out
