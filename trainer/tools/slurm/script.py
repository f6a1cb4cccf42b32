"""The batch script of a run: the shipped ``train.sbatch`` with another head. Text in, text out."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.recipe import shipped_folder
from trainer.tools.slurm.request import Request, refuse_control_characters

BEGINS = "# ---- Nothing below needs editing. ----\n"
OUTPUT, ARRAY_OUTPUT = "%j.out", "%A_%a.out"


@dataclass(frozen=True, kw_only=True)
class JobPlace:
    """Where a job runs and what it runs: absolute paths.

    ``root`` is the run folder, or the folder of the run folders of an array, numbered from 0; ``sweep`` has the
    overrides of each array task, and is empty for a single run. ``settings`` are variables that the job must see.
    """

    name: str
    root: Path
    folder: Path
    python: str
    fit_options: Sequence[str] = ()
    sweep: Sequence[Sequence[str]] = ()
    settings: Mapping[str, str] | None = None


def template() -> str:
    """The shipped script, which is also what is submitted by hand."""
    return (shipped_folder("launch") / "slurm" / "train.sbatch").read_text(encoding="utf-8")


def batch_script(request: Request, place: JobPlace) -> str:
    """The script of a job."""
    head, begins, body = template().partition(BEGINS)
    if not begins:
        raise ValueError("train.sbatch has lost the line between what is edited and what is not")
    about = [line for line in head.split("\n\n")[0].splitlines() if not line.startswith("# sbatch ")]
    lines = [
        about[0],
        f"# sbatch {place.root / 'slurm' / 'train.sbatch'}",
        *about[1:],
        "",
        *(f"#SBATCH {option}" for option in _options(request, place)),
        "",
        *_array_table(place),
        *_settings(request, place),
    ]
    for line in lines:  # whatever a value came from: the folder's name, the environment
        refuse_control_characters("a line of the batch script", line)
    return "\n".join(lines) + "\n\n" + begins + body


def _options(request: Request, place: JobPlace) -> list[str]:
    folder = str(place.root / "slurm").replace("%", "%%")  # SLURM fills in what follows a percent sign
    logs = f"{folder}/{ARRAY_OUTPUT if place.sweep else OUTPUT}"
    named = {
        "job-name": place.name,
        "nodes": request.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": request.gpus_per_node or None,
        "cpus-per-task": request.cpus_per_process * request.processes,
        "mem": request.memory,
        "time": request.time,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "dependency": request.dependency,
        "array": _array(request, place),
        "signal": f"B:USR1@{request.warn_s}",
        "open-mode": "append",
        "output": logs,
        "chdir": place.folder,
    }
    options = [f"--{name}={_quoted(value)}" for name, value in named.items() if value is not None]
    return [*options, "--requeue", *request.options]


def _quoted(value: object) -> str:
    """SLURM reads these lines with quotes as a shell does."""
    return shlex.quote(str(value))


def _array(request: Request, place: JobPlace) -> str | None:
    if not place.sweep:
        return None
    return f"0-{len(place.sweep) - 1}" + (f"%{request.at_once}" if request.at_once else "")


def _array_table(place: JobPlace) -> list[str]:
    """What each index trains, for a reader: the script itself takes the recipe of its run folder."""
    if not place.sweep:
        return []
    return [*(f"# {index}: {' '.join(overrides)}" for index, overrides in enumerate(place.sweep)), ""]


def _settings(request: Request, place: JobPlace) -> list[str]:
    run = shlex.quote(str(place.root)) + ("/$SLURM_ARRAY_TASK_ID" if place.sweep else "")
    environment = {**(place.settings or {}), **dict(variable.split("=", 1) for variable in request.environment)}
    mounts = request.container_mounts or (f"{place.folder}:{place.folder}",)
    return [
        f"export RUN={run}",
        "export RECIPE=$RUN/slurm/recipe.yaml",
        f"export PYTHON={shlex.quote(place.python)}",
        f"export PROCESSES_PER_NODE={request.processes}",
        f"export DEVICE={'gpu' if request.gpus_per_node else 'cpu'}",
        f"export LAUNCH_FILE={shlex.quote(str(request.launch_file.resolve())) if request.launch_file else ''}",
        f"CONTAINER={shlex.quote(request.container) if request.container else ''}",
        f"CONTAINER_MOUNTS={shlex.quote(','.join(mounts))}",
        f"IDLE_RESTARTS={request.idle_restarts}",
        f"FIT_OPTIONS=({shlex.join(place.fit_options)})",
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
    ]
