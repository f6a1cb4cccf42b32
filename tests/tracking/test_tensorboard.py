"""TensorBoard event files hold every metric of the schema at its step."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.journals import start_line, step_line
from trainer.tracking.config import TensorBoardConfig
from trainer.tracking.schema import read_journal
from trainer.tracking.tensorboard import TensorBoardTracker
from trainer.tracking.tracker import BackgroundTracker, RunInfo


def tracker_of(folder: Path, **given: Any) -> BackgroundTracker:
    tracker, run = TensorBoardTracker(TensorBoardConfig()), RunInfo(name="n", folder=folder)
    return BackgroundTracker("tensorboard", lambda: tracker, run, **given)


def test_event_files_hold_scalars_and_events(tell: Callable[..., Path]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tell(steps=100)
    tracker = tracker_of(folder)
    for line in read_journal(folder / "journal.jsonl"):
        tracker.note(line)
    tracker.close()
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    losses = events.Scalars("loss/train")
    assert [point.step for point in losses] == list(range(1, 101))
    assert [point.step for point in events.Scalars("loss/held_out")] == [25, 50, 75, 100]
    assert events.Scalars("share/spam/drawn")[-1].value == 0.25
    [text] = [
        event.tensor_proto.string_val[0] for event in events.Tensors("decision/text_summary") if event.step == 100
    ]
    assert text.decode() == "move: spam is worth -0.61 ± 0.12, 5.1 standard errors below 0: halved"


def test_steps_that_are_trained_again_after_a_resume_are_shown_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from dataclasses import replace

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begin in (0, 2):  # killed after step 4, resumed from a checkpoint at 2
        tracker = tracker_of(tmp_path)
        tracker.note(replace(start_line({}), step=begin, resumed_from="step-00000002" if begin else None))
        for step in range(begin + 1, 5):
            tracker.note(step_line(step, shares={}, loss=float(step + 10 * begin)))
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [(point.step, point.value) for point in events.Scalars("loss/train")] == [(1, 1), (2, 2), (3, 23), (4, 24)]


def test_without_tensorboard_there_is_one_warning_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorboard", "tensorboard.summary.writer.event_file_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    warnings: list[str] = []
    tracker = tracker_of(tmp_path, warn=warnings.append)
    tracker.note(step_line(1, shares={}))
    tracker.close()
    assert len(warnings) == 1
    assert "pip install 'hybrid-trainer[tensorboard]'" in warnings[0]
