"""The model at the end of a run: whole, or as it was before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.runs.start_and_finish import _write_model


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
    _write_model(engine_that_saves("50 steps"), model, tokenizer)
    assert {file.name for file in model.iterdir()} == {"weights", "words"}
    with pytest.raises(OSError, match="No space left"):
        _write_model(engine_that_saves("80", fails=True), model, tokenizer)
    assert (model / "weights").read_text() == "50 steps"
    _write_model(engine_that_saves("80 steps"), model, tokenizer)
    assert (model / "weights").read_text() == "80 steps"
