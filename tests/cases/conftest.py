"""Fixtures of the cases: the real command in a folder of its own, quickly."""

from pathlib import Path

import pytest

from tests.cases.commands import Case, WarmCommands


@pytest.fixture
def case(warm_commands: WarmCommands, tmp_path: Path) -> Case:
    """A folder for one case: `case.take("03-empty-parquet-shard").fit()`."""
    return Case(warm_commands, tmp_path)
