"""Reads a remote file, and gives up on a server that accepts and never answers."""

import io
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from typing_extensions import Buffer, override

from trainer.base.errors import DataError

T = TypeVar("T")


def within(timeout_s: float, url: str, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises. UserError where it takes longer; it is left behind in a thread of its own, since
    few of fsspec's file systems know a limit, and none of them by the same name.
    """
    outcome: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put((True, call()))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            outcome.put((False, error))

    Thread(target=work, daemon=True, name=f"remote {url}").start()
    try:
        is_returned, value = outcome.get(timeout=timeout_s)
    except Empty:
        remedy = "Check the URL and the network, or raise data.remote_timeout_s"
        raise DataError(f"no answer within {timeout_s:g} s", got=url, remedy=remedy) from None
    if is_returned:
        return value  # type: ignore[no-any-return]
    raise value


class RemoteFile(io.RawIOBase):
    """A file of fsspec, each read of which has to come back in ``timeout_s`` seconds."""

    def __init__(self, url: str, timeout_s: float) -> None:
        import fsspec

        self._url, self._timeout_s = url, timeout_s
        self._file: Any = within(timeout_s, url, lambda: fsspec.open(url, "rb", compression=None).open())

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return bool(self._file.seekable())

    @override
    def tell(self) -> int:
        return int(self._file.tell())

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        target = memoryview(buffer).cast("B")
        block = within(self._timeout_s, self._url, lambda: self._file.read(len(target)))
        target[: len(block)] = block
        return len(block)

    @override
    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
