"""Signs of life on the disk, and the processes behind them."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from trainer.base.heartbeat import Heartbeat
from trainer.runs.watchdog.signs import SIGN_BYTES, OwnProcess, Sign, process_facts, read_signs, stacks_of, write_sign


def own_sign(rank: int = 1) -> Sign:
    return OwnProcess.of(rank).sign(Heartbeat(step=4, phase="training", beats=2), count=7)


def test_a_sign_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_sign(tmp_path, own_sign())
    assert read_signs(tmp_path, world_size=3, own_rank=0) == {1: read_signs(tmp_path, world_size=2, own_rank=0)[1]}
    assert replace(read_signs(tmp_path, world_size=2, own_rank=0)[1], stack=()) == replace(own_sign(), stack=())


def test_the_own_sign_and_one_that_is_half_written_are_left_out(tmp_path: Path) -> None:
    write_sign(tmp_path, own_sign(0))
    (tmp_path / "rank-00001").write_text('{"rank": 1, "ho')
    assert read_signs(tmp_path, world_size=2, own_rank=0) == {}


def test_a_deep_stack_loses_its_outer_frames_and_not_the_size_of_the_file(tmp_path: Path) -> None:
    deep = replace(own_sign(), stack=tuple(f"{'x' * 500}:{number}" for number in range(16)))
    write_sign(tmp_path, deep)
    assert (tmp_path / "rank-00001").stat().st_size == SIGN_BYTES
    kept = read_signs(tmp_path, world_size=2, own_rank=0)[1].stack
    assert 0 < len(kept) < 16
    assert kept == deep.stack[-len(kept) :]


def test_a_later_process_of_the_same_number_is_not_taken_for_the_rank() -> None:
    own = OwnProcess.of(0)
    assert own.state_of(replace(own_sign(), pid=os.getpid())) == "running"
    assert own.state_of(replace(own_sign(), born="1")) == "gone"


def test_a_stopped_process_and_one_that_ended_are_distinguished() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    facts = process_facts(process.pid)
    assert facts is not None
    own = OwnProcess.of(0)
    sign = replace(own_sign(), pid=process.pid, born=facts[1])
    assert own.state_of(sign) == "running"
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert own.state_of(sign) == "stopped"
    process.kill()
    process.wait()
    assert own.state_of(sign) == "gone"


def test_a_process_on_another_host_or_in_another_container_is_hidden() -> None:
    own = OwnProcess.of(0)
    assert own.state_of(replace(own_sign(), host="elsewhere")) == "hidden"
    assert own.state_of(replace(own_sign(), space="another container")) == "hidden"


def test_the_stacks_of_a_rank_that_cannot_write_them_are_those_of_its_last_sign(tmp_path: Path) -> None:
    sign = replace(own_sign(), stack=("trainer/data/loader.py:7 next",))
    assert "trainer/data/loader.py:7 next" in stacks_of(tmp_path, sign)
    (tmp_path / "rank-00001.stacks").write_text("all threads")
    assert stacks_of(tmp_path, sign) == "all threads"


def test_a_stack_names_files_of_the_package_from_its_name_on() -> None:
    """The report looks for the innermost of them."""
    assert own_sign().stack[-1].startswith("trainer/runs/watchdog/signs.py:")
