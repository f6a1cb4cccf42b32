"""Data are prepared once: which store is opened again, what a killed preparation leaves, and who waits for whom."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from tests.data.corpus import RECIPES, all_ids, by_bucket, documents, prepared, recipe, stores, write_jsonl
from trainer.base.errors import UserError
from trainer.data.store import PreparedData, is_complete, open_prepared


def test_a_second_run_opens_the_store_and_reads_nothing(folder: Path) -> None:
    first = prepared(folder, recipe())
    calls: list[str] = []
    again = prepared(folder, recipe(), progress=lambda what, documents: calls.append(what))
    assert (again.folder, calls) == (first.folder, [])
    assert again.validation.ids == first.validation.ids


def test_content_and_settings_name_the_store_and_nothing_else_does(folder: Path) -> None:
    first = prepared(folder, recipe(held_out=by_bucket()))
    os.utime(folder / "web.jsonl", (1, 1))  # touched, not changed
    assert prepared(folder, recipe(held_out=by_bucket()), seed=5).folder == first.folder
    (folder / "moved").mkdir()
    for name in ("web.jsonl", "made.jsonl"):
        (folder / name).rename(folder / "moved" / name)
    assert prepared(folder / "moved", recipe(held_out=by_bucket(), cache="../cache")).folder == first.folder
    write_jsonl(folder / "moved" / "made.jsonl", documents(60, "mad3"))
    assert prepared(folder / "moved", recipe(held_out=by_bucket(), cache="../cache")).folder != first.folder


def test_only_a_complete_store_is_opened(folder: Path) -> None:
    data = prepared(folder, recipe())
    (data.folder / "complete").unlink()
    with pytest.raises(UserError, match="not a complete prepared store"):
        open_prepared(data.folder)
    (data.folder / "store.json").unlink()
    assert all_ids(prepared(folder, recipe()), "web") == all_ids(data, "web")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.corpus import prepared, recipe
def die(what, documents):
    if what == "prepare made":
        os.kill(os.getpid(), signal.SIGKILL)
prepared(Path(sys.argv[1]), recipe(), progress=die)
"""


def test_a_killed_preparation_leaves_no_store_and_is_done_anew(folder: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=RECIPES.parent, check=False)
    assert process.returncode == -signal.SIGKILL
    (left,) = stores(folder)
    assert not is_complete(left)
    data = prepared(folder, recipe())
    assert stores(folder) == [data.folder]
    assert all_ids(data, "made") == [row["id"] for row in documents(60, "made")]


def test_the_others_wait_for_the_main_process(folder: Path) -> None:
    opened: list[PreparedData] = []
    waiting = Thread(target=lambda: opened.append(prepared(folder, recipe(), is_main=False)))
    waiting.start()
    time.sleep(0.3)
    assert not opened
    data = prepared(folder, recipe())
    waiting.join(timeout=20)
    assert [each.folder for each in opened] == [data.folder]


def test_the_others_stop_when_the_main_process_fails(folder: Path) -> None:
    write_jsonl(folder / "made.jsonl", [b"{"] * 20)
    errors: list[UserError] = []

    def wait() -> None:
        try:
            prepared(folder, recipe(), is_main=False)
        except UserError as error:
            errors.append(error)

    waiting = Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    with pytest.raises(UserError):
        prepared(folder, recipe())
    waiting.join(timeout=20)
    assert "could not prepare the data: 20 of 20 rows of source 'made' are malformed" in str(errors[0])


def test_the_others_do_not_wait_for_a_dead_main_process(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no heartbeat for 0\.3 s"):
        prepared(folder, recipe(), is_main=False, patience_s=0.3)
