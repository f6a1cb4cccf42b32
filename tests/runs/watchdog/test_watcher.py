"""What the watchdog does: a real process that stalls, with the heartbeats of ranks on other hosts."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.base.failures import in_words, is_echo

STANDS_STILL = """
import sys, time
from pathlib import Path
import trainer.runs.watchdog.attribution as attribution
from trainer.runs.watchdog.watcher import Watchdog
from trainer.base.heartbeat import beat

attribution.LOST_S = float(sys.argv[2])
with Watchdog(Path(sys.argv[1])) as dog:
    dog.watch(2, float(sys.argv[3]), lambda value: value)
    for step in (1, 2, 3):
        beat("training", step)
    beat("evaluating")
    print("up", flush=True)
    time.sleep(60)
"""


def stand_still(run: Path, *, lost_s: float = 60.0, timeout_s: float = 6.0) -> "subprocess.Popen[str]":
    """Rank 0 of two; the signs of rank 1 are the test's to give."""
    words = [sys.executable, "-c", STANDS_STILL, str(run), str(lost_s), str(timeout_s)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def give_sign(run: Path, count: int, **changed: Any) -> None:
    """What rank 1 on another host writes."""
    (folder,) = (run / ".alive").iterdir()
    own = json.loads((folder / "rank-00000").read_text())
    stack = ["trainer/data/loader.py:7 next"]
    sign = {**own, "rank": 1, "host": "elsewhere", "pid": 1, "count": count, "stack": stack, **changed}
    (folder / "rank-00001").write_text(json.dumps(sign).ljust(4096))


def ended(process: "subprocess.Popen[str]", run: Path) -> tuple[float, dict[str, Any]]:
    started_s = time.monotonic()
    assert process.wait(30) == 1
    outcome: dict[str, Any] = json.loads((run / "outcome.json").read_text())
    return time.monotonic() - started_s, outcome


def test_a_rank_whose_host_is_gone_is_named_by_its_silence(tmp_path: Path) -> None:
    process = stand_still(tmp_path, lost_s=3, timeout_s=60)
    give_sign(tmp_path, 1, phase="training")
    seconds, outcome = ended(process, tmp_path)
    assert (outcome["rank"], outcome["host"]) == (1, "elsewhere")
    assert "no heartbeat" in outcome["reason"]
    assert "trainer/data/loader.py:7 next" in outcome["traceback"]
    assert seconds < 9


@pytest.mark.parametrize(
    "changed",
    [{"host": socket.gethostname(), "space": "another container", "born": "1"}, {"phase": "saving"}],
    ids=["container", "saving"],
)
def test_a_rank_that_may_live_is_not_called_dead(tmp_path: Path, changed: dict[str, str]) -> None:
    """In another container of this host, which /proc does not show; or saving, where signs wait for the disk too."""
    lost_s = 60.0 if "host" in changed else 2.0
    process = stand_still(tmp_path, lost_s=lost_s, timeout_s=60)
    try:
        give_sign(tmp_path, 1, **changed)
        time.sleep(8)
        assert process.poll() is None
        assert not (tmp_path / "outcome.json").exists()
    finally:
        process.kill()


@pytest.mark.parametrize(("place", "attributed"), [({"step": 2}, 1), ({"step": 4}, 0)])
def test_among_ranks_that_live_the_stall_is_attributed_to_the_one_behind(
    tmp_path: Path, place: dict[str, int], attributed: int
) -> None:
    process = stand_still(tmp_path)
    over = threading.Event()

    def live() -> None:
        count = 0
        while not over.wait(0.3):
            count += 1
            give_sign(tmp_path, count, **place)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        _, outcome = ended(process, tmp_path)
    finally:
        over.set()
        thread.join()
    assert outcome["rank"] == attributed
    assert "made no progress for 6 s" in outcome["reason"]


def report_failure(run: Path, launch: str) -> None:
    (run / "outcome.json").write_text(json.dumps({"state": "failed", "reason": "reported before", "launch": launch}))


def test_a_rank_leaves_when_another_has_reported(tmp_path: Path) -> None:
    process = stand_still(tmp_path)
    give_sign(tmp_path, 1)
    report_failure(tmp_path, f"{socket.gethostname()}-{process.pid}")
    seconds, outcome = ended(process, tmp_path)
    assert outcome["reason"] == "reported before"
    assert seconds < 5


def test_a_rank_does_not_leave_when_another_launch_has_failed(tmp_path: Path) -> None:
    process = stand_still(tmp_path, timeout_s=60)
    try:
        give_sign(tmp_path, 1)
        report_failure(tmp_path, "elsewhere-29500")
        time.sleep(5)
        assert process.poll() is None
    finally:
        process.kill()


def test_signs_keep_their_size_so_that_a_full_disk_does_not_silence_a_rank(tmp_path: Path) -> None:
    process = stand_still(tmp_path)
    try:
        sizes = set()
        for _ in range(10):
            sizes |= {path.stat().st_size for path in (tmp_path / ".alive").glob("*/rank-*")}
            time.sleep(0.3)
        assert sizes == {4096}
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("error", "echo"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer"), True),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), True),
        (ConnectionResetError("connection reset"), True),
        (RuntimeError("CUDA out of memory"), False),
        (ValueError("a socket wrench has no value"), False),
    ],
)
def test_a_broken_collective_is_an_echo_and_an_error_of_this_rank_is_not(error: Exception, echo: bool) -> None:
    assert is_echo(error) is echo


def test_an_error_is_said_in_one_line_with_its_type_where_the_message_says_nothing() -> None:
    assert in_words(KeyError("loss")) == "KeyError: 'loss'"
    assert in_words(RuntimeError("out\nof memory")) == "out of memory"
