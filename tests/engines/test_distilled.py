"""A step that learns from a teacher: by hand, in any micro-batches, on any number of ranks, under every engine."""

from pathlib import Path

import pytest

from tests.engines.gloo import on_ranks
from tests.engines.steps import TAUGHT, bench, distilled, distilled_by_hand

SLOW = pytest.mark.slow


def test_gradient_and_divergence_are_those_of_each_sample_alone_and_the_loss_stays_the_cross_entropy() -> None:
    norm, divergence, loss, taught_share = distilled_by_hand(12)
    figures, _ = distilled(3, 12)
    assert 0.2 < taught_share < 0.8
    assert figures.grad_norm == pytest.approx(norm, rel=1e-4)
    assert figures.teacher_divergence == pytest.approx(divergence, rel=1e-4)
    assert figures.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("micro_batch", "global_batch"), [(1, 12), (12, 12), (5, 7)])
def test_a_step_with_a_teacher_does_not_depend_on_the_micro_batch(micro_batch: int, global_batch: int) -> None:
    for actual, expected in zip(distilled(micro_batch, global_batch), distilled(3, global_batch), strict=True):
        assert actual.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
        assert actual.teacher_divergence == pytest.approx(expected.teacher_divergence, rel=1e-5)


@pytest.mark.parametrize(
    "engine", ["ddp", "fsdp2", *(pytest.param(engine, marks=SLOW) for engine in ("zero1", "zero2", "zero3"))]
)
def test_a_teacher_teaches_alike_on_two_ranks_of_every_engine(tmp_path: Path, engine: str) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed", reason="NOT TESTED: deepspeed is not installed")
    expected = distilled(2, 7)
    for steps in on_ranks(distilled, 2, tmp_path, 2, 7, engine=engine):
        for step, alone in zip(steps, expected, strict=True):
            assert step.batch_hash == alone.batch_hash
            assert step.loss == pytest.approx(alone.loss, rel=1e-5)
            assert step.grad_norm == pytest.approx(alone.grad_norm, rel=1e-4)
            assert step.teacher_divergence == pytest.approx(alone.teacher_divergence, rel=1e-5)


def test_without_a_weight_nothing_is_learned_from_a_teacher_and_none_is_told() -> None:
    with bench(3, 12, made=TAUGHT) as taught, bench(3, 12) as plain:
        with_columns, without = taught.step(), plain.step()
    assert (with_columns.grad_norm, with_columns.loss) == (without.grad_norm, without.loss)
    assert with_columns.teacher_divergence is None
