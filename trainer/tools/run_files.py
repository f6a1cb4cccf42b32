"""Whether the files that a run rests on are what was written: every byte of them, marks and times of change aside."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.base.errors import UserError
from trainer.tracking.journal import prefix_digest
from trainer.tracking.schema import read_journal
from trainer.training import checkpoint
from trainer.training.run import SavedOffsets


@dataclass(frozen=True)
class FileFinding:
    """What was looked at, and what is wrong with it, in words; None where nothing is."""

    what: str
    problem: str | None


def check_files(folder: Path, store: Path | None) -> Iterator[FileFinding]:
    """The run's journal, checkpoints and ledger in ``folder``, and the prepared data in ``store``."""
    yield _journal(folder / "journal.jsonl")
    root = folder / "checkpoints"
    for saved in sorted(root.glob("step-*")):
        yield FileFinding(str(saved), checkpoint.damage(saved) if saved.is_dir() else "it is not a folder")
    yield _ledger(folder / "ledger.jsonl", checkpoint.latest(root, warn=lambda _: None) if root.is_dir() else None)
    yield _store(store)


def _journal(path: Path) -> FileFinding:
    told: list[str] = []
    try:
        for _ in read_journal(path, warn=told.append):
            pass
    except UserError as error:
        told.append(str(error))
    return FileFinding(str(path), told[0] if told else None)


def _ledger(path: Path, saved: checkpoint.Checkpoint | None) -> FileFinding:
    """The ledger, as far as the newest checkpoint knew it."""
    if saved is None:
        return FileFinding(f"{path} (no checkpoint knows it)", None)
    try:
        offsets = SavedOffsets.from_json(saved.state.get("files"))
    except UserError as error:
        return FileFinding(str(saved.folder / checkpoint.STATE), str(error))
    is_same = path.is_file() and prefix_digest(path, offsets.ledger) == offsets.ledger_digest
    return FileFinding(str(path), None if is_same else f"it was changed after {saved.folder.name} was saved")


def _store(folder: Path | None) -> FileFinding:
    from trainer.data.store import is_complete, open_prepared
    from trainer.data.store_files import wrong_content

    if folder is None or not is_complete(folder):
        return FileFinding(f"{folder or 'prepared data'} (not here)", None)
    try:
        return FileFinding(str(folder), wrong_content(folder, open_prepared(folder).files))
    except UserError as error:
        return FileFinding(str(folder), error.what)
