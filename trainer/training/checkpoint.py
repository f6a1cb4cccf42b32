"""Checkpoints that are complete or absent: written aside, hashed, renamed, then pointed to.

The old one is removed after the new one is verified. Writing in place and deleting the oldest first (what the usual
libraries do) leaves nothing to resume from when a process dies at the wrong moment. Here a folder with its final name
is complete by construction, its manifest shows it, and a damaged one is passed over with a warning. Every rank writes
and hashes its part; where one of them fails, all ranks raise and end together.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trainer.base.atomic import recover_folder, replace_folder, sync_file, sync_folder, write_text
from trainer.base.errors import UserError
from trainer.base.formatting import size
from trainer.evaluate.ports import Writers

MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "latest"  # a file with the name of the newest


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint: its folder and the run state saved with it."""

    folder: Path
    step: int
    state: dict[str, Any]


T = TypeVar("T")


def folder_name(step: int) -> str:
    """The folder of the checkpoint after ``step``."""
    return f"step-{step:08d}"


def save(
    root: Path,
    step: int,
    *,
    write: Callable[[Path], None],
    state: dict[str, Any],
    keep: int,
    last_healthy_step: int,
    ranks: Writers,
) -> tuple[Path, int]:
    """(all) Save one checkpoint under ``root`` and return its folder and size in bytes; ``write`` puts this rank's
    files into the folder it is given. Apart from the newest ``keep``, the newest up to ``last_healthy_step`` stays,
    for a rollback.

    OSError on every rank, naming the one that failed, when anything goes wrong on any.
    """
    aside, folder = root / f".{folder_name(step)}.partial", root / folder_name(step)
    is_main = ranks.rank == 0
    together(ranks, lambda: _begin(aside) if is_main else None)
    together(ranks, lambda: _require_folder(aside))  # a rank that fails inside ``write`` can leave the others waiting
    together(ranks, lambda: write(aside))
    together(ranks, lambda: _write_state(aside, state) if is_main else None)
    file_names = together(ranks, lambda: _files_in(aside))
    if any(names != file_names[0] for names in file_names):
        raise OSError(f"the ranks see different files in {aside}: the run folder must be on a disk that all share")
    parts = together(ranks, lambda: _entries(_part_of_rank(file_names[0], ranks), aside))
    files = {name: entry for part in parts for name, entry in part.items()}
    together(ranks, lambda: _publish(aside, folder, step, files) if is_main else None)
    problems = together(ranks, lambda: _damage_among(folder, dict(_part_of_rank(sorted(files.items()), ranks))))
    problem = next((problem for problem in problems if problem), None)
    if problem:
        raise OSError(f"the checkpoint just written to {folder} does not read back: {problem}")
    together(ranks, lambda: _remove_old(root, keep, last_healthy_step) if is_main else None)
    return folder, sum(int(entry["bytes"]) for entry in files.values())


def together(ranks: Writers, work: Callable[[], T]) -> list[T]:
    """(all) Every rank does its work; what came of it, by rank. OSError on all of them when one fails."""
    try:
        result: tuple[T | None, str | None] = work(), None
    except Exception as error:  # noqa: BLE001 - a full disk has many names (torch: RuntimeError); all ranks end together
        result = None, str(error) or repr(error)
    results = ranks.gather(result)
    failed = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(results) if problem is not None]
    if failed:
        raise OSError(failed[0] if len(results) > 1 else failed[0].removeprefix("rank 0: "))
    return [result for result, _ in results]


def _begin(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)


def _require_folder(aside: Path) -> None:
    """OSError where this rank does not see the folder that the main rank made, or cannot write there."""
    try:
        with tempfile.TemporaryFile(dir=aside):
            pass
    except FileNotFoundError as error:
        raise OSError(f"{aside} is not there: the run folder must be on a disk that all ranks share") from error


def _write_state(aside: Path, state: dict[str, Any]) -> None:
    (aside / STATE).write_text(json.dumps(state))


def _files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _part_of_rank(entries: Sequence[T], ranks: Writers) -> Sequence[T]:
    """This rank's part: every ``world_size``-th."""
    return entries[ranks.rank :: ranks.world_size]


def _entries(names: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 by name, of files that are on the disk now."""
    entries: dict[str, dict[str, Any]] = {}
    for name in names:
        sync_file(folder / name)
        entries[name] = {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    return entries


def _publish(aside: Path, folder: Path, step: int, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest, flush, rename, point."""
    manifest = aside / MANIFEST
    manifest.write_text(json.dumps({"step": step, "files": dict(sorted(files.items()))}, indent=1))
    sync_file(manifest)
    for inner in (*(path for path in aside.rglob("*") if path.is_dir()), aside):
        sync_folder(inner)
    replace_folder(aside, folder)  # there is one already where a resumed run reached the step again
    _point_to(folder)


def _point_to(folder: Path) -> None:
    pointer, text = folder.parent / LATEST, f"{folder.name}\n"
    if not pointer.is_file() or pointer.read_bytes() != text.encode():
        write_text(pointer, text)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None: every file is there with its size and hash, no other is, and
    folder, manifest and state are of the same step.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        step, files = manifest["step"], manifest["files"]
        entries = {
            name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])} for name, entry in files.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # a flipped bit can do any of these
        return f"no readable {MANIFEST} ({type(error).__name__})"
    if step != _step(folder):
        return f"{MANIFEST} says that it is the checkpoint after step {step}"
    named = {STATE, *(name for name in _files_in(folder) if name != MANIFEST and not _is_hidden(name))}
    if left_out := sorted(named - entries.keys()):
        return f"{MANIFEST} does not name {left_out[0]}"
    return _damage_among(folder, entries) or _damage_of_state(folder, step)


def _is_hidden(name: str) -> bool:
    """Whether a file is none of ours: file managers and network file systems leave such ones."""
    return Path(name).name.startswith(".")


def _damage_of_state(folder: Path, step: int) -> str | None:
    try:
        state = json.loads((folder / STATE).read_text())
    except (ValueError, RecursionError):
        return f"{STATE} is not JSON"
    if not isinstance(state, dict):
        return f"{STATE} holds no fields"
    return None if state.get("step") == step else f"{STATE} is of step {state.get('step')}"


def _damage_among(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, {entry['bytes']} were written"
        if _sha256(path) != entry["sha256"]:
            return f"{name} does not match its SHA-256"
    return None


def latest(root: Path, *, warn: Callable[[str], None], at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint (up to step ``at_most``) that is complete; a damaged one is named through ``warn``, and the
    one before is used.

    ``UserError`` when checkpoints exist and none is complete: a new start in silence would discard the run.
    """
    folders = [folder for folder in _folders(root) if at_most is None or _step(folder) <= at_most]
    for folder in reversed(folders):
        problem = damage(folder)
        if problem is None:
            return Checkpoint(folder=folder, step=_step(folder), state=json.loads((folder / STATE).read_text()))
        warn(f"checkpoint {folder} is damaged: {problem}; trying the one before")
    if folders and at_most is None:
        raise UserError(
            f"no checkpoint in {root} is complete",
            remedy="restore one from a backup, or start anew with another --run folder",
        )
    return None


def has_checkpoints(root: Path) -> bool:
    """Whether there is any, whole or not: a run that finds none whole does not start."""
    return bool(_folders(root))


def clean(root: Path) -> None:
    """Remove what a killed save left behind; a replaced folder whose successor never got its name is put back.

    ``UserError`` where something else has the name of a checkpoint: a save would fail at it, after all the training.
    """
    for path in [root, *(root.glob("*step-*") if root.is_dir() else ())]:
        if path.exists() and not path.is_dir():
            remedy = "Move it elsewhere; this folder is the run's own"
            raise UserError("this is not a folder, where the run keeps its checkpoints", file=path, remedy=remedy)
    if not root.is_dir():
        return
    for leftover in root.glob(".step-*.replaced"):
        recover_folder(root / leftover.name.removeprefix(".").removesuffix(".replaced"))
    for leftover in root.glob(".step-*.partial"):
        shutil.rmtree(leftover)
    for leftover in root.glob(f".{LATEST}.*.partial"):
        leftover.unlink()


def settle(root: Path, newest: Checkpoint, *, keep: int) -> None:
    """Finish what a save that was killed after its rename had left to do: the pointer, and the removal of the old."""
    _point_to(newest.folder)
    last_healthy_step = newest.state.get("last_healthy_step")
    if isinstance(last_healthy_step, int):
        _remove_old(root, keep, last_healthy_step)


def set_aside_newer(root: Path, step: int) -> None:
    """Rename the damaged checkpoints after ``step``, from where the run resumes: they must not count among those kept,
    or with ``keep`` 1 a checkpoint would be removed as the older one as soon as it is written.
    """
    _rename_newer(root, step, "damaged")


def discard_newer(root: Path, step: int) -> None:
    """Rename the checkpoints after ``step``, to which the run has gone back: a later rollback must not take what this
    one discarded for healthy. They are removed when the next one is saved.

    The newest goes first: killed in between, the run resumes from one before the rollback, and comes to it again.
    """
    if any(_step(folder) > step for folder in _folders(root)):
        _point_to(root / folder_name(step))
        _rename_newer(root, step, "discarded")
        sync_folder(root)


def _rename_newer(root: Path, step: int, prefix: str) -> None:
    for folder in reversed(_folders(root)):
        if _step(folder) > step:
            renamed = root / f"{prefix}-{folder.name}"
            shutil.rmtree(renamed, ignore_errors=True)
            folder.rename(renamed)


def require_space(root: Path, bytes_each: int, keep: int) -> None:
    """Refuse to start a run whose checkpoints cannot fit: ``keep`` of them (less those already there) and the one being
    written.
    """
    existing = root
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    need = bytes_each * (keep + 1 - min(keep, len(_folders(root))))
    if free < need:
        raise UserError(
            f"checkpoints need {size(need)} more in {root} ({keep} kept and one being written), {size(free)} are free",
            remedy="free some space, lower checkpoint.keep, or choose another --run folder",
        )


def _remove_old(root: Path, keep: int, last_healthy_step: int) -> None:
    accepted = [folder for folder in _folders(root) if _step(folder) <= last_healthy_step][-1:]
    for folder in _folders(root)[:-keep]:
        if folder not in accepted:
            shutil.rmtree(folder)
    for discarded in root.glob("discarded-step-*"):
        shutil.rmtree(discarded)


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders with their final names, by step."""
    named = [folder for folder in root.glob("step-*") if folder.name.removeprefix("step-").isdigit()]
    return sorted((folder for folder in named if folder.is_dir()), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
