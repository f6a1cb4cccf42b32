"""One of each fault in a real launch; `python -m tests.together.faults` does all of them many times."""

import os
import time
from pathlib import Path

import pytest

from tests.together.fault_bench import STEPS, Bench, launch, open_bench
from tests.together.faults import FAULTS, NEED_ROOT
from tests.together.launches import lines, outcome, wait_until

IN_THE_DEFAULT_SUITE = (
    "rank-raises",
    "rank-killed",
    "rank-stopped",
    "rank-hangs",
    "ledgers-differ",
    "disk-full",
    "launcher-killed",
)

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return open_bench(tmp_path_factory.mktemp("faults"))


def _cases() -> list[object]:
    return [pytest.param(name, marks=() if name in IN_THE_DEFAULT_SUITE else pytest.mark.slow) for name in FAULTS]


@pytest.mark.parametrize("name", _cases())
def test_the_promise_for_the_fault_is_kept(bench: Bench, name: str) -> None:
    if name in NEED_ROOT and os.geteuid() != 0:
        pytest.skip(f"NOT TESTED: {name} mounts a file system or names a host, which takes root")
    FAULTS[name][1](bench)


def test_a_launch_leaves_no_reserve_and_no_owner_behind(bench: Bench) -> None:
    assert not (bench.twin / ".reserve").exists()
    assert not (bench.twin / ".alive").exists()
    assert Path(bench.twin / ".lock").read_text() == ""


def test_all_ranks_stay_until_the_main_rank_has_closed_what_it_writes(bench: Bench) -> None:
    """Else a launcher that saw the others go, as srun does, would end it before it has told how the run ended."""
    live = launch(bench, "ends-late", "ends-late", rank=0)
    live.wait_for_step(STEPS)
    assert wait_until(live.live, lambda: bool(lines(live.run, "finish")))
    time.sleep(3.0)
    assert len(live.ranks()) == 2
    assert live.live.wait().code == 0, live.output()
    assert outcome(live.run)["state"] == "finished"
