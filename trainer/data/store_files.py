"""The files of a prepared store as they were written, and what has become of them since.

Sizes are compared whenever a store is opened, and what opening reads whole is compared with its SHA-256
(``trainer.data.store``). The rest, nearly all of the bytes, is hashed by one process of a launch
(``trainer.data.whole``).
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from trainer.base.errors import DataError

HASHING_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as it was written."""

    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**saved)


class DamagedStoreError(DataError):
    """A prepared store that is not what was written: ``problem`` names the file."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder, self.problem = folder, problem
        super().__init__(
            f"the prepared data are damaged: {problem}",
            file=folder,
            remedy="Delete that folder: the next start of a run with this data prepares it again from the sources",
        )

    def __reduce__(self) -> tuple[type[Self], tuple[Path, str]]:
        return type(self), (self.folder, self.problem)


def files_in(folder: Path) -> dict[str, StoredFile]:
    """All files below a folder as they are now, by their names in it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name: StoredFile(bytes=(folder / name).stat().st_size, sha256=digest)
        for name, digest in zip(names, _digests(folder, names), strict=True)
    }


def wrong_size(folder: Path, files: Mapping[str, StoredFile]) -> str | None:
    """The first file that is missing or has another size, in words; None where all are there."""
    for name, file in files.items():
        try:
            num_bytes = (folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if num_bytes != file.bytes:
            return f"{name} has {num_bytes} bytes, {file.bytes} were written"
    return None


def wrong_content(folder: Path, files: Mapping[str, StoredFile]) -> str | None:
    """The first file that does not match its SHA-256, in words; None where all do."""
    try:
        for (name, file), digest in zip(files.items(), _digests(folder, files), strict=True):
            if digest != file.sha256:
                return f"{name} does not match its SHA-256"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"
    return None


def read_checked(folder: Path, name: str, files: Mapping[str, StoredFile]) -> bytes:
    """The content of a file. Raises ``DamagedStoreError`` where it is not what was written."""
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise DamagedStoreError(folder, f"{name} is missing") from None
    if hashlib.sha256(content).hexdigest() != files[name].sha256:
        raise DamagedStoreError(folder, f"{name} does not match its SHA-256")
    return content


def _digests(folder: Path, names: Iterable[str]) -> Iterable[str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with ThreadPoolExecutor(HASHING_THREADS) as pool:  # hashing leaves Python's lock to the others
        return list(pool.map(digest, names))
