"""The real command for tests of synthesis."""

from collections.abc import Callable

import pytest

from tests.cases.commands import Ended

Synthesize = Callable[..., str]


@pytest.fixture
def synthesize(trainer: Callable[..., Ended]) -> Synthesize:
    """synthesize(recipe, ..., expected=2) is what the command prints; ``expected`` is its exit code."""

    def run(*arguments: object, expected: int = 0, file_bytes: int | None = None) -> str:
        ended = trainer("synthesize", *arguments, expected=expected, file_bytes=file_bytes)
        return ended.stdout + ended.stderr

    return run
