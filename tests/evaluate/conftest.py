"""Held-out documents, samples and ranks in memory, with real models: the fixture ``worlds``."""

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from trainer.model.loss import token_losses

END = 0
CPU = torch.device("cpu")


@dataclass
class Documents:
    """A held-out part."""

    texts: list[list[int]]
    slice_of: Any = None
    slices: tuple[str, ...] = ("all",)
    tokens: Any = field(init=False)
    offsets: Any = field(init=False)
    num_bytes: Any = field(init=False)
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = np.array([token for text in self.texts for token in text] + [END], dtype=np.uint16)
        self.offsets = np.cumsum([0, *map(len, self.texts)]).astype(np.int64)
        self.num_bytes = np.array([4 * len(text) for text in self.texts], dtype=np.int64)
        self.slice_of = (
            np.zeros(len(self.texts), dtype=np.int64) if self.slice_of is None else np.asarray(self.slice_of)
        )
        self.ids = [f"document {index}" for index in range(len(self.texts))]


@dataclass
class Block:
    """A segment of full samples."""

    rows: Any

    @property
    def num_samples(self) -> int:
        return len(self.rows)

    def gather(self, samples: Any) -> Any:
        return self.rows[samples]

    def valid_tokens(self, samples: Any) -> Any:
        return np.full(len(samples), self.rows.shape[1])


@dataclass(frozen=True)
class Ranked:
    """One rank of several, with a given function of ids as its model; sums nothing."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    def eval_logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        return self.logits(input_ids_BT)

    def reduce(self, array: Any) -> Any:
        return array


class Meeting:
    """Where the threads that play ranks add up their arrays."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._slots: list[Any] = [None] * world_size
        self._barrier = threading.Barrier(world_size, timeout=60)

    def add(self, rank: int, array: Any) -> Any:
        self._slots[rank] = array
        self._barrier.wait()
        total = sum(self._slots[1:], start=np.array(self._slots[0]))
        self._barrier.wait()
        return total


class Replica:
    """A rank under data parallelism: its own copy of the model and of Adam's state, gradients summed in ``reduce``."""

    device = CPU

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, rank: int = 0, meeting: Meeting | None = None
    ) -> None:
        self.model, self.optimizer, self.rank, self.meeting = model, optimizer, rank, meeting or Meeting(1)
        self.world_size = self.meeting.world_size

    def eval_logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        self.model.eval()
        with torch.no_grad():
            logits: torch.Tensor = self.model(input_ids_BT).logits
        self.model.train()
        return logits

    def reduce(self, array: Any) -> Any:
        return self.meeting.add(self.rank, array)

    @contextmanager
    def trial(self, *, rate_scale: float) -> Iterator[Callable[[], None]]:
        kept = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

        def back() -> None:
            self.model.load_state_dict(kept[0])
            self.optimizer.load_state_dict(copy.deepcopy(kept[1]))
            for group in self.optimizer.param_groups:
                group["lr"] *= rate_scale

        yield back
        self.model.load_state_dict(kept[0])
        self.optimizer.load_state_dict(kept[1])

    def trial_step(
        self, input_ids_BT: torch.Tensor, num_valid_B: torch.Tensor, *, target_tokens: int, seed: int
    ) -> None:
        torch.manual_seed(seed)
        summed = token_losses(self.model(input_ids_BT).logits, input_ids_BT, num_valid_B).sum()
        (summed / target_tokens).backward()
        for parameter in self.model.parameters():
            parameter.grad.copy_(torch.from_numpy(self.reduce(parameter.grad.double().numpy())))
        self.optimizer.step()
        self.optimizer.zero_grad()


def in_ranks(world_size: int, work: Callable[[int, Meeting], Any]) -> list[Any]:
    """What ``work`` gives on each rank, run as threads that meet in every reduce."""
    meeting, results = Meeting(world_size), [None] * world_size

    def run(rank: int) -> None:
        results[rank] = work(rank, meeting)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(scope="session")
def worlds() -> Any:
    """This module."""
    return sys.modules[__name__]
