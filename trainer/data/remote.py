"""Finds the files behind a URL of any scheme that fsspec knows; a server that does not answer is named."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from trainer.base.errors import DataError
from trainer.data.account import FileTally
from trainer.data.find import FoundFiles, chosen
from trainer.data.readers.remote_file import within
from trainer.data.source_config import Rows
from trainer.data.walk import Pattern, WalkedFile, why_left_out

_LISTING = 20  # a large folder takes many answers


def remote_files(config: Rows, timeout_s: float) -> FoundFiles:
    """One file, those of a pattern, or those of a folder. Raises UserError where there is none, or no answer."""
    url = str(config.path)
    try:
        root, pattern, files = _listed(url, timeout_s)
    except (ImportError, OSError, ValueError) as error:  # ImportError: the scheme needs a package such as s3fs
        remedy = "Check the path, the credentials and the network"
        raise DataError("remote files cannot be listed", got=url, remedy=f"{error}. {remedy}") from error

    tally, walked = FileTally(), []
    for file in files:
        name = file[len(root) :].strip("/") if file.startswith(root) and file != root else PurePosixPath(file).name
        if pattern and (reason := _why_left_out(name, pattern)):
            tally.skip(reason, name)
        else:
            walked.append(WalkedFile(file, name))
    found = chosen(config, walked, tally, pattern, file=url)
    return replace(found, files=[replace(file, timeout_s=timeout_s) for file in found.files])


def _listed(url: str, timeout_s: float) -> tuple[str, Pattern | None, list[str]]:
    """Where the source begins, what is looked for below it (None: the file itself), and the files, as URLs."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    parts = path.split("/")
    wild = next((place for place, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    root = "/".join(parts[:wild])
    is_folder = within(timeout_s, url, lambda: system.isdir(root))  # the question by which a silent server is found
    if wild < len(parts):
        pattern, paths = Pattern(tuple(parts[wild:])), within(_LISTING * timeout_s, url, lambda: system.glob(path))
    elif is_folder:
        pattern, paths = Pattern(), within(_LISTING * timeout_s, url, lambda: system.find(path))
    else:
        pattern, paths = None, [path] if within(timeout_s, url, lambda: system.exists(path)) else []
    return str(system.unstrip_protocol(root)), pattern, [str(system.unstrip_protocol(file)) for file in sorted(paths)]


def _why_left_out(name: str, pattern: Pattern) -> str | None:
    *folders, last = PurePosixPath(name).parts
    reasons: list[Any] = [
        None if pattern.names(part) else why_left_out(part, is_folder=is_folder)
        for part, is_folder in [*((folder, True) for folder in folders), (last, False)]
    ]
    return next((reason for reason in reasons if reason), None)
