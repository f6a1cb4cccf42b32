"""Checkpoints that a rollback discarded are not a target of the next one, and never replace a healthy one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.test_checkpoint import Alone, fail, save_step
from tests.training.test_loop import begun, go_on
from tests.training.test_loop import run_in as training_in
from trainer.base.records import SHARE_ONE, Decision
from trainer.control.config import ControlConfig
from trainer.mixture.ledger import BatchSize, Fact, Ledger, Segment, Shares
from trainer.mixture.plan import Plan
from trainer.tracking.journal import SilentJournal
from trainer.training import checkpoint
from trainer.training.rollback import roll_back as go_back
from trainer.training.run import RunIO, RunState

SAVED = (500, 750, 1000)


class Killed(BaseException):
    """The end of the process."""


def run_in(folder: Path) -> Any:
    """A run with checkpoints at ``SAVED``, where the guard alarms on what came after 600."""
    for step in SAVED:
        save_step(folder / "checkpoints", step, keep=3)
    restored: list[Path] = []
    engine = SimpleNamespace(is_main=True, writers=Alone(), broadcast=lambda value: value, restore=restored.append)
    ledger = Ledger(
        [
            Segment(step=1, source="web", kind="real", segment=0, num_samples=100),
            BatchSize(step=1, global_batch=8),
            Shares(step=1, shares={"web": SHARE_ONE}, reason="start"),
        ]
    )
    plan = Plan(1, ledger)

    def append(facts: Sequence[Fact]) -> None:
        for fact in facts:
            ledger.append(fact)

    stream = SimpleNamespace(append=append, state=plan.state(1026))
    journal = SilentJournal()
    io = RunIO(folder=folder, journal=journal, sync_ledger=lambda: (0, ""), stop_requested=lambda: False, warn=fail)
    data = SimpleNamespace(stream=stream, plan=plan)
    return SimpleNamespace(devices=engine, data=data, io=io, restored=restored)


def roll_back(run: Any, step: int, anchor_step: int) -> RunState:
    decision = Decision(
        from_step=step + 1, shares={"web": 1_000_000}, action="rollback", reason="worse", policy="constant", evidence={}
    )
    return go_back(run, RunState(step=step, position=step, last_healthy_step=anchor_step), decision)


def names(root: Path) -> Sequence[str]:
    return sorted(path.name for path in root.glob("*step-*"))


def test_a_second_rollback_does_not_go_to_what_the_first_discarded(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert roll_back(run, 1025, anchor_step=600).position == 500
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000500\n"
    assert roll_back(run, 1450, anchor_step=1300).position == 500
    assert [folder.name for folder in run.restored] == ["step-00000500"] * 2


def test_discarded_checkpoints_replace_no_healthy_one_and_are_removed_with_the_next_save(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    roll_back(run_in(tmp_path), 1025, anchor_step=600)
    save_step(root, 1500)
    assert names(root) == ["step-00000500", "step-00001500"]


@pytest.mark.parametrize("renames", range(4))
def test_a_run_killed_in_a_rollback_resumes_from_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """From the checkpoint it resumes from it comes to the same rollback, and finds the same target."""
    run, root, num_operations = run_in(tmp_path), tmp_path / "checkpoints", 0
    replace = Path.replace

    def counted(path: Path, to: Path) -> Path:
        nonlocal num_operations
        num_operations += 1
        if num_operations > renames:
            raise Killed
        return replace(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted)
        patch.setattr(Path, "replace", counted)
        if renames < 3:  # the pointer, and two checkpoints
            with pytest.raises(Killed):
                roll_back(run, 1025, anchor_step=600)
        else:
            roll_back(run, 1025, anchor_step=600)
    checkpoint.clean(root)
    resumed = checkpoint.latest(root, warn=fail)
    assert resumed is not None
    assert resumed.step == (1000, 1000, 750, 500)[renames]
    for step in SAVED:
        if step > resumed.step:
            save_step(root, step, keep=3)
    assert roll_back(run, 1025, anchor_step=600).position == 500
    assert checkpoint.latest(root, warn=fail, at_most=1300).step == 500  # type: ignore[union-attr]


@pytest.mark.parametrize(("documents_needed", "accepted"), [(30, 0), (9, 8)])
def test_an_evaluation_that_the_guard_cannot_judge_makes_no_step_a_target(
    tmp_path: Path, documents_needed: int, accepted: int
) -> None:
    """Nine documents are read after steps 4 and 8."""
    with training_in(tmp_path) as run:
        control = ControlConfig.model_validate({"guard": {"min_documents": documents_needed}})
        state, _ = go_on(replace(run, settings=replace(run.settings, control=control)), begun())
    assert state.last_healthy_step == accepted
