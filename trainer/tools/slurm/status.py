"""What has become of a run that was submitted: the job as SLURM knows it, and the run as its folder tells it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ruamel.yaml import YAML

from trainer.base.errors import UserError
from trainer.runs.folder import read_outcome
from trainer.tools.slurm import cluster
from trainer.tools.slurm.history import EVENTS, JobHistory, history
from trainer.tracking.schema import StepLine, read_journal


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run and its newest job. ``step`` is the last one in the journal, ``checkpoint`` what a restart resumes from."""

    run: str
    job: str
    state: str | None  # as SLURM calls it; None: it does not know the job
    note: str
    jobs: int
    restarts: int
    requeued_by_itself: int
    requeued_by_slurm: int
    step: int
    steps: int | None
    checkpoint: str | None
    outcome: str | None
    reason: str | None
    last_event: str
    logs: str | None


def show_status(root: Path, *, as_json: bool) -> int:
    """Print the state of a run, or of the runs of an array; the exit code."""
    statuses = [_status(run) for run in _runs(root)]
    if as_json:
        _print(json.dumps([asdict(status) for status in statuses], indent=2))
        return 0
    for status in statuses:
        _show(status)
    return 0


def _runs(root: Path) -> list[Path]:
    """The run folder itself, or the numbered ones of an array in it."""
    if (root / EVENTS).is_file():
        return [root]
    numbered = sorted((path.parent.parent for path in root.glob(f"[0-9]*/{EVENTS}")), key=lambda run: int(run.name))
    if not numbered:
        raise UserError(
            "no job was submitted for this run folder",
            got=str(root),
            remedy="Name a folder that `trainer submit` has printed",
        )
    return numbered


def _status(run: Path) -> Status:
    past = history(run)
    assert past.job is not None  # there is an event
    job = cluster.find([past.job])[past.job]
    outcome = read_outcome(run) or {}
    pointer = run / "checkpoints" / "latest"
    return Status(
        run=str(run),
        job=past.job,
        state=job.state,
        note=job.note,
        jobs=past.jobs,
        restarts=past.restarts,
        requeued_by_itself=past.requeued_by_itself,
        requeued_by_slurm=past.requeued_by_slurm,
        step=_last_step(run),
        steps=_steps(run),
        checkpoint=pointer.read_text(errors="replace").strip() if pointer.is_file() else None,
        outcome=outcome.get("state"),
        reason=outcome.get("reason"),
        last_event=_in_words(past),
        logs=str(past.logs) if past.logs else None,
    )


def _in_words(past: JobHistory) -> str:
    event = past.last or {}
    reason = f": {event['reason']}" if event.get("reason") else ""
    return f"{event.get('event')} at {event.get('time')}{reason}"


def _last_step(run: Path) -> int:
    path = run / "journal.jsonl"
    if not path.is_file():
        return 0
    return max((line.step for line in read_journal(path) if isinstance(line, StepLine)), default=0)


def _steps(run: Path) -> int | None:
    """How many steps the run is to make."""
    for path in (run / "recipe.yaml", run / "slurm" / "recipe.yaml"):
        if path.is_file():
            return int(YAML(typ="safe").load(path)["training"]["steps"])
    return None


def _show(status: Status) -> None:
    progress = f"{status.step}" + (f" of {status.steps}" if status.steps else "")
    rows = {
        "run": status.run,
        "job": f"{status.job}  {status.state or 'unknown'}  {status.note}",
        "restarts": f"{status.restarts} ({status.requeued_by_itself} by itself, {status.requeued_by_slurm} by SLURM)",
        "last step": f"{progress}, saved: {status.checkpoint or 'nothing yet'}",
        "outcome": f"{status.outcome}: {status.reason}" if status.outcome else "none yet",
        "last event": status.last_event,
        "logs": status.logs or "none yet",
    }
    if status.jobs > 1:
        rows["job"] += f"  (and {status.jobs - 1} before it)"
    for name, value in rows.items():
        _print(f"{name:<12}{value}")
    _print("")


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the output
