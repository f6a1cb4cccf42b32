"""On a GPU a step is launched without waiting for it, and a bad one is skipped by the device itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.together.smoke_engine import SEED, TRAINING, new_model, open_stream, starting_ledger
from trainer.data.loader import StepBatch
from trainer.engines import open_engine
from trainer.engines.engine import TrainingEngine
from trainer.mixture.plan import Plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: no CUDA device here"),
]


@pytest.fixture
def model() -> Any:
    return new_model()


@pytest.fixture
def engine(model: Any) -> TrainingEngine:
    return open_engine(model, TRAINING, seed=SEED)


@pytest.fixture
def batches() -> Iterator[list[StepBatch]]:
    stream = open_stream(Plan(SEED, starting_ledger()), first_step=1, rank=0, world_size=1, micro_batch=2)
    yield [stream.next() for _ in range(4)]
    stream.close()


def weights(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_step_is_launched_without_waiting_for_the_device(engine: TrainingEngine, batches: list[StepBatch]) -> None:
    first, second, *_ = batches
    assert engine.train_step(first, learning_rate=1e-3, stop=False, ledger_digest=1).result().updated
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = engine.train_step(second, learning_rate=1e-3, stop=False, ledger_digest=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert pending.result().updated


def test_a_gradient_that_is_not_finite_is_skipped_and_the_next_step_trains(
    engine: TrainingEngine, model: Any, batches: list[StepBatch]
) -> None:
    first, second, third, _ = batches
    assert engine.train_step(first, learning_rate=1e-3, stop=False, ledger_digest=1).result().updated
    before = weights(model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    assert not engine.train_step(second, learning_rate=1e-3, stop=False, ledger_digest=1).result().updated
    assert all(torch.equal(old, new) for old, new in zip(before[1:], weights(model)[1:], strict=True))
    with torch.no_grad():
        next(model.parameters()).copy_(before[0])
    assert engine.train_step(third, learning_rate=1e-3, stop=False, ledger_digest=1).result().updated
    assert not any(torch.equal(old, new) for old, new in zip(before, weights(model), strict=True))
