"""Fixtures of the tests of data: the files of the small recipe, and a cache of the user's own."""

from pathlib import Path

import pytest

from tests.data.corpus import small_files
from trainer.data.fingerprint import CACHE_VARIABLE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files that ``tests.data.corpus.recipe`` reads."""
    small_files(tmp_path)
    return tmp_path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own cache, for what cannot be noted in the recipe's."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    return tmp_path / "own"
