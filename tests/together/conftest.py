"""Runs that several tests look at, each made once per session."""

from pathlib import Path

import pytest

from tests.together.launches import Place, write_recipe


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny recipe with its data; preparation happens once, in the first run."""
    folder = tmp_path_factory.mktemp("together")
    return Place(folder, write_recipe(folder))


@pytest.fixture(scope="session")
def alone(place: Place) -> Path:
    """50 uninterrupted steps in one process: the twin that others are compared with."""
    run = place.folder / "alone"
    ended = place.fit(run).wait()
    assert ended.code == 0, ended.output
    return run


@pytest.fixture(scope="session")
def pair(place: Place, alone: Path) -> Path:
    """The same 50 steps on two processes."""
    return launched(place, 2)


@pytest.fixture(scope="session")
def trio(place: Place, alone: Path) -> Path:
    """The same 50 steps on three processes."""
    return launched(place, 3)


def launched(place: Place, processes: int, *sets: str) -> Path:
    run = place.folder / "-".join(["on", str(processes), *(str(abs(hash(one))) for one in sets)])
    ended = place.launch(run, *sets, processes=processes).wait()
    assert ended.code == 0, ended.output
    return run
