"""The files that a segment is read from: its own, or its local index."""

from pathlib import Path

from trainer.data.account import FileAccount
from trainer.data.config import DataConfig
from trainer.data.find import find_files, is_indexed
from trainer.data.index import index_account, index_file
from trainer.data.readers import OpenableFile


def files_of(config: DataConfig, name: str, base: Path, cache: Path) -> list[OpenableFile]:
    """The files that segment ``name`` is read from: its own, or its local index."""
    segment = config.every_segment[name]
    if is_indexed(segment):
        return [OpenableFile(str(index_file(config, name, base, cache)), "index")]
    return find_files(segment, base).files


def file_account(config: DataConfig, name: str, base: Path, cache: Path) -> FileAccount:
    """The files that segment ``name`` comes from, and those left out."""
    segment = config.every_segment[name]
    if is_indexed(segment):
        return index_account(index_file(config, name, base, cache))
    found = find_files(segment, base)
    num_bytes = sum(Path(file.path).stat().st_size for file in found.files)
    return FileAccount(read=len(found.files), num_bytes=num_bytes, skipped=found.skipped)
