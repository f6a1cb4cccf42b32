"""The run folder and the recipe that it is bound to."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.base.errors import RunFolderError
from trainer.recipe import load_recipe
from trainer.runs.folder import (
    check_recipe_unchanged,
    check_users_files,
    keep_recipe,
    locked,
    read_outcome,
    settled_outcome,
)


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
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(RunFolderError, match=r"recipe\.yaml: the recipe that this run began with is missing"):
        check_recipe_unchanged(tmp_path, recipe)


@pytest.mark.parametrize(
    "outcome", ["{}", "[]", "null", "", "{", '{"state": "lost"}', '{"state": ["finished"]}', "\x00"]
)
def test_an_outcome_that_does_not_say_how_the_run_ended_counts_as_none(
    tiny_recipe: Path, tmp_path: Path, outcome: str
) -> None:
    recipe = load_recipe(tiny_recipe).recipe
    keep_recipe(tmp_path, recipe)
    (tmp_path / "outcome.json").write_text(outcome)
    assert read_outcome(tmp_path) is None
    assert settled_outcome(tmp_path, recipe) is None


@pytest.mark.parametrize(("step", "reason"), [(None, None), ("7", 3), ([], {})])
def test_fields_of_an_outcome_that_hold_something_else_do_not_hide_its_state(
    tmp_path: Path, step: Any, reason: Any
) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps({"state": "finished", "step": step, "reason": reason}))
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert (outcome["state"], outcome["step"]) == ("finished", None)


@pytest.mark.parametrize("holder", [b"\xff\xfe\x00", b"process 1 on \x80", b""])
def test_a_lock_file_that_is_no_text_hinders_nobody(tmp_path: Path, holder: bytes) -> None:
    (tmp_path / ".lock").write_bytes(holder)
    with locked(tmp_path):
        assert (tmp_path / ".reserve").exists()
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_launch_that_fails_leaves_no_reserve_and_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".outcome.12.34.partial").touch()
    (tmp_path / ".recipe.yaml.12.partial").touch()
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["ledger.jsonl", "journal.jsonl", "recipe.yaml", "outcome.json"])
def test_a_folder_under_the_name_of_a_file_of_the_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "ledger.jsonl").touch()
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(RunFolderError, match="this is a folder"):
        check_users_files(tmp_path)


@pytest.mark.parametrize("name", ["checkpoints", ".alive"])
def test_a_file_under_the_name_of_a_folder_of_the_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "ledger.jsonl").touch()
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunFolderError, match="this is a file"):
        check_users_files(tmp_path)


NOTES = ("log.txt", "README.md", "run.LOG", "fit.log.1", "slurm-12.out", "args.json", ".hidden",
         "logs/a", "log/a", "tensorboard/events.out.tfevents.1", "wandb/debug.bin", "slurm/job.sh")  # fmt: skip


@pytest.mark.parametrize("name", NOTES)
def test_the_users_own_notes_and_output_do_not_hinder_a_new_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    check_users_files(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["train.py", "weights.bin", "model.safetensors", "model/config.json", "src/a.txt", "rows.jsonl", "recipe.yaml",
     "report.html", "notes.txt/a.py", "data.log.csv/rows.csv"],
)  # fmt: skip
def test_a_folder_with_other_files_of_the_user_is_refused_for_a_new_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "log.txt").write_text("mine")
    first = name.split("/")[0]
    with pytest.raises(RunFolderError, match=f"other files in it: {first} "):
        check_users_files(tmp_path)
