"""The example package adds a policy, a filter and a tracker to the trainer without a change inside it."""

import csv
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from trainer.recipe import load_recipe
from trainer.tracking.schema import DecisionLine, read_journal

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "examples" / "plugin"
FEW = [
    "training.steps=8",
    "training.schedule={kind: cosine, warmup_steps: 1}",
    "evaluation.every_steps=2",
    "evaluation.validation_documents=8",
    "training.micro_batch=8",
]


@pytest.fixture(autouse=True)
def plugin_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


def test_every_entry_point_names_a_part_with_a_configuration() -> None:
    groups = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]
    assert sorted(groups) == ["hybrid_trainer.filters", "hybrid_trainer.policies", "hybrid_trainer.trackers"]
    for parts in groups.values():
        for path in parts.values():
            module, name = path.split(":")
            assert "kind" in getattr(import_module(module), name).Config.model_fields


def test_the_recipe_takes_the_parts_configurations() -> None:
    recipe = load_recipe(PLUGIN / "recipe.yaml").recipe
    policy: Any = recipe.control.policy
    tracker: Any = recipe.tracking.trackers[0]
    assert policy.patience == 2
    assert tracker.file == "metrics.csv"


def test_the_filter_drops_a_document_that_repeats_a_line() -> None:
    module = import_module("hybrid_trainer_example.filter")
    repeated = module.RepeatedLines(module.RepeatedLinesConfig(kind="x", most=2))
    assert repeated("a\nb\na\na", {}) == "one line too often"
    assert repeated("a\nb\na", {}) is None
    assert repeated("", {}) is None


@pytest.mark.slow
def test_a_run_is_controlled_filtered_and_tracked_by_the_package(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [word for value in FEW for word in ("--set", value)]
    command = [sys.executable, "-m", "trainer", "fit", str(PLUGIN / "recipe.yaml"), "--run", str(run), *sets]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)])}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    decisions = [line for line in read_journal(run / "journal.jsonl") if isinstance(line, DecisionLine)]
    assert {line.policy.rpartition(":")[2] for line in decisions} == {"OnPlateau"}
    with (run / "metrics.csv").open() as file:
        names = {name for _, name, _ in csv.reader(file)}
    assert {"loss/train", "loss/held_out"} <= names
