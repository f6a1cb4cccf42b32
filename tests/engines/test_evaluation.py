"""A model that is only evaluated: the same numbers as in training, and nothing of an optimizer."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engines.gloo import on_ranks
from tests.engines.steps import bench, tiny_model, training
from tests.engines.tour import PROBE
from trainer.base.errors import UserError
from trainer.engines import open_evaluation_engine


def left(folder: Path, precision: str) -> Any:
    """A checkpoint after two steps; what the model in the engine makes of two rows."""
    with bench(micro_batch=2, global_batch=7, precision=precision) as on:
        on.step()
        on.step()
        on.engine.capture(detached=False)(folder)
        return on.engine.eval_logits(PROBE).float().numpy()


def optimizers() -> int:
    """How many there are in this process."""
    gc.collect()
    return sum(isinstance(value, torch.optim.Optimizer) for value in gc.get_objects())


def evaluated(folder: Path, precision: str) -> tuple[Any, int, list[float]]:
    before = optimizers()
    engine = open_evaluation_engine(tiny_model(), training(precision=precision))
    engine.restore(folder)
    logits = engine.eval_logits(PROBE)
    assert not logits.requires_grad
    result = logits.float().numpy(), optimizers() - before, engine.reduce(np.array([engine.rank + 1.0])).tolist()
    engine.close()
    return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_is_evaluated_to_the_same_logits_without_an_optimizer(
    tmp_path: Path, precision: str, ranks: int
) -> None:
    folder = tmp_path / "saved"
    (expected,) = on_ranks(left, 1, tmp_path, folder, precision)
    for logits, num_optimizers, total in on_ranks(evaluated, ranks, tmp_path, folder, precision):
        assert np.array_equal(logits, expected)
        assert num_optimizers == 0
        assert total == [sum(range(1, ranks + 1))]


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_a_launch_that_shards_is_refused_for_an_evaluation(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match="holds the whole model on each device"):
        open_evaluation_engine(tiny_model(), training())


def test_a_strategy_for_lightning_does_not_stop_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_STRATEGY", "ddp")
    assert open_evaluation_engine(tiny_model(), training()).world_size == 1
