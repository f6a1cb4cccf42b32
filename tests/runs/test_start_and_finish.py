"""The model at the end of a run: whole, or as it was before."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.runs.start_and_finish import _write_model, write_ending
from trainer.training.run import Outcome


def engine_that_saves(text: str, *, fails: bool = False) -> Any:
    def save(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(text)
        if fails:
            raise OSError("No space left on device")

    return SimpleNamespace(is_main=True, save_model=save)


def test_a_model_that_could_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    tokenizer, model = tmp_path / "tokenizer", tmp_path / "model"
    tokenizer.mkdir()
    (tokenizer / "words").touch()
    _write_model(engine_that_saves("50 steps"), model, tokenizer, mark={})
    assert {"weights", "words"} <= {file.name for file in model.iterdir()}
    with pytest.raises(OSError, match="No space left"):
        _write_model(engine_that_saves("80", fails=True), model, tokenizer, mark={})
    assert (model / "weights").read_text() == "50 steps"
    _write_model(engine_that_saves("80 steps"), model, tokenizer, mark={})
    assert (model / "weights").read_text() == "80 steps"


def test_a_report_that_cannot_be_written_is_a_warning_and_the_run_is_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report.html").mkdir()
    assert write_ending(tmp_path, Outcome(state="finished", step=5, reason="all 5 steps are done")) == 0
    assert json.loads((tmp_path / "outcome.json").read_text())["state"] == "finished"
    assert "report.html could not be written" in caplog.text
