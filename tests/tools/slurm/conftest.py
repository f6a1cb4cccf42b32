"""One cluster for the whole session, and the tiny recipe in its own place."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.together.launches import Place, write_recipe
from tests.tools.slurm.cluster import Cluster, NoClusterError, cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real SLURM of two nodes; where it cannot be, the tests say so and are skipped. A cluster that is there and does
    not come up is a failure.
    """
    with ExitStack() as stack:
        try:
            live = stack.enter_context(cluster())
        except NoClusterError as error:
            pytest.skip(f"NOT TESTED, NO SLURM: {error}")
        yield live


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny recipe with its data."""
    folder = tmp_path_factory.mktemp("slurm")
    return Place(folder, write_recipe(folder))
