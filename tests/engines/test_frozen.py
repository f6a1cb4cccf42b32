"""A model part of which is frozen, as under an adapter: trained, measured, saved and restored under every sharding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engines.gloo import on_ranks
from tests.engines.steps import LENGTH, bench
from tests.engines.tour import PROBE, aligned, held, restored
from trainer.engines.checkpoint_io import read

FROZEN = "model.layers.0.mlp.down_proj.weight"
SHARDINGS = [("ddp", 1), ("ddp", 2), ("fsdp2", 2), ("zero2", 2), ("zero3", 2)]
SLOW = pytest.mark.slow


def freeze(model: Any) -> None:
    model.get_parameter(FROZEN).requires_grad_(False)


def freeze_vectors(model: Any) -> None:
    """All weights that do not decay: one of the optimizer's two groups."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.dim() >= 2)


def driven(folder: Path, prepare: Callable[[Any], None] = freeze, precision: str = "fp32") -> dict[str, Any]:
    """What a rank sees of two steps, trial steps, a measurement and a checkpoint."""
    with bench(micro_batch=2, global_batch=7, prepare=prepare, precision=precision) as on:
        steps = [on.step(), on.step()]
        before = held(on)
        with on.engine.trial(rate_scale=0.5):
            on.engine.trial_step(PROBE, torch.tensor([LENGTH, 3]), target_tokens=LENGTH + 1, seed=3)
            inside = held(on)
        undone = held(on)
        measured = aligned(on)
        expected, repeated = restored(on, folder)
        whole = on.engine.sharding.whole_model()
        return {
            "losses": [step.loss for step in steps],
            "trial": (before, inside, undone),
            "measured": measured,
            "restored": (expected, repeated),
            "trained": (on.engine.num_parameters, on.engine.sharding.num_trained),
            "frozen": None if whole is None else whole.get_parameter(FROZEN).detach().float().numpy().copy(),
        }


@pytest.fixture(scope="module")
def begun() -> Any:
    """The frozen weight as the model is built."""
    from tests.engines.steps import tiny_model

    return tiny_model().get_parameter(FROZEN).detach().numpy().copy()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    return driven(folder / "saved")


def equal(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("engine", "ranks"), SHARDINGS, ids=lambda value: str(value))
def test_a_frozen_weight_is_kept_while_the_others_train_are_tried_saved_and_restored(
    tmp_path: Path, begun: Any, alone: dict[str, Any], engine: str, ranks: int
) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed", reason="NOT TESTED: deepspeed is not installed")
    for rank, result in enumerate(on_ranks(driven, ranks, tmp_path, tmp_path / "saved", engine=engine)):
        assert result["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert len(set(result["losses"])) == 2, "the other weights train"
        before, inside, undone = result["trial"]
        assert not equal(before, inside)
        assert equal(before, undone)
        assert equal(*result["measured"][:2])
        for name, alignment in result["measured"][2].items():
            assert alignment.inner_product == pytest.approx(
                alone["measured"][2][name].inner_product, rel=1e-3, abs=1e-3 * alignment.standard_error
            )
        (figures, state), (again, state_again) = result["restored"]
        assert again == figures
        assert equal(state, state_again)
        assert result["trained"] == (begun.size + result["trained"][1], alone["trained"][1])
        if rank == 0:
            assert np.array_equal(result["frozen"], begun)
    saved = torch.empty(begun.shape)
    read(tmp_path / "saved", {f"model.{FROZEN}": saved})
    assert np.array_equal(saved.numpy(), begun)
    with pytest.raises(Exception, match="exp_avg"):
        read(tmp_path / "saved", {f"exp_avg.{FROZEN}": saved})


@pytest.mark.parametrize(
    ("engine", "precision", "prepare"),
    [
        ("zero1", "bf16", freeze),
        ("zero1", "bf16", freeze_vectors),
        pytest.param("zero2", "bf16", freeze_vectors, marks=SLOW),
        pytest.param("zero3", "fp32", freeze_vectors, marks=SLOW),
    ],
)
def test_zero_takes_a_frozen_weight_and_a_frozen_group_at_each_precision(
    tmp_path: Path, engine: str, precision: str, prepare: Callable[[Any], None]
) -> None:
    pytest.importorskip("deepspeed", reason="NOT TESTED: deepspeed is not installed")
    (expected,) = on_ranks(driven, 1, tmp_path, tmp_path / "alone", prepare, precision)
    for result in on_ranks(driven, 2, tmp_path, tmp_path / "saved", prepare, precision, engine=engine):
        assert result["losses"] == pytest.approx(expected["losses"], rel=1e-5 if precision == "fp32" else 1e-2)
        assert result["trained"] == expected["trained"]
        before, inside, undone = result["trial"]
        assert not equal(before, inside)
        assert equal(before, undone)
        assert equal(*result["measured"][:2])
        (figures, state), (again, state_again) = result["restored"]
        assert again == figures
        assert equal(state, state_again)
