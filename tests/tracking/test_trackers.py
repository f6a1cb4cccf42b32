"""Trackers of any kind follow a run; none of them can hurt it."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from tests.journals import step_line
from trainer.base.config import Config
from trainer.recipe import load_recipe
from trainer.tracking import tracker as tracker_module
from trainer.tracking.config import TensorBoardConfig, TrackingConfig, WandbConfig
from trainer.tracking.journal import Journal
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import read_journal
from trainer.tracking.tracker import BackgroundTracker, RunInfo
from trainer.tracking.trackers import following


class KeepingConfig(Config):
    kind: str
    at: str = ""  # the method that fails


class Keeping:
    """A user's own tracker: keeps what it is given, and fails in the method that its configuration names."""

    Config = KeepingConfig
    made: ClassVar[list["Keeping"]] = []

    def __init__(self, config: KeepingConfig) -> None:
        self.config, self.calls = config, list[Any]()
        Keeping.made.append(self)
        self._fails("__init__")

    def begin(self, run: RunInfo) -> None:
        self.calls.append(run)
        self._fails("begin")

    def note(self, line: JournalLine) -> None:
        self.calls.append(line)
        self._fails("note")

    def close(self) -> None:
        self.calls.append("closed")
        self._fails("close")

    def _fails(self, method: str) -> None:
        if self.config.at == method:
            raise RuntimeError(f"broken in {method}")


sys.modules.setdefault("its_own_tracker", sys.modules[__name__])
OWN = "its_own_tracker:Keeping"


@pytest.fixture(autouse=True)
def _none_made_yet() -> None:
    Keeping.made.clear()


def config(*trackers: dict[str, Any]) -> TrackingConfig:
    return TrackingConfig.model_validate({"trackers": list(trackers)})


def followed(folder: Path, trackers: TrackingConfig, warn: Callable[[str], None]) -> list[JournalLine]:
    """The lines that a run of three steps leaves in its journal."""
    run = RunInfo(name="n", folder=folder, recipe={"seed": 3})
    with following(trackers, run, warn=warn) as views:
        journal = Journal(folder / "journal.jsonl", views, warn=warn)
        for step in (1, 2, 3):
            journal.write(step_line(step, shares={"a": 1_000_000}))
        journal.close()
    return list(read_journal(folder / "journal.jsonl"))


def test_a_tracker_from_outside_gets_the_run_every_line_and_the_end(tmp_path: Path) -> None:
    warnings: list[str] = []
    lines = followed(tmp_path, config({"kind": OWN}), warnings.append)
    [kept] = Keeping.made
    assert kept.calls == [RunInfo(name="n", folder=tmp_path, recipe={"seed": 3}), *lines, "closed"]
    assert warnings == []


@pytest.mark.parametrize("method", ["__init__", "begin", "note", "close"])
def test_a_tracker_that_raises_is_one_warning_and_the_journal_and_the_other_trackers_lack_nothing(
    tmp_path: Path, method: str
) -> None:
    warnings: list[str] = []
    lines = followed(tmp_path, config({"kind": OWN, "at": method}, {"kind": OWN}), warnings.append)
    assert [line.step for line in lines] == [1, 2, 3]
    healthy = next(kept for kept in Keeping.made if not kept.config.at)
    assert healthy.calls[1:] == [*lines, "closed"]
    assert warnings == [
        f"tracker {OWN} is switched off for the rest of this run: broken in {method}. The journal has everything"
    ]


def test_a_tracker_that_hangs_costs_the_run_its_patience_at_the_end_and_nothing_before(tmp_path: Path) -> None:
    released, warnings = threading.Event(), list[str]()

    class Hanging(Keeping):
        def begin(self, run: RunInfo) -> None:
            released.wait(60)

    tracker = BackgroundTracker(
        "hanging", lambda: Hanging(KeepingConfig(kind="k")), RunInfo(name="n", folder=tmp_path), warn=warnings.append
    )
    for step in range(200):
        tracker.note(step_line(step, shares={}))
    assert tracker._lines.qsize() == 200  # none waited for it
    tracker.close(timeout_s=0.2)
    released.set()
    assert [("did not close within" in warning) for warning in warnings] == [True]


def test_a_tracker_too_far_behind_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "QUEUE_LINES", 10)
    released, warnings = threading.Event(), list[str]()

    class Slow(Keeping):
        def note(self, line: JournalLine) -> None:
            released.wait(60)

    tracker = BackgroundTracker(
        "slow", lambda: Slow(KeepingConfig(kind="k")), RunInfo(name="n", folder=tmp_path), warn=warnings.append
    )
    for step in range(50):
        tracker.note(step_line(step, shares={}))
    released.set()
    assert len(warnings) == 1
    assert "it is 10 lines behind" in warnings[0]


def test_the_default_is_wandb_offline_and_an_empty_list_is_none(tmp_path: Path) -> None:
    assert TrackingConfig().trackers == (WandbConfig(mode="offline"),)
    before = threading.active_count()
    with following(config(), RunInfo(name="n", folder=tmp_path)) as views:
        assert views == []
        assert threading.active_count() == before


def test_a_recipe_names_trackers_by_kind_and_set_switches_all_off(tiny_recipe: Path) -> None:
    trackers = "tracking.trackers=[{kind: tensorboard, folder: events}, {kind: wandb, project: p}]"
    recipe = load_recipe(tiny_recipe, [trackers]).recipe
    assert recipe.tracking.trackers == (TensorBoardConfig(folder="events"), WandbConfig(project="p"))
    assert load_recipe(tiny_recipe, ["tracking.trackers=[]"]).recipe.tracking.trackers == ()


@pytest.mark.parametrize("bad", [{"kind": "mlflow"}, {"kind": OWN, "color": "red"}, {"mode": "offline"}])
def test_a_tracker_that_nobody_has_and_a_key_without_effect_are_mistakes_in_the_recipe(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(bad)


def test_a_disabled_wandb_follows_nothing(tmp_path: Path) -> None:
    config = TrackingConfig.model_validate({"trackers": [{"kind": "wandb", "mode": "disabled"}]})
    with following(config, RunInfo(name="x", folder=tmp_path)) as views:
        assert views == []
    assert list(tmp_path.iterdir()) == []
