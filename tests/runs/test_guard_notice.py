"""That the guard cannot see is said with the values that let it, and applying them lets it."""

import re

import pytest

from trainer.control.guard.config import GuardConfig
from trainer.evaluate.config import EvaluationConfig
from trainer.runs.guard_notice import Sight, blindness


def said(*, documents: int = 40, held_out: int | None = 100, steps: int = 1000, **evaluation: int) -> str | None:
    sight = Sight(documents=documents, held_out=held_out)
    return blindness(GuardConfig(), EvaluationConfig(**evaluation), num_steps=steps, sight=sight)


@pytest.mark.parametrize("documents", [2, 8, 19, 22, 29])
def test_too_few_documents_are_said_with_the_number_that_is_enough(documents: int) -> None:
    text = said(documents=documents)
    assert text is not None
    assert f"{documents} documents are evaluated, it needs 30" in text
    assert "evaluation.validation_documents: 30" in text
    assert said(documents=30) is None


def test_a_held_out_part_that_is_too_small_is_no_matter_of_how_many_are_read() -> None:
    text = said(documents=12, held_out=12)
    assert text is not None
    assert "validation_documents" not in text
    assert "control.guard.min_documents: 12" in text


@pytest.mark.parametrize(("steps", "every"), [(100, 50), (60, 20), (1000, 200), (15, 5), (12, 3)])
def test_too_few_evaluations_are_said_with_an_interval_that_gives_enough(steps: int, every: int) -> None:
    text = said(steps=steps, every_steps=every)
    assert text is not None
    found = re.search(r"evaluation\.every_steps: (\d+)", text)
    assert found is not None
    assert said(steps=steps, every_steps=int(found[1])) is None


def test_a_run_too_short_for_any_interval_is_told_how_long_it_must_be() -> None:
    text = said(steps=8, every_steps=2)
    assert text is not None
    steps = re.search(r"training\.steps: (\d+)", text)
    assert steps is not None
    assert said(steps=int(steps[1]), every_steps=2) is None


def test_a_guard_that_is_off_is_not_blind_and_evaluations_count_without_documents() -> None:
    evaluation = EvaluationConfig(every_steps=50)
    assert blindness(GuardConfig(enabled=False), evaluation, num_steps=9, sight=None) is None
    assert blindness(GuardConfig(), evaluation, num_steps=1000, sight=None) is None
    assert blindness(GuardConfig(), evaluation, num_steps=100, sight=None) is not None
