"""What bf16 costs a gradient: one rounding per micro-batch and rank, and none of their sum.

A linear layer whose gradient is known is put into the model: 256 in the first micro-batch, then 1 in each of 63. In
bf16 256 + 1 is 256, so a sum that is kept in bf16 is 256, and one that is rounded in the end 320. Another rank adds 1
to each, and the half that their average has is lost alike.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engines.gloo import on_ranks
from tests.engines.steps import bench
from trainer.engines.checkpoint_io import read

BETA1 = 0.9
MANY, ONES = (256.0, *[1.0] * 63), (1.0,) * 64
SLOW = pytest.mark.slow
SHARDINGS = ["fsdp2", "zero1", "zero2", "zero3", *(pytest.param(name, marks=SLOW) for name in ("ddp", "zero1_offload"))]


class Unmoved(torch.autograd.Function):
    """Zeros forward; backward a gradient of one, whatever came."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return torch.zeros_like(given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ones_like(gradients[0])


class Known(nn.Module):
    """A layer after which the model is as before, with a weight whose gradient is the next of the values."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before, self.linear = before, nn.Linear(1, 1, bias=False)
        self.values: list[float] = []

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        value = self.values.pop(0)
        return self.before(hidden_BTC) + Unmoved.apply(self.linear(hidden_BTC.new_full((1, 1), value)))


def install(model: Any) -> None:
    model.model.norm = Known(model.model.norm)


def summed(folder: Path, values_by_rank: Sequence[Sequence[float]]) -> float:
    """The gradient of the known weight, averaged over ranks: the values of each rank are those of its micro-batches.

    Taken from a checkpoint: the first moment after one step, which is not clipped.
    """
    world_size, num_micro_batches = len(values_by_rank), len(values_by_rank[0])
    size = world_size * num_micro_batches
    with bench(micro_batch=1, global_batch=size, prepare=install, precision="bf16", max_grad_norm=1e6) as on:
        on.model.model.norm.values = list(values_by_rank[on.engine.rank])
        on.step()
        on.engine.capture(detached=False)(folder)
    moment = torch.empty(1, 1)
    read(folder, {"exp_avg.model.norm.linear.weight": moment})
    return float(moment) / (1 - BETA1)


def test_gradients_of_many_micro_batches_add_up_in_fp32_under_autocast(tmp_path: Path) -> None:
    (total,) = on_ranks(summed, 1, tmp_path, tmp_path / "saved", [MANY])
    assert total == pytest.approx(sum(MANY), rel=1e-6)


@pytest.mark.parametrize("engine", SHARDINGS)
def test_gradients_of_many_micro_batches_on_several_ranks_add_up_in_fp32(tmp_path: Path, engine: str) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed", reason="NOT TESTED: deepspeed is not installed")
    for total in on_ranks(summed, 2, tmp_path, tmp_path / "saved", [MANY, ONES], engine=engine):
        assert total == pytest.approx(sum(MANY + ONES) / 2, rel=1e-6)
