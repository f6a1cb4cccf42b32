"""The run folder: locked by one launch at a time, bound to one recipe, and able to say how its run ended."""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from trainer.base.atomic import write_text
from trainer.base.errors import RunFolderError, RunLockedError, UserError
from trainer.base.failures import own_rank, warn
from trainer.recipe import Recipe, differences, load_recipe, resolved_yaml

DONE, FAILED, BAD_INPUT, GUARD_STOPPED, INTERRUPTED = 0, 1, 2, 3, 75
EXIT_CODES = {"finished": DONE, "stopped-by-guard": GUARD_STOPPED, "interrupted": INTERRUPTED, "failed": FAILED}
SIGNS = ".alive"  # the ranks' heartbeats, one folder per launch: see trainer.runs.watchdog
REFUSAL_VARIABLE = "HYBRID_TRAINER_REFUSAL"  # the batch script's file for what cannot stand in outcome.json
MODEL, MODEL_MARK = "model", "written_by_run.json"  # the folder of the trained model, and what marks it as a run's
RESERVE, RESERVE_BYTES = ".reserve", 1 << 16  # given up for outcome.json when the disk is full
NAMES_SHOWN = 5
NOTES = (".log", ".out", ".err", ".txt", ".md", ".json")  # a launch's output, which a shell writes before it starts
NOTE_FOLDERS = ("slurm", "logs", "log", "tensorboard", "wandb")
SIGNS_WITHIN_S = 5.0  # in which one must come; attribute caches of network file systems keep a file's age for 3 s


def settled_outcome(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The outcome of a run that has nothing left to do under this recipe: finished, or stopped by the guard; else None.

    A recipe that differs in what may not change is left to ``check_recipe_unchanged``, which refuses it.
    """
    outcome = read_outcome(folder)  # torn by a crash: the checkpoints say where the run stands
    if outcome is None or not (folder / "recipe.yaml").is_file():
        return None
    old = bound_recipe(folder)
    if any(not difference.allowed for difference in differences(old, recipe)):
        return None
    if outcome["state"] == "finished":
        return outcome if old.training.steps == recipe.training.steps else None
    return outcome if outcome["state"] == "stopped-by-guard" else None


def bound_recipe(folder: Path) -> Recipe:
    """The recipe that the folder is bound to. ``UserError`` where another version wrote what this one cannot read."""
    path = folder / "recipe.yaml"
    try:
        return load_recipe(path, [], on_this_machine=False).recipe
    except UserError as error:
        raise RunFolderError(
            f"the run folder is of another version of this program, or its recipe was changed: {error}",
            remedy="Resume with that version, or start again in another --run folder",
        ) from None


def check_recipe_unchanged(folder: Path, recipe: Recipe) -> None:
    """Show what differs from the recipe the run began with, and refuse what would make it another experiment.

    A run that failed before its journal was opened has begun nothing: its recipe may be corrected.
    """
    path = folder / "recipe.yaml"
    if _has_begun(folder):
        if not path.is_file():
            raise RunFolderError(
                "the recipe that this run began with is missing",
                file=path,
                remedy="Bring it back from a backup, or start a new run in another --run folder",
            )
        changed = differences(bound_recipe(folder), recipe)
        refused = [difference for difference in changed if not difference.allowed]
        if refused:
            raise RunFolderError(
                f"the recipe is not the one this run began with: {'; '.join(map(str, refused))}",
                remedy="Resume with the old values, or start the new ones in another --run folder",
                file=path,
            )


def begun_recipe(folder: Path) -> Recipe | None:
    """The recipe that the run in the folder began with; None where none has begun."""
    return bound_recipe(folder) if _has_begun(folder) and (folder / "recipe.yaml").is_file() else None


def _has_begun(folder: Path) -> bool:
    """Whether a run has begun there: also one that has lost its ledger, which is then what is missing."""
    is_recorded = (folder / "ledger.jsonl").is_file() and (folder / "journal.jsonl").is_file()
    return is_recorded or ((folder / "recipe.yaml").is_file() and any((folder / "checkpoints").glob("step-*")))


def check_users_files(folder: Path) -> None:
    """``RunFolderError`` where the run would write over what no run has written: a user's own model, recipe, report."""
    names = [MODEL] if (folder / MODEL).exists() and not (folder / MODEL / MODEL_MARK).is_file() else []
    files = ("ledger.jsonl", "journal.jsonl", "recipe.yaml", "report.html", "outcome.json")
    if wrong := [folder / name for name in files if (folder / name).is_dir()] + _no_folders(folder):
        raise RunFolderError(
            f"this is a {'folder' if wrong[0].is_dir() else 'file'}, where the run keeps another thing",
            file=wrong[0],
            remedy="Move it elsewhere, or choose another --run folder",
        )
    has_ledger = (folder / "ledger.jsonl").is_file()  # a run's first file: without it all is a user's
    if folder.is_dir() and not has_ledger and not _has_begun(folder):
        names += sorted(path.name for path in folder.iterdir() if path.name not in names and not _is_of_a_start(path))
        if names:
            raise RunFolderError(
                f"--run is a folder with other files in it: {', '.join(names[:NAMES_SHOWN])}",
                got=str(folder),
                remedy="Choose a folder that is empty, new, or a run's",
            )
    if names:
        raise RunFolderError(
            f"the run folder holds {', '.join(names)}, which no run has written and this one would write over",
            got=str(folder),
            remedy="Move it elsewhere, or choose another --run folder",
        )


def _no_folders(folder: Path) -> list[Path]:
    return [path for name in ("checkpoints", SIGNS) if (path := folder / name).exists() and not path.is_dir()]


def _is_of_a_start(path: Path) -> bool:
    """Whether it is what a launch, its batch job or its user leaves before the run begins, or nothing to be lost."""
    if path.name.startswith(".") or path.name in NOTE_FOLDERS:
        return True
    if path.is_dir():
        return not any(path.iterdir())
    return path.suffix.lower() in NOTES or ".log." in path.name  # fit.log.1


def require_run(folder: Path) -> None:
    """``RunFolderError`` where no run has begun in ``folder``."""
    if not (folder / "ledger.jsonl").is_file() or not (folder / "recipe.yaml").is_file():
        raise RunFolderError(
            "this is not a run folder: ledger.jsonl and recipe.yaml are missing",
            got=str(folder),
            remedy="Give the folder of a run",
        )


def keep_recipe(folder: Path, recipe: Recipe) -> None:
    """Bind the run folder to the recipe, with every default written out."""
    write_text(folder / "recipe.yaml", resolved_yaml(recipe))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: a second launch on it is refused, with the name of the holder. The lock dies with the
    process.

    A file system without locks between hosts (or without any) lets a second launch through; there the heartbeats
    of the launch that holds the folder show it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunFolderError(
            f"the run folder {folder} cannot be written",
            got=error.strerror,
            remedy="Make it writable, or choose another --run folder",
        ) from None
    with file:
        file.seek(0)
        holder = file.readline().rstrip("\n")
        _take_lock(file, folder, holder)
        if holder and not holder.endswith(f" on {socket.gethostname()}") and _shows_life(folder):
            raise _in_use(folder, holder)
        _remove_leftovers(folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n{own_launch()}")
        file.flush()
        with suppress(OSError):  # network file systems show the other hosts only what was synchronized
            os.fsync(file.fileno())
        with suppress(OSError):  # full already: the run itself will fail and report it
            (folder / RESERVE).write_bytes(b"\0" * RESERVE_BYTES)
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / RESERVE).unlink(missing_ok=True)
                file.truncate(0)


@contextmanager
def locked_for_launch(folder: Path) -> Iterator[None]:
    """``locked``, and a refusal is noted for the batch script, which would else take it for a crash and start again."""
    with ExitStack() as stack:
        try:
            check_users_files(folder)
            stack.enter_context(locked(folder))
        except UserError as error:
            if file := os.environ.get(REFUSAL_VARIABLE):
                with suppress(OSError):
                    Path(file).write_text(f"{error}\n", encoding="utf-8")
            raise
        yield


def _remove_leftovers(folder: Path) -> None:
    """Remove what launches that were killed had not finished writing."""
    for leftover in folder.glob(".*.partial"):
        if leftover.is_file():
            leftover.unlink()


def _take_lock(file: IO[str], folder: Path, holder: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder, holder) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        warn(f"{folder} is on a file system without locks: see to it that no other launch uses it")


def _in_use(folder: Path, holder: str) -> RunLockedError:
    return RunLockedError(
        f"the run folder {folder} is in use", got=holder, remedy="Wait for it, stop it, or choose another --run folder"
    )


def _shows_life(folder: Path) -> bool:
    """Whether a rank of another host's launch gives signs (one a second) into the folder."""
    before = _signs(folder)
    if before:
        time.sleep(SIGNS_WITHIN_S)
    return before != _signs(folder)


def _signs(folder: Path) -> dict[Path, bytes]:
    signs = {}
    for path in (folder / SIGNS).glob("*/rank-*"):
        with suppress(OSError):
            signs[path] = path.read_bytes()
    return signs


def own_launch() -> str:
    """What the processes of this launch have in common and no other launch has that runs at the same time: where their
    main rank listens. Known before they are connected.
    """
    if "MASTER_ADDR" not in os.environ:
        return f"{socket.gethostname()}-{os.getpid()}"
    address = os.environ["MASTER_ADDR"]
    if address in ("localhost", "::1") or address.startswith("127."):  # any host's: all processes are on this one
        address = socket.gethostname()
    return f"{address}-{os.environ.get('MASTER_PORT', '')}"


def _is_locked_by_this_launch(folder: Path) -> bool:
    """Whether the main rank of this launch has the folder. On the others a refused launch must leave no trace in it."""
    try:
        return (folder / ".lock").read_text(encoding="utf-8", errors="replace").partition("\n")[2] == own_launch()
    except OSError:
        return False


def note_refusal(folder: Path, reason: str, exit_code: int) -> None:
    """Write that a launch was refused before its recipe was known, for the batch script that reads ``outcome.json``; a
    run that continues there, or has ended, keeps its own.
    """
    with suppress(UserError), locked_for_launch(folder):
        before = read_outcome(folder)
        if before is not None and before["state"] in ("finished", "stopped-by-guard"):
            return
        (folder / "outcome.json").unlink(missing_ok=True)
        write_outcome(folder, state="failed", step=None, reason=reason, exit_code=exit_code)


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """How the run ended, from ``outcome.json``; None where it does not say so."""
    with suppress(OSError, ValueError, RecursionError):
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        if isinstance(outcome, dict) and outcome.get("state") in tuple(EXIT_CODES):
            step, reason = outcome.get("step"), outcome.get("reason")
            return {**outcome, "step": step if isinstance(step, int) else None, "reason": str(reason or "")}
    return None


def failed_outcome(folder: Path) -> dict[str, Any] | None:
    """What a rank of this launch has written about a failure of this run; None when none has."""
    outcome = _outcome_of_this_launch(folder)
    return outcome if outcome is not None and outcome["state"] == "failed" else None


def _outcome_of_this_launch(folder: Path) -> dict[str, Any] | None:
    outcome = read_outcome(folder)
    return outcome if outcome is not None and outcome.get("launch") == own_launch() else None


def write_outcome(
    folder: Path,
    *,
    state: str,
    step: int | None,
    reason: str,
    exit_code: int,
    trace: str | None = None,
    place: tuple[int, str] | None = None,
    guard: str | None = None,
) -> bool:
    """Write ``outcome.json`` unless a rank has already written how the run ended; whether this rank reports it.

    ``place`` is the rank and host that the outcome is about, this process's if left out; ``guard`` is what the guard
    did. A folder that cannot be written (a full disk) leaves only the terminal for it, and so does a folder that this
    launch's main rank does not hold: it may be another launch's, whose watchdogs would take the outcome for their own.
    """
    if own_rank() and not _is_locked_by_this_launch(folder):
        return _outcome_of_this_launch(folder) is None
    rank, host = place or (own_rank(), socket.gethostname())
    outcome = {
        "state": state,
        "step": step,
        "reason": reason,
        "exit_code": exit_code,
        "rank": rank,
        "host": host,
        "launch": own_launch(),
        "traceback": trace,
        "guard": guard,
    }
    text = json.dumps(outcome, indent=1)
    try:
        return _write_once(folder, text)
    except OSError as error:
        problem = error
    try:
        (folder / RESERVE).unlink()
        return _write_once(folder, text)
    except OSError:
        warn(f"outcome.json could not be written: {problem}")
        return True


def _write_once(folder: Path, text: str) -> bool:
    aside = folder / f".outcome.{os.getpid()}.{threading.get_native_id()}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        aside.write_text(text)
        os.link(aside, folder / "outcome.json")
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True
