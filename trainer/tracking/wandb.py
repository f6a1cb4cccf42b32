"""The mirror of the journal in Weights & Biases: one run, one curve, and never a reason for training to stop or wait.

All of W&B happens in one background thread behind a queue: ``init`` alone takes 1 s offline and up to minutes when a
server does not answer, and a log call 0.2-0.3 ms. A failure ends the mirror with one warning; the journal, which it is
a view of, lacks nothing. The lines of one step become one row, logged when a later step begins. What was logged is
remembered in ``wandb/mirror.json``, so that after a resume the steps which are trained again are not logged again,
also after kill -9 (of what W&B itself loses then, its last few seconds, the journal has the copy).
"""

import contextlib
import json
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.base import failures
from trainer.tracking.headlines import headline
from trainer.tracking.journal import WandbConfig
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import DecisionLine, FinishLine, StartLine, StepLine, TestLine

QUEUE_LINES = 10_000  # at 0.3 ms a line the thread is 3 s behind when it overflows; more means that it hangs
FINISH_S = 60.0  # an upload gets a minute at the end of the run; what is missing then, `wandb sync` can send
INIT_S = 60.0


def row(line: JournalLine) -> dict[str, Any]:
    """What a line of the journal contributes to the W&B row of its step, by panel key; empty when it has no panel."""
    text = headline(line)
    if isinstance(line, DecisionLine):
        return {"decision": text, **line.metrics()}
    return {"event": text, **line.metrics()} if text else dict(line.metrics())


class WandbMirror:
    """A view for the journal of the main rank. ``note`` returns at once, whatever W&B does.

    The W&B run is the one remembered in the run ``folder``, else a new one; ``run_id`` is its id.
    """

    def __init__(
        self,
        config: WandbConfig,
        folder: Path,
        *,
        name: str,
        recipe: Mapping[str, Any] | None = None,
        warn: Callable[[str], None] = failures.warn,
    ) -> None:
        self._config, self._folder, self._warn = config, folder, warn
        self._name, self._recipe = config.name or name, dict(recipe or {})
        self._memory = folder / "wandb" / "mirror.json"
        memory = self._remembered()
        self.run_id: str = memory.get("run_id") or uuid.uuid4().hex[:8]
        self._logged_step: int = memory.get("step", -1)
        self._tokens: int = memory.get("tokens", 0)  # trained up to the row in hand
        self._row: dict[str, Any] = {}
        self._row_step = -1
        self._failed = False
        self._lines: queue.Queue[JournalLine | None] = queue.Queue(QUEUE_LINES)
        self._thread: threading.Thread | None = None
        if config.mode != "off":
            self._thread = threading.Thread(target=self._mirror, name="wandb-mirror", daemon=True)
            self._thread.start()

    def note(self, line: JournalLine) -> None:
        """Take a line of the journal."""
        if self._thread is None or self._failed:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._fail(f"it is {QUEUE_LINES} lines behind")

    def finish(self, timeout_s: float = FINISH_S) -> None:
        """Log what is left and close the W&B run; gives up after ``timeout_s``."""
        if self._thread is None or self._failed:
            return
        with contextlib.suppress(queue.Full):  # then it hangs, and the join below says so
            self._lines.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._fail(f"it did not finish within {timeout_s:.0f} s")
        self._thread = None

    def _fail(self, reason: object) -> None:
        if not self._failed:
            self._failed = True
            self._warn(
                f"Weights & Biases is switched off for the rest of this run: {reason}. The journal has everything"
            )

    def _mirror(self) -> None:
        """The thread: the only place where wandb is touched."""
        try:
            run = self._open()
            while (line := self._lines.get()) is not None and not self._failed:
                self._take(run, line)
            self._log(run)
            run.finish()
        except ModuleNotFoundError as error:
            self._fail(f"{error} (pip install 'hybrid-trainer[wandb]', or set monitor.wandb.mode to off)")
        except Exception as error:  # noqa: BLE001  whatever happens in W&B, training goes on
            self._fail(f"{type(error).__name__}: {error}")

    def _open(self) -> Any:
        import wandb

        offline = self._config.mode == "offline"
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            name=self._name,
            id=self.run_id,
            resume="allow",
            dir=self._folder,
            mode="offline" if offline else "online",
            config=self._recipe,
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=INIT_S,
                x_disable_stats=offline, x_disable_meta=offline,
            ),
        )  # fmt: skip
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        self._logged_step = max(self._logged_step, run.step - 1)  # online, the server knows what it has
        return run

    def _take(self, run: Any, line: JournalLine) -> None:
        if isinstance(line, StartLine):
            run.config.update({"start": line.to_line()}, allow_val_change=True)
        elif isinstance(line, TestLine | FinishLine):
            figures = {key: value for key, value in line.to_line().items() if key not in ("kind", "step")}
            run.summary.update({line.kind: figures})
        if line.step <= self._logged_step:
            return
        if line.step > self._row_step:
            self._log(run)
            self._row_step = line.step
        if isinstance(line, StepLine):
            self._tokens += line.tokens
        self._row |= row(line)

    def _log(self, run: Any) -> None:
        """Log the row in hand, and remember it before the next one begins."""
        if not self._row:
            return
        run.log({"step": self._row_step, "tokens": self._tokens, **self._row}, step=self._row_step)
        self._logged_step, self._row = self._row_step, {}
        aside = self._memory.with_suffix(".tmp")
        aside.write_text(json.dumps({"run_id": self.run_id, "step": self._logged_step, "tokens": self._tokens}))
        aside.replace(self._memory)

    def _remembered(self) -> dict[str, Any]:
        """What an earlier process logged; empty when there was none."""
        if not self._memory.exists():
            return {}
        try:
            return dict(json.loads(self._memory.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:  # a power cut can leave it empty
            self._warn(f"{self._memory} cannot be read ({error}): Weights & Biases may get some steps twice")
            return {}
