"""Graders by likelihood and by mathematics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.synthesis.chat_model import write_model
from tests.synthesis.graders.rivers import row
from trainer.base.errors import DataError
from trainer.model.scorer import Scorer
from trainer.synthesis.graders.config import LikelihoodConfig, MathematicsConfig
from trainer.synthesis.graders.likelihood import likelihood
from trainer.synthesis.graders.mathematics import compared, mathematics
from trainer.synthesis.graders.protocol import Surroundings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


def surroundings(real: list[dict[str, Any]]) -> Surroundings:
    return Surroundings(base=Path(), generator=None, real=real, answers=Path("answers"))


def test_the_loss_of_a_text_is_that_of_the_model_whatever_else_is_in_the_batch(model: Path) -> None:
    import torch

    scorer = Scorer(str(model))
    texts = ["a few words", "", "words and words, few " * 20, "x"]
    together = scorer.nats_per_token(texts, max_tokens=64)
    alone = [scorer.nats_per_token([text], max_tokens=64)[0] for text in texts]
    assert together == pytest.approx(alone, rel=1e-5, nan_ok=True)
    assert np.isnan(together[1])
    tokenizer, network = scorer._writer.tokenizer, scorer._writer.model
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer("a few words")["input_ids"]]])
    with torch.no_grad():
        assert together[0] == pytest.approx(float(network(input_ids=ids, labels=ids).loss), rel=1e-5)


def test_both_tails_of_likelihood_are_dropped(model: Path) -> None:
    real = [row(number) for number in range(60)]
    grader = likelihood(LikelihoodConfig(model=str(model), lower_tail=0.05, upper_tail=0.05), surroundings(real))
    grades = grader.grade(real)
    nats = np.array([grade.scores["likelihood.nats_per_token"] for grade in grades])
    order = np.argsort(nats)
    assert grades[order[0]].reason == "more likely than real text"
    assert grades[order[-1]].reason == "less likely than real text"
    assert grades[order[len(order) // 2]].verdict == "keep"
    assert grades[order[len(order) // 2]].scores["likelihood"] > 0.9
    # a twentieth of real text to come is beyond the 1.55th (31 / 20) of the 30 rows of a slice, so one of them is
    assert sum(grade.verdict == "drop" for grade in grades) == 4, "of two slices two tails"


def test_too_few_real_rows_have_no_tails(model: Path) -> None:
    grader = likelihood(LikelihoodConfig(model=str(model)), surroundings([row(1)] * 5))
    with pytest.raises(DataError, match="too few real rows"):
        grader.grade([row(1)])


@pytest.mark.parametrize(
    ("text", "reference", "outcome"),
    [
        ("9 * 2 = 18\nA: 18", "so it is <<9*2=18>>18.\n#### 18", True),
        ("The answer is 0.5.", r"\boxed{\frac{1}{2}}", True),
        ("#### 1,000", "1000", True),
        ("A: 17", "#### 18", False),
        ("I do not know.", "#### 18", False),
        ("#### 9**9**9**9", "#### 18", False),
        ("#### 3", "see the book", "the reference answer cannot be read"),
    ],
)
def test_an_answer_is_right_however_it_is_written(text: str, reference: str, outcome: object) -> None:
    assert outcomes()[text, reference] == outcome


def outcomes() -> dict[tuple[str, str], object]:
    """Of all cases in one process."""
    if not _OUTCOMES:
        cases = [case[:2] for case in test_an_answer_is_right_however_it_is_written.pytestmark[0].args[1]]
        _OUTCOMES.update(zip(cases, compared(cases, limit_s=5.0), strict=True))
    return _OUTCOMES


_OUTCOMES: dict[tuple[str, str], object] = {}


def test_rows_after_one_that_hangs_are_still_compared() -> None:
    hangs = "#### " + "9^" * 12 + "9"
    assert compared([("#### 2", "2"), (hangs, "3"), ("#### 4", "4")], limit_s=1.0)[::2] == [True, True]


def test_a_column_that_the_real_row_does_not_have_is_named() -> None:
    grader = mathematics(MathematicsConfig(answer_column="solution"), surroundings([]))
    with pytest.raises(DataError, match="no column 'solution'"):
        grader.grade([row(1)])
    right = mathematics(MathematicsConfig(answer_column="answer"), surroundings([]))
    assert right.grade([row(1, text="#### 4")])[0].verdict == "keep"
