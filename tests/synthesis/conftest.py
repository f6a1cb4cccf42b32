"""The real command for tests of synthesis."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.commands import Ended, WarmCommands

Synthesize = Callable[..., str]


@pytest.fixture
def trainer(warm_commands: WarmCommands, tiny_recipe: Path) -> Callable[..., Ended]:
    """trainer("check", recipe) runs the command to its end."""
    folder = tiny_recipe.parent

    def run(*arguments: object, file_bytes: int | None = None) -> Ended:
        words = [str(word) for word in arguments]
        return warm_commands.run(words, folder=folder, environment={}, streams=folder, file_bytes=file_bytes)

    return run


@pytest.fixture
def synthesize(trainer: Callable[..., Ended]) -> Synthesize:
    """synthesize(recipe, ..., expected=2) is what the command prints; ``expected`` is its exit code."""

    def run(*arguments: object, expected: int = 0, file_bytes: int | None = None) -> str:
        ended = trainer("synthesize", *arguments, file_bytes=file_bytes)
        assert ended.exit_code == expected, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout + ended.stderr

    return run
