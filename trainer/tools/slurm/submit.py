"""From a recipe to a job in the queue: what is wrong is said here, not by a job that has waited for two days."""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from trainer.base.atomic import write_text
from trainer.base.errors import UserError
from trainer.recipe import LoadedRecipe, RecipeError, load_recipe, resolved_yaml
from trainer.runs.folder import EXIT_CODES, check_recipe_unchanged, check_users_files, locked, settled_outcome
from trainer.tools.slurm import cluster
from trainer.tools.slurm.history import EVENTS, history
from trainer.tools.slurm.request import Request, combinations, mistakes, refuse_control_characters
from trainer.tools.slurm.script import JobPlace, batch_script

INHERITED = ("HYBRID_TRAINER_CACHE",)  # written into the script: resubmitted from another shell it must find the data


def submit(
    path: Path, overrides: Sequence[str], root: Path | None, replay: Path | None, request: Request, *, dry_run: bool
) -> int:
    """Write the batch script of a recipe and hand it to SLURM (``dry_run``: print it instead); the exit code."""
    refuse_control_characters("--run", root)
    refuse_control_characters("--ledger", replay)
    sweep = combinations(request.sweep) if request.sweep else []
    recipes = _checked(path, overrides, sweep, request)
    root = (root or Path("runs") / recipes[0].recipe.name).absolute()
    runs = [root / str(index) for index in range(len(sweep))] if sweep else [root]
    if (settled := _all_settled(runs, recipes)) is not None:
        _print(f"{root} is {settled}; to train anew choose another --run folder")
        return EXIT_CODES[settled]
    _check_folders(root, runs, recipes, is_array=bool(sweep))
    script = batch_script(
        request,
        JobPlace(
            name=recipes[0].recipe.name,
            root=root,
            folder=Path.cwd(),
            python="python" if request.container else sys.executable,
            fit_options=["--ledger", str(replay.absolute())] if replay else [],
            sweep=sweep,
            settings={name: os.environ[name] for name in INHERITED if name in os.environ},
        ),
    )
    if dry_run:
        _print(script.rstrip("\n"))
        return 0
    _check_cluster(root, runs, request)
    for run, loaded in zip(runs, recipes, strict=True):
        write_text(run / "slurm" / "recipe.yaml", resolved_yaml(loaded.recipe))
    job = cluster.submit(write_text(root / "slurm" / "train.sbatch", script))
    for index, run in enumerate(runs):
        _note_submission(run, f"{job}_{index}" if sweep else job)
    _print_submission(root, job, len(sweep))
    return 0


def _checked(
    path: Path, overrides: Sequence[str], sweep: Sequence[Sequence[str]], request: Request
) -> list[LoadedRecipe]:
    """The recipe of each run. RecipeError with all that is wrong with recipes and request."""
    wrong, recipes = mistakes(request), list[LoadedRecipe]()
    for own in sweep or [()]:
        try:
            recipes.append(load_recipe(path, [*overrides, *own]))
        except RecipeError as error:
            wrong.extend(error.mistakes)
        except UserError as error:
            wrong.append(error)
    if recipes and (batch := recipes[0].recipe.mixture.global_batch) < request.world_size:
        wrong.append(
            UserError(
                f"{request.world_size} processes are asked for, and a global batch has {batch} samples: "
                "some would never get one",
                remedy="Ask for fewer --nodes or processes, or set a larger mixture.global_batch",
            )
        )
    if request.launch_file is not None and any(loaded.recipe.engine == "lightning" for loaded in recipes):
        wrong.append(
            UserError(
                "--launch-file is accelerate launch's, and the recipe says engine: lightning, which needs torchrun",
                got=str(request.launch_file),
                remedy="Leave it out, or set engine: accelerate",
            )
        )
    if wrong:
        raise RecipeError(
            list({str(mistake): mistake for mistake in wrong}.values())
        )  # a mistake of all tasks is one mistake
    return recipes


def _all_settled(runs: Sequence[Path], recipes: Sequence[LoadedRecipe]) -> str | None:
    """How the runs ended, the worst of it, if none of them has anything left to do."""
    outcomes = [settled_outcome(run, loaded.recipe) for run, loaded in zip(runs, recipes, strict=True)]
    states: set[str] = {outcome["state"] for outcome in outcomes if outcome is not None}
    if None in outcomes:
        return None
    return max(states, key=lambda state: EXIT_CODES[state])


def _check_folders(root: Path, runs: Sequence[Path], recipes: Sequence[LoadedRecipe], *, is_array: bool) -> None:
    if is_array and (root / "ledger.jsonl").exists():
        raise UserError(
            "the folder for the runs of an array holds a run itself",
            got=str(root),
            remedy="Choose another --run folder: each task gets a run folder in it",
        )
    for run, loaded in zip(runs, recipes, strict=True):
        check_users_files(run)
        check_recipe_unchanged(run, loaded.recipe)
        if (run / ".lock").exists():
            with locked(run):  # refused, and told by whom, where a process trains in it
                pass


def _check_cluster(root: Path, runs: Sequence[Path], request: Request) -> None:
    cluster.require()
    if request.container and not request.container.endswith(".sif") and not cluster.has_containers():
        raise UserError(
            "srun starts no containers on this cluster: it has no option --container-image (the plugin pyxis)",
            got=request.container,
            remedy="Give an image file of apptainer (.sif), or ask the cluster's administrators for pyxis",
        )
    if request.dependency is not None:  # it waits for its predecessor in the run folder
        return
    newest_jobs = {run: events.job for run in runs if (events := history(run)).job is not None}
    jobs = cluster.find([job for job in newest_jobs.values() if job is not None])
    for run, job in newest_jobs.items():
        if job is not None and jobs[job].is_live:
            raise UserError(
                f"the run folder {run} already has job {job}",
                got=jobs[job].state,
                remedy=f"Wait for it, `scancel {job}`, choose another --run folder, "
                f"or queue behind it with --dependency afterany:{job}",
            )


def _note_submission(run: Path, job: str) -> None:
    path = run / EVENTS
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"event": "submit", "job": job, "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _print_submission(root: Path, job: str, tasks: int) -> None:
    _print(f"job {job} is in the queue" + (f": {tasks} runs, one task each" if tasks else ""))
    _print(f"  run folder  {root}" + (f"/0 ... {tasks - 1}" if tasks else ""))
    _print(f"  script      {root / 'slurm' / 'train.sbatch'}   (submit it again with sbatch)")
    _print(f"  state       trainer submit --status {root}")
    _print(f"  stop        scancel {job}   (scancel --batch -s USR1 {job}: save, and resume later)")


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the output
