"""A large prepared store is hashed once, by one process: a mark says so, and the others wait for it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from tests.data.corpus import prepared, recipe
from tests.data.harm import NEEDS_ROOT, flip, read_only
from trainer.base.errors import UserError
from trainer.data import waiting, whole
from trainer.data.config import DataConfig
from trainer.data.fingerprint import stamp_key
from trainer.data.store import PreparedData
from trainer.data.store_files import DamagedStoreError
from trainer.data.whole import is_marked, require_whole

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "SMALL_BYTES", 0)


def notes_of(data: PreparedData) -> list[str]:
    """What is said when the store is required to be whole: nothing where it is not read for that."""
    said: list[str] = []
    require_whole(data, said.append)
    return said


def test_a_large_store_is_hashed_once_until_a_file_of_it_changes(folder: Path, all_are_large: None) -> None:
    data = prepared(folder, recipe())
    assert notes_of(data) == [], "whoever wrote it has hashed it"
    mark = next((folder / "cache" / "runs").glob("*.whole"))
    mark.unlink()
    assert len(notes_of(data)) == 1
    assert notes_of(data) == []
    os.utime(data.folder / "test" / "tokens.npy", (1, 1))
    assert not is_marked(data), "the inode's time of change is not for programs to set"
    assert len(notes_of(data)) == 1
    state = (data.folder / "source-0/segment-0/tokens.npy").stat()
    flip(data.folder / "source-0/segment-0/tokens.npy", -1)
    os.utime(data.folder / "source-0/segment-0/tokens.npy", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DamagedStoreError, match=r"tokens\.npy"):
        require_whole(data)


@NEEDS_ROOT
def test_the_mark_of_a_large_store_in_a_cache_that_is_read_only_is_kept_in_the_users_own(
    folder: Path, own_cache: Path, all_are_large: None
) -> None:
    data = prepared(folder, recipe())
    next((folder / "cache" / "runs").glob("*.whole")).unlink()
    with read_only(folder / "cache"):
        assert len(notes_of(data)) == 1
        assert notes_of(data) == []
    assert list(own_cache.glob("runs/*.whole"))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"seal": ""}', "\0"])
def test_a_mark_that_is_none_is_not_believed(folder: Path, all_are_large: None, text: str) -> None:
    data = prepared(folder, recipe())
    next((folder / "cache" / "runs").glob("*.whole")).write_text(text)
    assert not is_marked(data)


def test_the_other_processes_wait_until_a_large_store_was_hashed(
    folder: Path, all_are_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_POLL_S", 0.01)
    data, opened = prepared(folder, recipe()), list[PreparedData]()
    next((folder / "cache" / "runs").glob("*.whole")).unlink()
    waiter = Thread(target=lambda: opened.append(prepared(folder, recipe(), is_main=False)))
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive()
    require_whole(data)
    waiter.join(30)
    assert [other.seal for other in opened] == [data.seal]


def hide_the_mark(data: PreparedData) -> None:
    next((data.folder.parent.parent / "runs").glob("*.whole")).unlink()


def copy_the_files(data: PreparedData) -> None:
    """As to a disk of another node's own: the same content, other times of change."""
    aside = data.folder.with_suffix(".copy")
    shutil.copytree(data.folder, aside)
    shutil.rmtree(data.folder)
    aside.rename(data.folder)


@pytest.mark.parametrize("unseen", [hide_the_mark, copy_the_files])
def test_a_large_store_whose_mark_and_heartbeat_another_node_has_is_opened(
    folder: Path, all_are_large: None, monkeypatch: pytest.MonkeyPatch, unseen: Callable[[PreparedData], None]
) -> None:
    data = prepared(folder, recipe())
    unseen(data)
    assert not is_marked(data)
    monkeypatch.setattr(waiting, "_SILENCE_S", 0.2)
    assert prepared(folder, recipe(), is_main=False, patience_s=60).seal == data.seal
    (data.folder / "source-0" / "segment-0" / "tokens.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match="no heartbeat for 1 s"):
        prepared(folder, recipe(), is_main=False, patience_s=1)


def test_a_large_store_without_a_mark_is_waited_for_while_the_main_process_shows_life(
    folder: Path, all_are_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, opened = prepared(folder, recipe()), list[PreparedData]()
    hide_the_mark(data)
    for name, seconds in (("_POLL_S", 0.01), ("_BEAT_S", 0.01), ("_SILENCE_S", 1.5)):
        monkeypatch.setattr(waiting, name, seconds)
    key = stamp_key(DataConfig.model_validate(recipe()), seed=0, base=folder, cache=folder / "cache")
    waiter = Thread(target=lambda: opened.append(prepared(folder, recipe(), is_main=False)))
    with waiting.Announcement(folder / "cache", key):
        waiter.start()
        waiter.join(2.5)
        assert waiter.is_alive()
    waiter.join(30)
    assert [other.seal for other in opened] == [data.seal], "also where the main process could not write a mark"


def test_a_large_store_that_is_damaged_is_opened_when_it_was_prepared_again(
    folder: Path, all_are_large: None, caplog: pytest.LogCaptureFixture
) -> None:
    data, opened = prepared(folder, recipe()), list[PreparedData]()
    flip(data.folder / "source-1" / "segment-0" / "tokens.npy", -1)
    waiter = Thread(target=lambda: opened.append(prepared(folder, recipe(), is_main=False)))
    waiter.start()
    again = prepared(folder, recipe())
    waiter.join(30)
    assert "are damaged" in caplog.text
    assert again.seal != data.seal
    assert [other.seal for other in opened] == [again.seal]
