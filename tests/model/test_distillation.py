"""The divergence from a teacher of whom k tokens and a rest are known: closed forms, bounds, gradients."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.distillation import TeacherTargets, mixed, tail_divergence, teacher_divergences


def told(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest tokens of a distribution, and the log-probabilities of these and of the rest."""
    log_probabilities = torch.log_softmax(logits, -1)
    values, ids = log_probabilities.topk(top_k, -1)
    return ids, torch.cat([values, torch.log1p(-values.exp().sum(-1, keepdim=True))], -1)


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.25], 0.25 * math.log(2)),  # .5 ln 2 + 0 - .25 ln 2
        ([0.5, 0.25, 0.125, 0.125], [0.5, 0.25, 0.25], 0.0),  # how the rest is spread is not told
        ([0.7, 0.1, 0.1, 0.1], [0.5, 0.25, 0.25], 0.5 * math.log(5 / 7) + 0.25 * math.log(2.5) + 0.25 * math.log(1.25)),
        ([0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0], math.log(4)),  # a sure teacher: its cross entropy
    ],
)
def test_the_divergence_has_the_value_of_its_formula(
    student: list[float], teacher: list[float], expected: float
) -> None:
    given_logits = torch.tensor(student).log() + 7.0  # logits are known up to a constant
    divergence = tail_divergence(given_logits, torch.tensor([0, 1]), torch.tensor(teacher).log())
    assert float(divergence) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 11))
def test_the_divergence_is_never_negative_nor_above_the_full_one_and_is_the_full_one_where_one_token_is_the_rest(
    seed: int, top_k: int
) -> None:
    teacher, student = random_logits(seed, 2, 12)
    p, q = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    full = float((p.exp() * (p - q)).sum())
    divergence = float(tail_divergence(student, *told(teacher, top_k)))
    assert -1e-5 <= divergence <= full + 1e-4
    if top_k == 11:
        assert divergence == pytest.approx(full, rel=1e-3, abs=1e-4)


def test_the_gradient_is_student_less_teacher_with_the_rest_shared_as_the_student_shares_it() -> None:
    teacher, student = random_logits(4, 2, 9)
    student.requires_grad_()
    ids, log_probabilities = told(teacher, 3)
    tail_divergence(student, ids, log_probabilities).backward()  # type: ignore[no-untyped-call]
    q = torch.softmax(student.detach(), -1)
    is_rest = torch.ones(9, dtype=torch.bool).scatter(0, ids, False)
    expected = torch.where(is_rest, log_probabilities[3].exp() * q / q[is_rest].sum(), 0.0)
    expected = expected.scatter(0, ids, log_probabilities[:3].exp())
    torch.testing.assert_close(student.grad, q - expected, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_sure_has_a_gradient_that_is_finite_and_right() -> None:
    student = torch.tensor([60.0, 50.0, 0.0, -10.0], requires_grad=True)  # the rest has 1e-26
    divergence = tail_divergence(student, torch.tensor([0, 1]), torch.tensor([0.5, 0.25, 0.25]).log())
    divergence.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert float(divergence.detach()) == pytest.approx(0.25 * 10 + 0.25 * 60 - entropy, rel=1e-4)
    torch.testing.assert_close(student.grad, torch.tensor([0.5, -0.25, -0.25, 0.0]), rtol=0, atol=1e-3)


def targets(is_given: list[bool], length: int, vocabulary: int, top_k: int) -> TeacherTargets:
    ids, log_probabilities = told(random_logits(8, len(is_given), length, vocabulary), top_k)
    return TeacherTargets(ids=ids.int(), log_probabilities=log_probabilities.half(), is_given=torch.tensor(is_given))


def test_rows_without_a_teacher_and_targets_beyond_the_text_have_no_divergence_and_no_gradient() -> None:
    logits = random_logits(5, 3, 6, 10).requires_grad_()
    teacher = targets([True, False, True], 6, 10, 4)
    divergences = teacher_divergences(logits, teacher, torch.tensor([6, 6, 3]))
    divergences.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    has_value = divergences.detach() > 0
    assert has_value.tolist() == [[True] * 5, [False] * 5, [True, True, False, False, False]]
    assert (logits.grad.abs().sum(-1) > 0).tolist() == [[True] * 5 + [False], [False] * 6, [True] * 2 + [False] * 4]
    by_hand = tail_divergence(logits[2, 1].detach(), teacher.ids[2, 1].long(), teacher.log_probabilities[2, 1].float())
    assert float(divergences[2, 1].detach()) == pytest.approx(float(by_hand), rel=1e-6)


def test_no_row_with_a_teacher_is_no_divergence() -> None:
    nothing = teacher_divergences(random_logits(5, 2, 6, 10), targets([False] * 2, 6, 10, 4), torch.tensor([6, 6]))
    assert nothing.shape == (2, 5)
    assert not nothing.any()


def test_the_objective_mixes_in_rows_that_a_teacher_read_and_is_cross_entropy_in_others() -> None:
    losses, divergences = torch.full((2, 3), 4.0), torch.tensor([[1.0] * 3, [0.0] * 3])
    objective: Any = mixed(losses, divergences, torch.tensor([True, False]), 0.25)
    assert objective.tolist() == [[0.75 * 4 + 0.25] * 3, [4.0] * 3]
