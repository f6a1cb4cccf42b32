"""Replaying another run: what cannot be replayed is refused before anything starts."""

from pathlib import Path

import pytest

from trainer.base.errors import RunFolderError
from trainer.recipe import load_recipe
from trainer.runs.replay import read_replay


def test_a_folder_in_which_no_run_has_begun_cannot_be_replayed(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, on_this_machine=False).recipe
    with pytest.raises(RunFolderError, match="not a run folder"):
        read_replay(tmp_path / "nowhere", recipe, {})
