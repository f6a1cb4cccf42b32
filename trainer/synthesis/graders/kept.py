"""A file of JSON lines that is appended to and survives a kill: what is in it need not be made, or paid for, twice."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from trainer.base.errors import UserError

_SYNC_EVERY_S = 2.0


class Kept:
    """Records by their ``key``, in ``file``, which one process at a time writes; a line that a kill cut short is
    dropped.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.records: dict[str, Mapping[str, Any]] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if file.exists() else 0
        self._stream = file.open("r+b" if file.exists() else "w+b")
        self._stream.truncate(whole)
        self._stream.seek(whole)
        self._synced_s = time.monotonic()

    def _read(self) -> int:
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                self.records[record["key"]] = record
            except (ValueError, TypeError, KeyError) as error:
                remedy = "Remove the line: what it held is made again"
                raise UserError("a line is damaged", file=self.file, line=number, remedy=remedy) from error
        return whole

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Keeps the records: out of this process when this returns, on the disk within seconds or at ``close``."""
        kept = list(records)
        self._stream.write(b"".join(json.dumps(record).encode() + b"\n" for record in kept))
        self._stream.flush()
        if time.monotonic() - self._synced_s >= _SYNC_EVERY_S:
            self._sync()
        self.records.update((record["key"], record) for record in kept)

    def _sync(self) -> None:
        os.fsync(self._stream.fileno())
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """On the disk."""
        self._sync()
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
