"""The commands of SLURM: the only place that runs them. Their tables are asked for in formats that have not changed in
ten years; their JSON has, between versions.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.base.errors import UserError

PATIENCE_S = 60.0  # a controller under load takes its time; squeue's own limit is 10 s and one repetition
WAITING, RUNNING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED"}), "RUNNING"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What SLURM knows of a job: an id (one task of an array: `12_3`), a state such as RUNNING, and where that is from.

    ``state`` is None when SLURM does not know the job (any more); ``note`` then says why.
    """

    job: str
    state: str | None
    note: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (*WAITING, RUNNING, "COMPLETING")


def is_here() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None


def require() -> None:
    """UserError where SLURM's commands are missing."""
    if not is_here():
        raise UserError(
            "sbatch is not on this machine: this is not a login node of a SLURM cluster",
            remedy="Submit from a login node (`module load slurm` on some), or print the script with --dry-run",
        )


def submit(script: Path) -> str:
    """The id of the job that a script has become. UserError when SLURM would never start it, or refuses it."""
    _sbatch("--test-only", script)  # also refuses what would be taken, and wait in the queue for ever
    return _sbatch("--parsable", script).strip().split(";")[0]


def _sbatch(how: str, script: Path) -> str:
    process = _run(["sbatch", how, str(script)])
    if process.returncode != 0:
        message = " ".join(line.removeprefix("sbatch: error: ") for line in process.stderr.strip().splitlines())
        raise UserError(
            "SLURM refuses the job",
            got=message,
            remedy="`sinfo -o '%P %D %c %m %G %l'` shows each partition's nodes, cores, memory, GPUs, time limit",
            file=script,
        )
    return process.stdout


def has_containers() -> bool:
    """Whether srun starts containers (the plugin pyxis is installed)."""
    return "--container-image" in _run(["srun", "--help"]).stdout


def find(jobs: Sequence[str]) -> dict[str, Job]:
    """What SLURM knows of jobs: from the queue, else from accounting, else from the controller's memory."""
    return {job: _find(job) for job in jobs}


def _find(job: str) -> Job:
    if not is_here():
        return Job(job=job, state=None, note="sbatch is not on this machine")
    queue = _run(["squeue", "-h", "-j", job, "-o", "%T|%r|%M|%L|%N"])
    if queue.returncode == 0 and queue.stdout.strip():
        state, reason, used, time_left, nodes = queue.stdout.strip().splitlines()[0].split("|")
        running = f"for {used}, {time_left} left, on {nodes}"
        return Job(job=job, state=state, note=running if nodes else f"because of {reason}")
    past = _run(["sacct", "-n", "-P", "-X", "-j", job, "-o", "State,Elapsed,NodeList"])
    if past.returncode == 0 and past.stdout.strip():
        state, elapsed, nodes = past.stdout.strip().splitlines()[0].split("|")
        return Job(job=job, state=state.split()[0], note=f"after {elapsed} on {nodes}, says the accounting")
    shown = _run(["scontrol", "show", "job", "-o", job])
    if shown.returncode == 0 and "JobState=" in shown.stdout:
        fields = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
        return Job(job=job, state=fields["JobState"], note=f"for {fields.get('RunTime', '')}, says the controller")
    off = "disabled" in past.stderr
    return Job(
        job=job,
        state=None,
        note="the accounting is off and the controller has forgotten it" if off else "SLURM has forgotten it",
    )


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{words[0]} has not answered for {PATIENCE_S:g} s",
            remedy="Run it again; `scontrol ping` shows the controller",
        ) from None
    except FileNotFoundError:  # sacct is a package of its own on some systems
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]} is not on this machine")
