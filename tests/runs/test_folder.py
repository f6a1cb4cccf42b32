"""The run folder and the recipe that it is bound to."""

from pathlib import Path

import pytest

from trainer.base.errors import RunFolderError
from trainer.recipe import load_recipe
from trainer.runs.folder import check_recipe_unchanged, keep_recipe


def test_a_run_that_failed_before_its_journal_was_opened_takes_a_corrected_recipe(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe, corrected = (load_recipe(tiny_recipe, [f"seed={seed}"]).recipe for seed in (5, 6))
    keep_recipe(tmp_path, recipe)
    (tmp_path / "ledger.jsonl").touch()
    check_recipe_unchanged(tmp_path, corrected)
    (tmp_path / "journal.jsonl").touch()
    check_recipe_unchanged(tmp_path, recipe)
    with pytest.raises(RunFolderError, match="seed: 5 -> 6"):
        check_recipe_unchanged(tmp_path, corrected)
