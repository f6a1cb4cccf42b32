"""The W&B tracker writes real offline files, once each step, and cannot hurt training."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journals import step_line
from trainer.tracking import wandb
from trainer.tracking.config import WandbConfig
from trainer.tracking.round_line import RoundLine
from trainer.tracking.schema import StepLine, read_journal
from trainer.tracking.tracker import BackgroundTracker, RunInfo
from trainer.tracking.wandb import WandbTracker

OFFLINE = WandbConfig(mode="offline", project="p")
BLOCK = 32 * 1024
PATIENCE_S = 600.0  # for what ends by itself in seconds, on a machine that is busy with other things

TELL_AND_DIE = """
import os, signal, sys, time
from pathlib import Path
from trainer.tracking.config import WandbConfig
from trainer.tracking.schema import read_journal
from trainer.tracking.tracker import BackgroundTracker, RunInfo
from trainer.tracking.wandb import WandbTracker
folder = Path(sys.argv[1])
wandb = WandbTracker(WandbConfig(mode="offline", project="p"))
tracker = BackgroundTracker("wandb", lambda: wandb, RunInfo(name="story", folder=folder))
for line in read_journal(folder / "journal.jsonl"):
    if line.step > 60:
        break
    tracker.note(line)
while wandb._logged_step < 59:
    time.sleep(0.01)
time.sleep(2.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("WANDB__SERVICE_WAIT", str(PATIENCE_S))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "INIT_S", PATIENCE_S)


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a 7 byte header, then LevelDB log records in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert struct.unpack("<4sHB", data[:7])[:2] == (b":W&B", 0xBEE1)
    position, parts = 7, []
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + 7 : position + 7 + length]
        if len(part) < length:
            return
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == checksum
        position += 7 + length
        parts = [*(parts if kind in (3, 4) else []), part]
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(b"".join(parts))
            yield record


def rows(folder: Path) -> list[dict[str, Any]]:
    """All history rows under a run folder, in the order in which they were written."""
    rows_ = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows_.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows_


def tracker_of(folder: Path, config: WandbConfig = OFFLINE, **given: Any) -> BackgroundTracker:
    return BackgroundTracker("wandb", lambda: WandbTracker(config), RunInfo(name="story", folder=folder), **given)


def track_whole(folder: Path, **given: Any) -> None:
    tracker = tracker_of(folder, **given)
    for line in read_journal(folder / "journal.jsonl"):
        tracker.note(line)
    tracker.close(timeout_s=PATIENCE_S)


def run_id(folder: Path) -> str:
    return str(json.loads((folder / "wandb" / "logged.json").read_text())["run_id"])


def test_offline_files_hold_every_panel_once_a_step(tell: Callable[..., Path]) -> None:
    folder = tell(steps=100)
    warnings: list[str] = []
    track_whole(folder, warn=warnings.append)
    wait_for_the_end(folder, 100)
    logged = rows(folder)
    assert warnings == []
    assert [row["step"] for row in logged] == [row["_step"] for row in logged] == list(range(1, 101))
    last = logged[-1]
    assert last["tokens"] == 100 * 32 * 128
    assert last["decision"] == "move: spam is worth -0.61 ± 0.12, 5.1 standard errors below 0: halved"
    assert last["share/spam/target"] == 0.125
    assert last["share/spam/drawn"] == 0.25
    assert {"loss/train", "loss/held_out", "epochs/written", "source_value/written", "loss/slice/people"} <= set(last)
    assert "loss/held_out" not in logged[1]


def test_a_round_of_synthesis_is_a_row_with_tables_of_reasons_graders_and_rows(tmp_path: Path) -> None:
    shown = {"id": "1-a", "text": "moss", "made_from": "w:1", "nearest": "w:2", "nearest_text": "fern", "overlap": 0.5}
    record = {
        "requests": 4, "accepted": 3, "dropped": {"length: fewer than 5 words": 1}, "shown": [shown],
        "graders": [{"name": "judge", "has_vote": True, "agreement": {"value": 0.8, "low": 0.7, "high": 0.9}}],
    }  # fmt: skip
    tracker = tracker_of(tmp_path)
    line = RoundLine(step=1, generation=1, state="ended", source="made", reason="3 of 4", record=record)
    for each in (step_line(1, shares={"a": 1_000_000}), line, step_line(2, shares={"a": 1_000_000})):
        tracker.note(each)
    tracker.close(timeout_s=PATIENCE_S)
    wait_for_the_end(tmp_path, 2)
    [row] = [row for row in rows(tmp_path) if row["step"] == 1]
    assert (row["event"], row["synthesis/accepted"]) == ("generation 1 ended: 3 of 4", 3)
    columns = {name: row[f"synthesis/{name}/ncols"] for name in ("dropped", "graders", "shown")}
    assert columns == {"dropped": 3, "graders": 8, "shown": 7}


def test_a_resume_after_kill_9_continues_the_same_run_and_logs_no_step_twice(tell: Callable[..., Path]) -> None:
    folder = tell(steps=100)
    alone = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # else it would share ours
    killed = subprocess.run(
        [sys.executable, "-c", TELL_AND_DIE, str(folder)], check=False, timeout=PATIENCE_S, env=alone
    )
    assert killed.returncode == -signal.SIGKILL
    before = [row["step"] for row in rows(folder)]
    assert before == list(range(1, len(before) + 1))
    time.sleep(1.1)  # wandb names folders by the second
    track_whole(folder)
    wait_for_the_end(folder, 100)
    steps = [row["step"] for row in rows(folder)]
    assert len(steps) == len(set(steps))
    assert steps[len(before) :] == list(range(60, 101))  # all that was not handed to W&B before the kill
    assert rows(folder)[-1]["tokens"] == 100 * 32 * 128
    assert all(run_id(folder) in path.name for path in (folder / "wandb").glob("offline-run-*"))


def test_the_id_of_a_run_is_found_again_without_a_checkpoint(tmp_path: Path) -> None:
    ids = []
    for step in (1, 2):
        tracker = tracker_of(tmp_path)
        tracker.note(step_line(step, shares={"a": 1_000_000}))
        tracker.close(timeout_s=PATIENCE_S)
        ids.append(run_id(tmp_path))
    assert ids[0] == ids[1]
    assert len(ids[0]) == 8


@pytest.mark.parametrize("how", ["copied", "moved", "linked", "copied and the first removed"])
def test_a_copied_run_folder_gets_a_run_of_its_own_and_says_so(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    logged(first, 1)
    before = run_id(first)
    if how.startswith("copied"):
        shutil.copytree(first, second)
    if how == "moved":
        first.rename(second)
    if how == "linked":
        second.symlink_to(first)
    if how.endswith("removed"):
        shutil.rmtree(first)
    logged(second, 2)
    is_copy = how == "copied"
    assert (run_id(second) != before) == is_copy
    assert ("run of its own" in caplog.text) == is_copy
    if is_copy:
        logged(first, 2)
        logged(second, 3)
        assert run_id(first) == before
        assert run_id(second) != before


def logged(folder: Path, step: int) -> None:
    tracker = tracker_of(folder)
    tracker.note(step_line(step, shares={"a": 1_000_000}))
    tracker.close(timeout_s=PATIENCE_S)


def test_without_wandb_there_is_one_warning_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    tracker = tracker_of(tmp_path, warn=warnings.append)
    tracker.note(step_line(1, shares={"a": 1_000_000}))
    tracker.close()
    assert len(warnings) == 1
    assert "pip install 'hybrid-trainer[wandb]', or --set tracking.trackers=[]" in warnings[0]


@pytest.mark.parametrize("bad", [step_line(1, shares={}, loss="many"), step_line(1, shares={}, tokens="many")])
def test_a_failure_is_one_warning_and_training_continues(tmp_path: Path, bad: StepLine) -> None:
    warnings: list[str] = []
    tracker = tracker_of(tmp_path, warn=warnings.append)
    for _ in range(100):
        tracker.note(bad)
    tracker.close()
    assert len(warnings) == 1
    assert "switched off" in warnings[0]


UNANSWERED = """
import atexit, sys
from pathlib import Path
import trainer.tracking.wandb
from tests.tracking.test_wandb import tracker_of
from trainer.tracking.config import WandbConfig
from trainer.tracking.schema import RollbackLine
trainer.tracking.wandb.INIT_S = 600.0  # longer than all that follows takes on any machine
trackers = []
atexit.register(lambda: print("at exit", trackers[0]._thread.is_alive()))  # registered first: runs last
trackers.append(tracker_of(Path(sys.argv[1]), WandbConfig(mode="online", project="p")))
for step in range(1000):
    trackers[0].note(RollbackLine(step=step, to_step=0, reason="r"))
print("noted", trackers[0]._lines.qsize())
trackers[0].close(timeout_s=2.0)
print("closed", trackers[0]._thread.is_alive())
"""


def test_a_server_that_does_not_answer_costs_training_nothing(tmp_path: Path) -> None:
    """Neither the lines, nor the end, nor the exit of the process wait for it: it is still being waited for then."""
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    process = subprocess.run(
        [sys.executable, "-c", UNANSWERED, str(tmp_path)], check=True, env=environment, timeout=PATIENCE_S,
        capture_output=True, text=True,
    )  # fmt: skip
    assert process.stdout.splitlines() == ["noted 1000", "closed True", "at exit True"]
    assert process.stderr.count("switched off") == 1
    assert "it did not close within 2 s" in process.stderr


WARNED = """
import os, signal, sys, time
from pathlib import Path
from tests.tracking.test_wandb import OFFLINE, processes_under
from trainer.tracking.schema import read_journal
from trainer.tracking.tracker import BackgroundTracker, RunInfo
from trainer.tracking.wandb import WandbTracker
folder = Path(sys.argv[1])
wandb = WandbTracker(OFFLINE)
tracker = BackgroundTracker("wandb", lambda: wandb, RunInfo(name="story", folder=folder))
lines = list(read_journal(folder / "journal.jsonl"))
for line in lines[: len(lines) // 2]:
    tracker.note(line)
while not (cores := processes_under(os.getpid(), "wandb-core")) or wandb._logged_step < 1:
    time.sleep(0.05)
for process in cores:
    os.kill(process, signal.SIGUSR1)
time.sleep(1.0)
for line in lines[len(lines) // 2 :]:
    tracker.note(line)
tracker.close()
"""


def test_the_warning_that_slurm_sends_to_every_process_does_not_end_the_tracker(tell: Callable[..., Path]) -> None:
    """W&B's own process gets it too. (SIGTERM does end it, whatever is done: then the journal has the rest.)"""
    folder = tell(steps=120)
    alone = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # else it would share ours
    process = subprocess.run(
        [sys.executable, "-c", WARNED, str(folder)],
        check=False,
        timeout=PATIENCE_S,
        env=alone,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "switched off" not in process.stderr
    wait_for_the_end(folder, 120)


def wait_for_the_end(folder: Path, step: int) -> None:
    """W&B's own process may write the end of a file a little later."""
    deadline = time.monotonic() + PATIENCE_S
    while [row["step"] for row in rows(folder)][-1:] != [step]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_under(parent: int, name: str) -> list[int]:
    """Children of a process whose command line has the name."""
    children = Path(f"/proc/{parent}/task").glob("*/children")
    processes = [int(child) for file in children for child in file.read_text().split()]
    return [child for child in processes if name in Path(f"/proc/{child}/cmdline").read_text()]
