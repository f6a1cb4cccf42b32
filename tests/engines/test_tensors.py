"""How named tensors come to the disk, and how long the ranks wait for one another in between."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from tests.engines.gloo import on_ranks
from tests.engines.steps import bench
from trainer.engines.accelerate import COLLECTIVE_PATIENCE


def test_no_rank_waits_longer_for_another_in_saving_than_in_training(tmp_path: Path) -> None:
    asked = timedelta(seconds=7 * COLLECTIVE_PATIENCE)
    assert on_ranks(timeouts, 2, tmp_path) == [(asked, asked)] * 2


def timeouts() -> tuple[timedelta, timedelta]:
    """Of the ranks' own group, and of that for saving."""
    with bench(timeout_s=7) as on:
        device = torch.device("cpu")
        groups: list[Any] = [torch.distributed.group.WORLD, on.engine.writers.group]
        on.engine.writers.gather(None)  # a rank that ends takes the rendezvous with it
        training, saving = (group._get_backend(device).options._timeout for group in groups)
        return training, saving
