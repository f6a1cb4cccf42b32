"""What the terminal shows while a run goes on, and the table at its end; both drawn from the journal's lines alone.

On a terminal there is one live bar with losses and shares under it, drawn at most 4 times a second, so that it costs
less than 1 % of a fast step. Where stdout is a file (SLURM, CI) it is one plain line every 30 seconds instead: the log
of a day then has 2,880 of them, each of which can be found with grep.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from trainer.base.formatting import duration, figure, percent, plus_minus, shares_in_words
from trainer.base.json_values import number
from trainer.tracking.journal import Line

PLAIN_EVERY_S = 30.0
SPEED_STEPS = 50  # the speed shown is the mean over so many steps
EVENTS = ("decision", "join", "retire", "cap", "rollback", "nonfinite")


class TerminalProgress:
    """A view for the journal of the main rank; a context manager, so that the terminal is left clean after an error."""

    def __init__(
        self,
        num_steps: int,
        *,
        discarded_steps: int = 0,
        console: Console | None = None,
        plain_every_s: float = PLAIN_EVERY_S,
    ) -> None:
        """``num_steps`` of the schedule; ``discarded_steps`` were taken back by earlier rollbacks."""
        self._console = console or Console()
        self._last_step, self._plain_every_s = num_steps + discarded_steps, plain_every_s
        self._step, self._loss, self._held_out, self._shares = 0, "", "", ""
        self._recent: deque[tuple[float, int]] = deque(maxlen=SPEED_STEPS)  # when it came in seconds, its tokens
        self._printed_at = time.monotonic()
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=40), TextColumn("{task.fields[left]}"),
            console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=self._last_step, left="")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last state on the screen; closing twice is allowed."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._recent and not self._console.is_terminal:
            self._say(self._plain())
            self._recent.clear()

    def note(self, line: Line) -> None:
        """Take a line of the journal."""
        kind = line["kind"]
        if kind == "step":
            self._take_step(line)
        elif kind == "evaluation":
            self._held_out = plus_minus(line["nats_per_token"], line.get("standard_error"))
        elif kind in EVENTS and line.get("action") != "keep":
            self._say(event(line))
        if kind == "rollback":  # the schedule goes back, steps do not: so many more are to come
            self._last_step += line["step"] - line["to_step"]
            self._bar.update(self._task, total=self._last_step)

    def _take_step(self, line: Line) -> None:
        self._step, self._loss = line["step"], figure(line["loss"])
        self._shares = shares_in_words(line["shares"], " | ")
        self._bar.update(self._task, completed=self._step)
        now = time.monotonic()
        self._recent.append((now, int(line["tokens"])))
        if self._live is None and now - self._printed_at >= self._plain_every_s:
            self._printed_at = now
            self._say(self._plain())

    def _figures(self) -> str:
        parts = [f"loss {self._loss}" if self._loss else "", f"held-out {self._held_out}" if self._held_out else ""]
        seconds = self._seconds()
        if seconds > 0:
            parts.append(f"{sum(tokens for _, tokens in list(self._recent)[1:]) / seconds:,.0f} tokens/s")
        return "  ".join(part for part in parts if part)

    def _seconds(self) -> float:
        """How long the recent steps took by the clock, evaluations and saves included: what is left depends on it."""
        return self._recent[-1][0] - self._recent[0][0] if self._recent else 0.0

    def _left(self) -> str:
        if len(self._recent) < 2:
            return ""
        step_s = self._seconds() / (len(self._recent) - 1)
        return f"{duration((self._last_step - self._step) * step_s)} left"

    def _draw(self) -> Group:
        self._bar.update(self._task, left=self._left())
        return Group(
            self._bar.get_renderable(), Text(self._figures()), Text(self._shares, style="dim", overflow="fold")
        )

    def _plain(self) -> str:
        return f"step {self._step}/{self._last_step}  {self._figures()}  {self._left()}  {self._shares}"

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def event(line: Line) -> str:
    """One line of text for what is worth saying at once: a decision, a segment that joins or retires, a cap, a
    rollback, a loss that is not finite.
    """
    step = line["step"]
    match line["kind"]:
        case "decision":
            return f"step {step}: {line['action']}: {line['reason']} -> {shares_in_words(line['shares'])}"
        case "join":
            return f"step {step}: segment {line['segment']} of {line['source']} joins, {line['num_samples']} samples"
        case "retire":
            return f"step {step}: segment {line['segment']} of {line['source']} is retired"
        case "cap":
            return f"step {step}: {line['source']} has reached its cap of epochs -> {shares_in_words(line['shares'])}"
        case "rollback":
            return f"step {step}: rolled back to step {line['to_step']}: {line['reason']}"
        case kind:
            return f"step {step}: {kind}: loss {figure(line.get('loss'))}, no update"


def summary_table(lines: Iterable[Line]) -> Table:
    """The table at the end of a run: held-out figures, share and epochs per source, decisions with the last reason.

    Works on the lines of a run that did not end, too: what is not there is left out.
    """
    first: Line | None = None
    last: Line | None = None
    report: Line | None = None
    finish: Line | None = None
    kinds: dict[str, str] = {}
    decisions: list[Line] = []
    for line in lines:
        match line["kind"]:
            case "start":
                kinds |= {source: segment["kind"] for source, segment in line.get("segments", {}).items()}
            case "step":
                first, last = first or line, line
            case "decision":
                decisions.append(line)
            case "test":
                report = line
            case "finish":
                finish = line
            case _:
                pass
    table = Table(
        title=Text(_title(finish, last), style="bold"),
        title_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column(style="bold")
    table.add_column()
    if report is not None:
        _add_held_out(table, report)
    if first is not None and last is not None:
        _add_sources(table, first, last, kinds)
    _add_decisions(table, decisions)
    return table


def _title(finish: Line | None, last: Line | None) -> str:
    if finish is not None:
        return f"{finish['state']} at step {finish['step']}: {finish['reason']} ({duration(number(finish['seconds']))})"
    return f"not finished, last step {last['step'] if last else 0}"


def _add_held_out(table: Table, report: Line) -> None:
    bits, nats = number(report["bits_per_byte"]), number(report["nats_per_token"])
    error = number(report.get("standard_error")) * bits / nats if nats else 0.0
    table.add_row("held-out report", Text(f"{plus_minus(bits, error)} bits per byte, all documents"))
    if worst := report.get("worst_slice"):
        table.add_row("", Text(f"{figure(worst['bits_per_byte'])} bits per byte, worst slice ({worst['name']})"))


def _add_sources(table: Table, first: Line, last: Line, kinds: dict[str, str]) -> None:
    for index, (source, share) in enumerate(last["shares"].items()):
        change = f"{percent(first['shares'].get(source, 0))} -> {percent(share)}"
        epochs = number(last["epochs"].get(source, 0.0))
        kind = f" ({kinds[source]})" if source in kinds else ""
        text = f"{source}{kind}: share {change}, {epochs:.2f} epochs"
        table.add_row("" if index else "sources", Text(text))


def _add_decisions(table: Table, decisions: list[Line]) -> None:
    counts = Counter(line["action"] for line in decisions)
    reasons: dict[str, Any] = {line["action"]: line for line in decisions}
    if not counts:
        table.add_row("decisions", Text("none"))
    for index, (action, count) in enumerate(counts.items()):
        line = reasons[action]
        text = f"{count} {action}, last after step {line['step']}: {line['reason']}"
        table.add_row("" if index else "decisions", Text(text))
