"""Kills at any moment of a round lose no row, double none, and have nothing asked for twice that was kept."""

from pathlib import Path

from tests.cases.commands import WarmCommands
from tests.synthesis.kill9 import run_with_kills


def test_no_row_is_lost_doubled_or_asked_for_twice(warm_commands: WarmCommands, tmp_path: Path) -> None:
    outcome = run_with_kills(warm_commands, tmp_path, kills=2, requests=40, seed=3)
    assert outcome.kills == 2
    assert outcome.rows == 40
    assert outcome.is_clean
    assert outcome.asked_again_in_flight <= 2 * 4, "only the calls that a kill cut off"
