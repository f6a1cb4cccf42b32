"""Runs that several tests look at, each made once per session, whichever of its workers needs it first."""

from pathlib import Path

import pytest

from tests.sharing import once, shared_folder
from tests.together.launches import Place, write_recipe


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny recipe with its data; preparation happens once, in the first run."""
    folder = shared_folder(tmp_path_factory, "together")
    recipe = folder / "together.yaml"
    once(folder, "recipe", lambda: write_recipe(folder))
    return Place(folder, recipe)


@pytest.fixture(scope="session")
def alone(place: Place) -> Path:
    """50 uninterrupted steps in one process: the twin that others are compared with."""
    run = place.folder / "alone"
    once(place.folder, "alone", lambda: fitted(place, run))
    return run


@pytest.fixture(scope="session")
def pair(place: Place, alone: Path) -> Path:
    """The same 50 steps on two processes."""
    return shared_launch(place, 2)


@pytest.fixture(scope="session")
def trio(place: Place, alone: Path) -> Path:
    """The same 50 steps on three processes."""
    return shared_launch(place, 3)


def fitted(place: Place, run: Path) -> None:
    ended = place.fit(run).wait()
    assert ended.code == 0, ended.output


def shared_launch(place: Place, processes: int) -> Path:
    once(place.folder, f"on-{processes}", lambda: launched(place, processes))
    return place.folder / f"on-{processes}"


def launched(place: Place, processes: int, *sets: str) -> Path:
    run = place.folder / "-".join(["on", str(processes), *(str(abs(hash(override))) for override in sets)])
    ended = place.launch(run, *sets, processes=processes).wait()
    assert ended.code == 0, ended.output
    return run
