"""Weights & Biases: one run and one curve, through every resume.

The lines of one step become one row, logged when a later step begins. What was logged is remembered in
``wandb/logged.json``, so that after a resume the steps which are trained again are not logged again, also after kill -9
(of what W&B itself loses then, its last few seconds, the journal has the copy).
"""

import json
import uuid
from pathlib import Path
from typing import Any

from trainer.base import atomic, failures
from trainer.base.errors import UserError
from trainer.tracking.config import WandbConfig
from trainer.tracking.headlines import headline
from trainer.tracking.record import JournalLine
from trainer.tracking.round_line import GRADER_ESTIMATES, RoundLine
from trainer.tracking.schema import DecisionLine, FinishLine, StartLine, StepLine, TestLine
from trainer.tracking.tracker import RunInfo

INIT_S = 60.0
_SHOWN = ("id", "text", "made_from", "nearest", "nearest_text", "overlap")


def row(line: JournalLine) -> dict[str, Any]:
    """What a line of the journal contributes to the W&B row of its step, by panel key; empty when it has no panel."""
    text = headline(line)
    if isinstance(line, DecisionLine):
        return {"decision": text, **line.metrics()}
    return {"event": text, **line.metrics()} if text else dict(line.metrics())


def round_tables(line: RoundLine) -> dict[str, Any]:
    """Of a round of synthesis: rows dropped by reason, the graders' own grades, rows beside the nearest real text."""
    import wandb

    record, generation = line.record, line.generation
    graders = [
        [
            generation,
            grader["name"],
            grader["has_vote"],
            *((grader.get(name) or {}).get("value") for name in GRADER_ESTIMATES),
        ]
        for grader in record.get("graders", ())
    ]
    tables = {
        "dropped": (("generation", "reason", "rows"), [[generation, *item] for item in record["dropped"].items()]),
        "graders": (("generation", "grader", "has_vote", *GRADER_ESTIMATES), graders),
        "shown": (
            ("generation", *_SHOWN),
            [[generation, *(row[name] for name in _SHOWN)] for row in record.get("shown", ())],
        ),
    }
    return {
        f"synthesis/{name}": wandb.Table(columns=list(head), data=rows) for name, (head, rows) in tables.items() if rows
    }


class WandbTracker:
    """A tracker that logs to one W&B run: the one remembered in the run's folder, else a new one."""

    def __init__(self, config: WandbConfig) -> None:
        self._config = config
        self._run: Any = None
        self._memory, self._folder = Path(), Path()
        self._logged_step = -1
        self._tokens = 0  # trained up to the row in hand
        self._row: dict[str, Any] = {}
        self._row_step = -1

    def begin(self, run: RunInfo) -> None:
        """Open the W&B run: 1 s offline, up to minutes when a server does not answer."""
        try:
            import wandb
        except ModuleNotFoundError as error:
            remedy = "pip install 'hybrid-trainer[wandb]', or --set tracking.trackers=[]"
            raise UserError(str(error), remedy=remedy) from None
        offline = self._config.mode == "offline"
        self._memory = run.folder / "wandb" / "logged.json"
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        logged = self._remembered()
        self._folder = run.folder.resolve()
        if (original := _original(logged, self._folder)) is not None:
            logged = {"tokens": logged.get("tokens", 0)}
        self._run_id: str = logged.get("run_id") or uuid.uuid4().hex[:8]
        if original is not None:
            own = f"it gets a Weights & Biases run of its own, {self._run_id}"
            failures.warn(f"{run.folder} is a copy of {original}, whose curve continues there: {own}")
        self._tokens = logged.get("tokens", 0)
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            name=self._config.name or run.name,
            id=self._run_id,
            resume="allow",
            dir=run.folder,
            mode="offline" if offline else "online",
            config=dict(run.recipe),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=INIT_S,
                x_disable_stats=offline, x_disable_meta=offline,
            ),
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        # Online, the server knows what it has.
        self._logged_step = max(logged.get("step", -1), self._run.step - 1)

    def note(self, line: JournalLine) -> None:
        """Take one line of the journal."""
        if isinstance(line, StartLine):
            self._run.config.update({"start": line.to_line()}, allow_val_change=True)
        elif isinstance(line, TestLine | FinishLine):
            figures = {key: value for key, value in line.to_line().items() if key not in ("kind", "step")}
            self._run.summary.update({line.kind: figures})
        if line.step <= self._logged_step:
            return
        if line.step > self._row_step:
            self._log()
            self._row_step = line.step
        if isinstance(line, StepLine):
            self._tokens += line.tokens
        self._row |= row(line)
        if isinstance(line, RoundLine) and line.record:
            self._row |= round_tables(line)

    def close(self) -> None:
        """Log the last row and close the W&B run."""
        self._log()
        self._run.finish()

    def _log(self) -> None:
        """Log the row in hand, and remember it before the next one begins."""
        if not self._row:
            return
        self._run.log({"step": self._row_step, "tokens": self._tokens, **self._row}, step=self._row_step)
        self._logged_step, self._row = self._row_step, {}
        place = {"folder": str(self._folder), "inode": self._folder.stat().st_ino}
        logged = {"run_id": self._run_id, "step": self._logged_step, "tokens": self._tokens, **place}
        atomic.write_text(self._memory, json.dumps(logged), durable=False)

    def _remembered(self) -> dict[str, Any]:
        """What an earlier process logged; empty when there was none."""
        if not self._memory.exists():
            return {}
        try:
            return dict(json.loads(self._memory.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:  # a power cut can leave it empty
            failures.warn(f"{self._memory} cannot be read ({error}): Weights & Biases may get some steps twice")
            return {}


def _original(logged: dict[str, Any], folder: Path) -> Path | None:
    """The run folder that ``folder`` was copied from, if it is still there; None for a run's own folder, wherever it
    was moved or linked to.
    """
    before, inode = logged.get("folder"), logged.get("inode")
    if not isinstance(before, str) or Path(before) == folder or folder.stat().st_ino == inode:
        return None
    try:
        return Path(before) if Path(before).stat().st_ino == inode else None
    except OSError:
        return None
