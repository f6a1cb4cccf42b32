"""The run folder: held by one launch at a time, bound to one recipe, and able to say how its run ended."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trainer.recipe import Recipe, differences, load_recipe, resolved_yaml
from trainer.records import UserError


def finished_outcome(folder: Path, recipe: Recipe) -> str | None:
    """Why a run has nothing left to do under this recipe; None when it has.

    The recipe is read before the outcome: a main rank that goes on removes the outcome first and changes the recipe
    then, so a slower rank never takes the new recipe for the one that is finished.
    """
    planned_steps = _planned_steps(folder)
    try:
        outcome = json.loads((folder / "outcome.json").read_text())
    except FileNotFoundError:
        return None
    if outcome["state"] != "finished" or planned_steps != recipe.training.steps:
        return None
    return str(outcome["reason"])


def _planned_steps(folder: Path) -> int | None:
    path = folder / "recipe.yaml"
    return load_recipe(path, [], on_this_machine=False).recipe.training.steps if path.is_file() else None


def check_recipe_unchanged(folder: Path, recipe: Recipe) -> None:
    """Show what differs from the recipe the run began with, and refuse what would make it another experiment."""
    path = folder / "recipe.yaml"
    if path.is_file():
        changed = differences(load_recipe(path, [], on_this_machine=False).recipe, recipe)
        refused = [difference for difference in changed if not difference.allowed]
        if refused:
            raise UserError(
                f"the recipe is not the one this run began with: {'; '.join(map(str, refused))}",
                remedy="Go on with the old values, or start the new ones in another --run folder",
                file=path,
            )
    aside = folder / ".recipe.yaml.partial"
    aside.write_text(resolved_yaml(recipe))
    aside.rename(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder: a second launch on it is refused and told who has it. The lock dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        _take_lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _take_lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"the run folder {folder} is in use",
            got=file.read(),
            remedy="Wait for it, stop it, or choose another --run folder",
        ) from None


@contextmanager
def unlocked() -> Iterator[None]:
    """What the other ranks hold: the main rank has the lock for all."""
    yield


def write_outcome(
    folder: Path, *, state: str, step: int | None, reason: str, exit_code: int, trace: str | None = None
) -> bool:
    """Write ``outcome.json`` unless a rank has already written how the run ended; whether this one did."""
    outcome = {
        "state": state,
        "step": step,
        "reason": reason,
        "exit_code": exit_code,
        "rank": int(os.environ.get("RANK", "0")),
        "host": socket.gethostname(),
        "traceback": trace,
    }
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".outcome.{os.getpid()}.partial"
    aside.write_text(json.dumps(outcome, indent=1))
    try:
        os.link(aside, folder / "outcome.json")
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True
