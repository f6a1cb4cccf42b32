"""What the terminal shows during a run, and the table at its end; both from the journal's lines alone.

On a terminal there is one live bar with losses and shares under it, drawn at most 4 times a second, so that it costs
less than 1 % of a fast step. Where stdout is a file (SLURM, CI) it is one plain line every 30 seconds instead: the log
of a day then has 2,880 of them, each of which grep can find.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from trainer.base.console import console as own_console
from trainer.base.formatting import duration, figure, percent, plus_minus, shares_in_words
from trainer.base.logs import is_command_line
from trainer.base.terminal import printable
from trainer.tracking.figures import HeldOutFigures, StepMixture
from trainer.tracking.guard_verdict import guard_verdict
from trainer.tracking.headlines import headline
from trainer.tracking.record import JournalLine
from trainer.tracking.round_line import RoundLine
from trainer.tracking.schema import (
    CapLine,
    DecisionLine,
    EvaluationLine,
    FinishLine,
    JoinLine,
    NonFiniteLine,
    RateLine,
    RetireLine,
    RollbackLine,
    StartLine,
    StepLine,
    TestLine,
)

PLAIN_EVERY_S = 30.0
SPEED_STEPS = 50  # the speed shown is the mean over so many steps


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
        self._console = console or own_console(quiet=not is_command_line())
        self._last_step, self._plain_every_s = num_steps + discarded_steps, plain_every_s
        self._step, self._loss, self._held_out, self._shares = 0, "", "", ""
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=SPEED_STEPS)  # when it came; tokens, seconds of it
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
            self._print(self._plain())
            self._recent.clear()

    def note(self, line: JournalLine) -> None:
        """Take a line of the journal."""
        match line:
            case StepLine():
                self._take_step(line)
            case EvaluationLine():
                self._held_out = plus_minus(line.figures.nats_per_token, line.figures.standard_error)
            case DecisionLine() if line.action != "keep":
                self._print(f"step {line.step}: {headline(line)} -> {shares_in_words(line.shares)}")
            case RollbackLine():  # the schedule goes back, steps do not: so many more are to come
                self._last_step += line.step - line.to_step
                self._bar.update(self._task, total=self._last_step)
                self._print(f"step {line.step}: {headline(line)}")
            case RateLine() | RoundLine() | JoinLine() | RetireLine() | CapLine() | NonFiniteLine():
                self._print(f"step {line.step}: {headline(line)}")
            case _:
                pass

    def _take_step(self, line: StepLine) -> None:
        self._step, self._loss = line.step, figure(line.loss)
        self._shares = shares_in_words(line.mixture.shares, " | ")
        self._bar.update(self._task, completed=self._step)
        now = time.monotonic()
        self._recent.append((now, line.tokens, line.seconds))
        if self._live is None and now - self._printed_at >= self._plain_every_s:
            self._printed_at = now
            self._print(self._plain())

    def _figures(self) -> str:
        parts = [f"loss {self._loss}" if self._loss else "", f"held-out {self._held_out}" if self._held_out else ""]
        timed = [(tokens, seconds) for _, tokens, seconds in self._recent if seconds > 0]
        if timed:  # by the steps' own times: several lines may come at once
            parts.append(f"{sum(tokens for tokens, _ in timed) / sum(s for _, s in timed):,.0f} tokens/s")
        return "  ".join(part for part in parts if part)

    def _seconds(self) -> float:
        """How long the recent steps took by the clock, evaluations and saves included: what is left depends on it."""
        return self._recent[-1][0] - self._recent[0][0] if self._recent else 0.0

    def _time_left(self) -> str:
        if len(self._recent) < 2:
            return ""
        step_s = self._seconds() / (len(self._recent) - 1)
        return f"{duration((self._last_step - self._step) * step_s)} left"

    def _draw(self) -> Group:
        self._bar.update(self._task, left=self._time_left())
        return Group(
            self._bar.get_renderable(),
            _text(self._figures()),
            Text(printable(self._shares), style="dim", overflow="fold"),
        )

    def _plain(self) -> str:
        return f"step {self._step}/{self._last_step}  {self._figures()}  {self._time_left()}  {self._shares}"

    def _print(self, text: str) -> None:
        self._console.print(_text(text), soft_wrap=True)


@dataclass(kw_only=True)
class _Summary:
    """What the table at the end is made of."""

    starts: list[StartLine] = field(default_factory=list)
    first: StepLine | None = None
    last: StepLine | None = None
    decisions: list[DecisionLine] = field(default_factory=list)
    test: TestLine | None = None
    finish: FinishLine | None = None

    def note(self, line: JournalLine) -> None:
        match line:
            case StartLine():
                self.starts.append(line)
            case StepLine():
                self.first, self.last = self.first or line, line
            case DecisionLine():
                self.decisions.append(line)
            case TestLine():
                self.test = line
            case FinishLine():
                self.finish = line
            case _:
                pass


def summary_table(lines: Iterable[JournalLine]) -> Table:
    """The table at the end of a run: test figures, share and epochs per source, decisions with the last reason.

    Works on the lines of a run that did not end, too: what is not there is left out.
    """
    run = _Summary()
    for line in lines:
        run.note(line)
    table = Table(
        title=Text(printable(_title(run.finish, run.last)), style="bold"),
        title_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column(style="bold")
    table.add_column()
    if run.test is not None:
        _add_held_out(table, run.test.figures)
    if run.first is not None and run.last is not None:
        kinds = {source: facts.kind for start in run.starts for source, facts in start.sources.items()}
        _add_sources(table, run.first.mixture, run.last.mixture, kinds)
    _add_decisions(table, run.decisions)
    if run.last is not None:
        table.add_row("guard", _text(guard_verdict([*run.starts, *run.decisions]).text))
    return table


def _text(text: str) -> Text:
    """A text of ours or of the data, escaped before it is laid out, so that it is as wide as it is shown."""
    return Text(printable(text))


def _title(finish: FinishLine | None, last: StepLine | None) -> str:
    if finish is not None:
        return f"{finish.state} at step {finish.step}: {finish.reason} ({duration(finish.seconds)})"
    return f"not finished, last step {last.step if last else 0}"


def _add_held_out(table: Table, test: HeldOutFigures) -> None:
    loss = f"{plus_minus(*test.bits_with_error())} bits per byte"
    if test.bits_per_byte is None:
        loss = f"{plus_minus(test.nats_per_token, test.standard_error)} nats per token"
    table.add_row("test loss", _text(f"{loss}, all documents"))
    if test.worst_slice is not None:
        bits, name = figure(test.worst_slice.bits_per_byte), test.worst_slice.name
        table.add_row("", _text(f"{bits} bits per byte, worst slice ({name})"))


def _add_sources(table: Table, first: StepMixture, last: StepMixture, kinds: Mapping[str, str]) -> None:
    for index, (source, share) in enumerate(last.shares.items()):
        change = f"{percent(first.shares.get(source, 0))} -> {percent(share)}"
        kind = f" ({kinds[source]})" if source in kinds else ""
        text = f"{source}{kind}: share {change}, {last.epochs.get(source, 0.0):.2f} epochs"
        table.add_row("" if index else "sources", _text(text))


def _add_decisions(table: Table, decisions: Sequence[DecisionLine]) -> None:
    counts = Counter(line.action for line in decisions)
    newest = {line.action: line for line in decisions}
    if not counts:
        table.add_row("decisions", Text("none"))
    for index, (action, count) in enumerate(counts.items()):
        line = newest[action]
        text = f"{count} {action}, last after step {line.step}: {line.reason}"
        table.add_row("" if index else "decisions", _text(text))
