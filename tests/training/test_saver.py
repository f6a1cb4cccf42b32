"""A save in a thread leaves training alone until somebody asks, and then tells what came of it."""

import threading
from pathlib import Path

import pytest

from trainer.training.saver import Saver


def test_training_continues_while_a_thread_saves_and_waiting_gives_the_result() -> None:
    saver, go_on = Saver(), threading.Event()

    def save() -> tuple[Path, int]:
        assert go_on.wait(10)
        return Path("step-00000005"), 7

    saver.start(5, save, started_s=0.0, in_a_thread=True)  # returns although the save cannot end yet
    assert not saver.is_done()
    go_on.set()
    saved = saver.wait()
    assert saved is not None
    assert (saved.step, saved.folder.name, saved.num_bytes) == (5, "step-00000005", 7)
    assert saver.wait() is None, "a save is told of once"


class Unusual(BaseException):
    """torch has such errors."""


def test_no_kind_of_failure_in_a_thread_passes_for_a_save() -> None:
    def save() -> tuple[Path, int]:
        raise Unusual("no space left")

    saver = Saver()
    saver.start(5, save, started_s=0.0, in_a_thread=True)
    with pytest.raises(OSError, match="no space left"):
        saver.wait()


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_a_failure_is_raised_when_it_is_waited_for_and_names_the_step(in_a_thread: bool) -> None:
    def save() -> tuple[Path, int]:
        raise RuntimeError("no space left")

    saver = Saver()
    saver.start(5, save, started_s=0.0, in_a_thread=in_a_thread)
    with pytest.raises(OSError, match="checkpoint after step 5 could not be saved: no space left"):
        saver.wait()
    assert saver.wait() is None
