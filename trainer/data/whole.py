"""That a prepared store is what was written, to the last bit: hashed by one process of a launch, a large one once.

Reading a terabyte at each start would cost minutes, so a store that takes longer than a second or so is hashed the
first time that it is used after anything about its files has changed: a mark holds their sizes and times of change
(the inode's, which no copy and no program that sets times can keep). Whoever prepares a store leaves the mark beside
it; where nobody may write there, the user's own cache takes it. What changes without a change of times, as on a failing
disk, ``trainer audit RUN --files`` finds.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.base.atomic import write_text
from trainer.base.failures import say
from trainer.base.formatting import size
from trainer.data.fingerprint import default_cache
from trainer.data.store import PreparedData, open_prepared
from trainer.data.store_files import DamagedStoreError, StoredFile, wrong_content

SMALL_BYTES = 1 << 28  # hashed in about a second, at each launch


def open_whole(folder: Path) -> PreparedData:
    """Opens a store whose every file is what was written. Raises ``DamagedStoreError`` for another."""
    data = open_prepared(folder)
    require_whole(data)
    return data


def require_whole(data: PreparedData, note: Callable[[str], None] = say) -> None:
    """Raises ``DamagedStoreError`` where a file is not what was written; says so first where that takes a while."""
    if is_large(data):
        if is_marked(data):
            return
        num_bytes = sum(file.bytes for file in data.files.values())
        note(
            f"checking {size(num_bytes)} of prepared data in {data.folder}, once: nothing says yet that they are whole"
        )
    stamps = _stamps(data.folder, data.files)  # before: what changes while it is read is not marked
    if problem := wrong_content(data.folder, data.files):
        raise DamagedStoreError(data.folder, problem)
    if is_large(data):
        _write_mark(data, stamps)


def mark_whole(data: PreparedData) -> None:
    """Note that the store is whole, for who has just written it."""
    if is_large(data):
        _write_mark(data, _stamps(data.folder, data.files))


def is_large(data: PreparedData) -> bool:
    """Whether the store is hashed once and not at each launch."""
    return sum(file.bytes for file in data.files.values()) > SMALL_BYTES


def is_marked(data: PreparedData) -> bool:
    """Whether all files were found whole before, and none has changed since."""
    try:
        mark = {"seal": data.seal, "stamps": _stamps(data.folder, data.files)}
    except DamagedStoreError:
        return False
    return any(_read(place) == mark for place in _places(data.folder))


def _stamps(folder: Path, files: Mapping[str, StoredFile]) -> dict[str, list[int]]:
    """Size and time of change of each file. Raises ``DamagedStoreError`` where one cannot be looked at."""
    try:
        states = {name: (folder / name).stat() for name in files}
    except OSError as error:
        raise DamagedStoreError(folder, f"{error.filename} cannot be read: {error.strerror}") from None
    return {name: [state.st_size, state.st_ctime_ns] for name, state in states.items()}


def _places(folder: Path) -> Iterator[Path]:
    """Where a mark may be: beside the stores, and in the user's own cache."""
    yield folder.parent.parent / "runs" / f"{folder.name}.whole"
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    yield default_cache() / "runs" / f"{name}.whole"


def _read(place: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads(place.read_text(encoding="utf-8"))
    return None


def _write_mark(data: PreparedData, stamps: Mapping[str, list[int]]) -> None:
    text = json.dumps({"seal": data.seal, "stamps": stamps})
    for place in _places(data.folder):
        with suppress(OSError):
            write_text(place, text, durable=False)
            return
