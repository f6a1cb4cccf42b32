"""What the workers of a test session share is made once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharing import PORTS, PORTS_OF_A_WORKER, free_port, once

MAKER = """
import sys, time
from pathlib import Path
from tests.sharing import once
folder = Path(sys.argv[1])
def make():
    with (folder / "calls").open("a") as file:
        file.write("made\\n")
    time.sleep(0.2)
    (folder / "result").write_text("whole")
once(folder, "thing", make)
print((folder / "result").read_text())
"""


def test_what_several_workers_need_is_made_once_and_the_others_wait_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [worker.communicate()[0] for worker in workers] == ["whole\n"] * 3
    assert (tmp_path / "calls").read_text() == "made\n"


def test_what_failed_is_made_again(tmp_path: Path) -> None:
    calls = []

    def make() -> None:
        calls.append(len(calls))
        assert len(calls) > 1

    with pytest.raises(AssertionError):
        once(tmp_path, "thing", make)
    once(tmp_path, "thing", make)
    once(tmp_path, "thing", make)
    assert calls == [0, 1]


def test_the_ports_of_two_workers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = {}
    for worker in ("gw0", "gw1", "gw19"):
        monkeypatch.setattr("tests.sharing.WORKER", worker)
        ports[worker] = {free_port() for _ in range(20)}
    assert not ports["gw0"] & ports["gw1"]
    assert all(PORTS.start <= port < PORTS.stop for port in set.union(*ports.values()))
    assert len({port // PORTS_OF_A_WORKER for port in ports["gw19"]}) == 1
