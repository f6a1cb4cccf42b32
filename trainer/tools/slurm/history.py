"""What the jobs of a run have told about themselves: ``slurm/events.jsonl`` in the run folder, a line for each start,
warning, requeue and end, written by ``trainer submit`` and by the batch script.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = Path("slurm") / "events.jsonl"


@dataclass(frozen=True, kw_only=True)
class JobHistory:
    """The newest job of a run, and what happened to it. ``job`` is None when no job was submitted for the run."""

    job: str | None
    jobs: int  # all that were submitted for the run
    starts: int
    requeued_by_itself: int
    last: dict[str, Any] | None  # its newest event
    logs: Path | None  # of its newest start

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(0, self.starts - 1)

    @property
    def requeued_by_slurm(self) -> int:
        """Restarts after preemption or a node's failure."""
        return max(0, self.restarts - self.requeued_by_itself)


def history(run: Path) -> JobHistory:
    """What is known of the newest job of a run."""
    events = list(_events(run / EVENTS))
    jobs = list(dict.fromkeys(event["job"] for event in events))
    job = jobs[-1] if jobs else None
    own = [event for event in events if event["job"] == job]
    starts = [event for event in own if event["event"] == "start"]
    return JobHistory(
        job=job,
        jobs=len(jobs),
        starts=len(starts),
        requeued_by_itself=sum(event["event"] == "requeue" for event in own[: _last_start(own)]),
        last=own[-1] if own else None,
        logs=run / "slurm" / f"{job}-{starts[-1]['restart']}" if starts else None,
    )


def _last_start(events: list[dict[str, Any]]) -> int:
    """Where the newest start stands: a requeue after it has not led to a restart yet."""
    return max((number for number, event in enumerate(events) if event["event"] == "start"), default=0)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a killed script left torn says nothing."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "job" in event and "event" in event:
            yield event
