"""The terminal shows the journal: live on a terminal, plain lines in a log, one table at the end."""

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.journals import step_line
from trainer.tracking.schema import RollbackLine, read_journal
from trainer.tracking.terminal import TerminalProgress, summary_table


def shown(folder: Path, *, terminal: bool, every_s: float = 30.0, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    with TerminalProgress(400, console=console, plain_every_s=every_s) as progress:
        for line in read_journal(folder / "journal.jsonl"):
            progress.note(line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def summary(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(summary_table(read_journal(folder / "journal.jsonl")))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_step_losses_speed_time_left_and_shares(tell: Callable[..., Path]) -> None:
    last = shown(tell(crash_at=230), terminal=True)[-600:]
    for words in ("230/400", " left", "loss 4.", "held-out 4.", "± 0.021", "tokens/s", "written 50 % | invented 25 %"):
        assert words in last


def test_a_log_gets_plain_lines_without_control_characters(tell: Callable[..., Path]) -> None:
    text = shown(tell(), terminal=False, every_s=0.0)
    assert "\x1b" not in text
    assert len([line for line in text.splitlines() if line.startswith("step ") and "/400 " in line]) == 401
    assert "step 400/400  loss 4." in text or "step 400/400  loss 3." in text


def test_a_log_is_not_flooded(tell: Callable[..., Path]) -> None:
    lines = shown(tell(), terminal=False).splitlines()
    assert len(lines) == 3  # the move, the cut, and the state at the end
    assert lines[0].startswith("step 100: move: spam is worth")


def test_steps_taken_back_by_a_rollback_are_still_to_come() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False, color_system=None)
    with TerminalProgress(400, discarded_steps=5, console=console, plain_every_s=0.0) as progress:
        progress.note(RollbackLine(step=100, to_step=60, reason="the tail got worse"))
        progress.note(step_line(101, shares={"real": 1_000_000}))
    assert isinstance(console.file, io.StringIO)
    assert "step 101/445" in console.file.getvalue()


def test_text_from_data_is_not_taken_for_markup(tell: Callable[..., Path]) -> None:
    folder = tell(rename={"spam": "[red]spam[/red]", "written": "[/oops]"})
    for text in (shown(folder, terminal=True), shown(folder, terminal=False), summary(folder)):
        assert "[red]spam[/red]" in text
        assert "[/oops]" in text


def test_the_summary_has_the_test_loss_the_sources_and_the_decisions(tell: Callable[..., Path]) -> None:
    text = summary(tell())
    for words in (
        "finished at step 400: all steps done (2 min 12 s)",
        "test loss",
        "bits per byte, all documents",
        "bits per byte, worst slice (people)",
        "written (synthetic): share 25 % -> 50 %, 3.25 epochs",
        "14 keep, last after step 400",
        "1 move, last after step 100: spam is worth -0.61 ± 0.12",
        "1 cut, last after step 200",
    ):
        assert words in text


def test_the_summary_of_a_crashed_run_says_so(tell: Callable[..., Path]) -> None:
    text = summary(tell(crash_at=60))
    assert "not finished, last step 60" in text
    assert "test loss" not in text


def test_the_speed_shown_is_that_of_the_steps_also_where_their_lines_come_together() -> None:
    text = ""
    for number in (1, 2):
        console = Console(file=io.StringIO(), width=200, force_terminal=False, color_system=None)
        with TerminalProgress(2, console=console, plain_every_s=0.0) as progress:
            for step in range(1, number + 1):
                progress.note(step_line(step, shares={"real": 1_000_000}, tokens=64, seconds=0.5))
        assert isinstance(console.file, io.StringIO)
        text += console.file.getvalue()
    assert text.count("  128 tokens/s") == text.count("tokens/s") > 0


def test_a_step_that_was_not_timed_gives_no_speed() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=False, color_system=None)
    with TerminalProgress(2, console=console, plain_every_s=0.0) as progress:
        progress.note(step_line(1, shares={"real": 1_000_000}, tokens=64, seconds=0.0))
    assert isinstance(console.file, io.StringIO)
    assert "tokens/s" not in console.file.getvalue()
