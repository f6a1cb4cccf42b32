"""What every reader gives and takes: rows, malformed rows, files that can be opened, and options."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, cast

from typing_extensions import Buffer, override

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
_BLOCK_BYTES = 1 << 20


class Row(NamedTuple):
    """A well-formed row: its columns, and where it stands."""

    columns: "Mapping[str, Any]"
    file: str
    line: int


class Malformed(NamedTuple):
    """A row that cannot be used, where it stands, and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a recipe says of the rows in a file. A reader gives at least ``columns`` where a row has them."""

    text_column: str
    columns: tuple[str, ...]
    format: str | None = None  # default: from the file's suffix
    text_unit: Literal["line", "file"] = "line"
    split: str = "train"
    max_row_bytes: int = 8_000_000

    @property
    def too_long(self) -> str:
        """The reason of a row over the limit."""
        return f"row over {self.max_row_bytes} bytes"


@dataclass(frozen=True)
class OpenableFile:
    """A data file: a local path, or a URL of any file system that fsspec knows (``s3://``, ``memory://`` ...)."""

    path: str

    @property
    def name(self) -> str:
        """The last part of the path, compression included."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """The suffix that tells the format, in lower case and without compression; empty where there is none."""
        suffixes = [suffix.lower() for suffix in PurePosixPath(self.path).suffixes]
        plain = [suffix for suffix in suffixes if suffix not in COMPRESSED]
        return plain[-1] if plain else ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a local folder, as ``save_to_disk`` writes it."""
        return "://" not in self.path and Path(self.path).is_dir()

    def open(self) -> IO[bytes]:
        """The file's bytes, decompressed by suffix. Reading raises ``EOFError`` where a compressed file is cut off."""
        compression = PurePosixPath(self.path).suffix.lower()
        if "://" not in self.path and compression not in COMPRESSED:
            return Path(self.path).open("rb", buffering=_BLOCK_BYTES)
        import fsspec

        raw = fsspec.open(self.path, "rb", compression=None if compression == ".zst" else "infer").open()
        return io.BufferedReader(_Zstandard(raw) if compression == ".zst" else cast(Any, raw), _BLOCK_BYTES)


class _Zstandard(io.RawIOBase):
    """Decompresses all frames of a Zstandard file. The library's own stream stops at the end of a file that was cut
    off as if it were whole.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        import zstandard

        self._stream = stream
        self._new_frame: Callable[[], Any] = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
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
        begins = self._frame is None or self._frame.eof
        block = self._frame.unused_data if self._frame is not None and begins else b""
        block = block or self._stream.read(_BLOCK_BYTES)
        if not block:
            if begins:
                return False
            raise EOFError("the compressed file ends inside a frame")
        if begins:
            self._frame = self._new_frame()
        self._ready = memoryview(self._frame.decompress(block))
        return True

    @override
    def close(self) -> None:
        self._stream.close()
        super().close()


def numbered_lines(file: OpenableFile, max_row_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines from 1 on, without their line ends; None for a line over the limit, which is skipped piecewise, so that a
    file without line ends cannot fill the memory.
    """
    with file.open() as stream:
        number = 0
        while line := stream.readline(max_row_bytes + 2):
            number += 1
            body = line.rstrip(b"\r\n")
            if len(body) <= max_row_bytes:
                yield number, body.removeprefix(b"\xef\xbb\xbf") if number == 1 else body
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(max_row_bytes)
            yield number, None
