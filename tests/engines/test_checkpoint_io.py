"""How named tensors come to the disk, and how long the ranks wait for one another in between."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tests.engines.gloo import on_ranks
from tests.engines.steps import bench
from trainer.engines import checkpoint_io
from trainer.engines.launch import COLLECTIVE_PATIENCE

FILE_BYTES = 4000


def test_no_rank_waits_longer_for_another_in_saving_than_in_training(tmp_path: Path) -> None:
    timeout = timedelta(seconds=7 * COLLECTIVE_PATIENCE)
    assert on_ranks(timeouts, 2, tmp_path) == [(timeout, timeout)] * 2


def timeouts() -> tuple[timedelta, timedelta]:
    """Of the ranks' own group, and of that for saving."""
    with bench(timeout_s=7) as on:
        device = torch.device("cpu")
        groups: list[Any] = [torch.distributed.group.WORLD, on.engine.writers.group]
        on.engine.writers.gather(None)  # a rank that ends takes the rendezvous with it
        training, saving = (group._get_backend(device).options._timeout for group in groups)
        return training, saving


def test_no_rank_writes_more_into_a_file_than_is_to_be_in_host_memory_at_a_time(tmp_path: Path) -> None:
    """torch makes a whole file in memory, twice, before it writes it."""
    folder = tmp_path / "checkpoint"
    assert on_ranks(written_and_read, 2, tmp_path, folder) == [True, True]
    names: dict[Path, set[str]] = {}
    for path in folder.iterdir():
        with safe_open(path, "pt") as file:
            names[path] = set(file.keys())
        assert len(names[path]) == 1 or path.stat().st_size < FILE_BYTES + 2000, "besides the header"
    assert {"alike.7", "large", "of.0.7", "of.1.7"} <= set().union(*names.values())
    assert len(names) > 8
    assert {"large"} in names.values(), "one that does not fit is alone"


def written_and_read(folder: Path) -> bool:
    """Whether what two ranks wrote, alike and each by itself, comes back."""
    with bench() as on:
        rank = on.engine.rank
        given = {f"alike.{n}": torch.full((300,), float(n)) for n in range(8)}
        given |= {f"of.{rank}.{n}": torch.full((300,), rank + n / 8) for n in range(8)}
        given["large"] = torch.arange(3000.0)
        checkpoint_io.FILE_BYTES = FILE_BYTES
        folder.mkdir(exist_ok=True)
        checkpoint_io.write(folder, given, on.engine.writers)
        loaded = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
        on.engine.writers.gather(None)
        checkpoint_io.read(folder, loaded)
        return all(torch.equal(loaded[name], tensor) for name, tensor in given.items())
