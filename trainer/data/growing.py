"""A .npy file that grows by appending: the header leaves room for the first axis to grow to 21 digits, so it is written
first and corrected in place at the end.
"""

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def _write_header(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, facts)


class GrowingArray:
    """A .npy file that is appended to; its last axes are fixed."""

    def __init__(self, file: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...] = ()) -> None:
        self._stream = file.open("w+b")
        self._dtype, self._row_shape = dtype, row_shape
        _write_header(self._stream, dtype, (0, *row_shape))
        self._start = self._stream.tell()

    def append(self, values: NDArray[Any]) -> None:
        """Appends values, in C order."""
        self._stream.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())

    def close(self) -> int:
        """Corrects the header, and returns the length of the first axis."""
        row_bytes = self._dtype.itemsize * int(np.prod(self._row_shape, dtype=np.int64))
        length = (self._stream.tell() - self._start) // row_bytes
        self._stream.seek(0)
        _write_header(self._stream, self._dtype, (length, *self._row_shape))
        assert self._stream.tell() == self._start, "the header must not move the data"
        self._stream.close()
        return length
