"""One of each fault in a real launch; `python -m tests.together.faults` does all of them many times."""

import os
from pathlib import Path

import pytest

from tests.together.faults import FAULTS, NEED_ROOT, Bench, open_bench

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
    assert Path(bench.twin / ".lock").read_text() == ""
