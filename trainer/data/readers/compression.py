"""Decompresses a file to its last byte, or raises: the streams of the libraries pass over what they cannot read.

bz2 and lzma ignore whatever follows the first member and is not another one, so a damaged second member is lost without
a word; Zstandard's stream ends where a file was cut off as if it were whole; gzip takes an empty file for a whole one.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from typing_extensions import Buffer, override

BLOCK_BYTES = 1 << 20
_INPUT_BYTES = 1 << 13  # Zstandard makes 32,768 bytes of one at most: 256 MB at a time
_PADDING = (".gz", ".xz")  # formats whose tools pass over zero bytes at the end, as a tape has them
_MOST_PADDING_BYTES = 1 << 16
_MOST_WINDOW_BYTES = 1 << 31  # of Zstandard's format on 64-bit machines: `zstd --long=31`


class DamagedFileError(OSError):
    """A compressed file that is cut off, damaged, or not compressed as its name says."""


def _zstandard() -> Callable[[], Any]:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES).decompressobj


_NEW_MEMBER: dict[str, Callable[[], Callable[[], Any]]] = {
    ".gz": lambda: lambda: zlib.decompressobj(wbits=31),
    ".xz": lambda: lzma.LZMADecompressor,
    ".bz2": lambda: bz2.BZ2Decompressor,
    ".zst": _zstandard,
}
COMPRESSED = tuple(_NEW_MEMBER)


class Decompressed(io.RawIOBase):
    """All members (frames, streams) of a compressed file, one after the other. Reading raises ``DamagedFileError``."""

    def __init__(self, stream: IO[bytes], compression: str) -> None:
        self._stream, self._compression = stream, compression
        self._new_member = _NEW_MEMBER[compression]()
        self._member: Any = None
        self._input = b""
        self._ready = memoryview(b"")

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        while not self._ready:
            if not self._decompress_more():
                return 0
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress_more(self) -> bool:
        """Whether there was anything left to decompress."""
        if (self._member is None or self._member.eof) and not self._begin_member():
            return False
        needs_input = getattr(self._member, "needs_input", True)
        if needs_input and not self._input:
            self._input = self._stream.read(_INPUT_BYTES)
            if not self._input:
                raise DamagedFileError("the compressed file ends in the middle")
        block, self._input = (self._input, b"") if needs_input else (b"", self._input)
        self._ready = memoryview(self._decompress(block))
        if self._member.eof:
            self._input = self._member.unused_data or b""
        return True

    def _decompress(self, block: bytes) -> bytes:
        try:
            if hasattr(self._member, "needs_input"):  # those of bz2 and lzma can be told how much to give
                return bytes(self._member.decompress(block, BLOCK_BYTES))
            return bytes(self._member.decompress(block))
        except Exception as error:  # each library has an exception of its own
            raise DamagedFileError(f"the compressed data are damaged, or not {self._compression}: {error}") from error

    def _begin_member(self) -> bool:
        """Begins the next member; False at the end of the file."""
        is_first, padding = self._member is None, 0
        while True:
            if not is_first and self._compression in _PADDING and padding < _MOST_PADDING_BYTES:
                without = self._input.lstrip(b"\0")
                padding, self._input = padding + len(self._input) - len(without), without
            if self._input:
                break
            self._input = self._stream.read(_INPUT_BYTES)
            if not self._input:
                if is_first:
                    raise DamagedFileError("the compressed file is empty")
                return False
        self._member = self._new_member()
        return True

    @override
    def close(self) -> None:
        self._stream.close()
        super().close()
