"""What the processes of one test session share when pytest-xdist runs it: folders that are made once, and ports."""

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
PORTS = range(20_000, 30_000)  # below those that the kernel hands out by itself (32,768 and more)
PORTS_OF_A_WORKER = 500


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this session, the same for all its workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    folder.mkdir(exist_ok=True)
    return folder


def once(folder: Path, name: str, make: Callable[[], object]) -> None:
    """Call ``make`` unless another worker has done it, or does it now: then wait for it. What raises is done again."""
    with FileLock(folder / f"{name}.lock"):
        is_made = folder / f"{name}.made"
        if not is_made.exists():
            make()
            is_made.touch()


def free_port() -> int:
    """A port that nobody listens on, of those that only this worker takes."""
    first = PORTS.start + int(WORKER.removeprefix("gw")) * PORTS_OF_A_WORKER % len(PORTS)
    for port in random.Random(os.urandom(8)).sample(range(first, first + PORTS_OF_A_WORKER), PORTS_OF_A_WORKER):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {first} to {first + PORTS_OF_A_WORKER}")
