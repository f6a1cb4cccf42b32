"""What is written aside and renamed is complete or absent, and leaves nothing behind."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.base.atomic import recover_folder, replace_folder, replacing, sync_tree, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    assert write_text(path, "first") == path
    write_bytes(path, "zweite Fassung: é".encode())
    assert path.read_text(encoding="utf-8") == "zweite Fassung: é"
    assert names(path.parent) == ["state.json"]


def test_an_error_while_writing_leaves_the_old_content_and_nothing_aside(tmp_path: Path) -> None:
    path = write_text(tmp_path / "state.json", "old")

    def broken() -> None:
        with replacing(path) as aside:
            aside.write_text("half", encoding="utf-8")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        broken()
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["state.json"]


def test_characters_that_utf_8_lacks_are_escaped_not_fatal(tmp_path: Path) -> None:
    assert write_text(tmp_path / "page", "a\ud800b").read_text(encoding="utf-8") == "a\\ud800b"


def test_a_process_killed_while_it_writes_leaves_the_old_content(tmp_path: Path) -> None:
    path = write_text(tmp_path / "state.json", "old")
    code = (
        "import sys; from pathlib import Path; from trainer.base.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); print('writing', flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert path.read_text(encoding="utf-8") == "old"


def folder_with(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "weights").write_text(text)
    return path


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", "old")
    aside = folder_with(tmp_path / ".model.partial", "new")
    sync_tree(aside)
    replace_folder(aside, folder)
    assert (folder / "weights").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_a_folder_that_was_moved_away_and_never_replaced_comes_back(tmp_path: Path) -> None:
    folder_with(tmp_path / ".model.replaced", "old")
    recover_folder(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    folder_with(tmp_path / ".model.replaced", "older")
    recover_folder(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]
    recover_folder(tmp_path / "nothing")


def test_a_write_that_finds_no_room_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"out\.txt") as refused, replacing(tmp_path / "out.txt"):
        Path("/dev/full").write_text("x")
    assert refused.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
