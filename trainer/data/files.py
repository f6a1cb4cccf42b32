"""The files that a segment is read from: its own, or its local index."""

from pathlib import Path

from trainer.data.account import FileAccount
from trainer.data.config import DataConfig
from trainer.data.find import FoundFiles, find_files, is_indexed
from trainer.data.index import index_account, index_file
from trainer.data.readers import OpenableFile
from trainer.data.source_config import Rows


def found_files(config: DataConfig, name: str, base: Path, cache: Path) -> FoundFiles:
    """The files that segment ``name`` is read from: its own, with what was left out beside them, or its local index."""
    segment = config.every_segment[name]
    if is_indexed(segment):
        return FoundFiles([OpenableFile(str(index_file(config, name, base, cache)), "index")])
    return find_files(segment, base)


def files_of(config: DataConfig, name: str, base: Path, cache: Path) -> list[OpenableFile]:
    """The files that segment ``name`` is read from: its own, or its local index."""
    return found_files(config, name, base, cache).files


def file_account(config: DataConfig, name: str, base: Path, cache: Path) -> FileAccount:
    """The files that segment ``name`` comes from, and those left out."""
    return account_of(config.every_segment[name], found_files(config, name, base, cache))


def account_of(segment: Rows, found: FoundFiles) -> FileAccount:
    """The files that a segment comes from, and those left out, where they were found before."""
    if is_indexed(segment):
        return index_account(Path(found.files[0].path))
    num_bytes = sum(Path(file.path).stat().st_size for file in found.files)
    return FileAccount(read=len(found.files), num_bytes=num_bytes, skipped=found.skipped)
