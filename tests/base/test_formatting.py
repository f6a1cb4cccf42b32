"""Numbers in text keep the digits that they support and no more."""

import math

import pytest

from trainer.base.formatting import changes_in_words, duration, evidence_in_words, figure, percent, plus_minus


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (330_000, "33 %"),
        (12_600, "1.26 %"),
        (400, "0.04 %"),
        (999_600, "99.96 %"),
        (1, "0.0001 %"),
        (0, "0 %"),
        (1_000_000, "100 %"),
        (375_000, "37.5 %"),
    ],
)
def test_a_share_is_percent_to_its_last_digit(share: int, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4.31234, 0.0213, "4.312 ± 0.021"),
        (120.4, 13.0, "120 ± 13"),
        (1.5, None, "1.5"),
        ("NaN", 0.1, "-"),
        (1.5, 0, "1.5"),
    ],
)
def test_a_value_has_the_digits_its_error_supports(value: object, error: object, text: str) -> None:
    assert plus_minus(value, error) == text


def test_figures_and_durations_read_well() -> None:
    assert [figure(value) for value in (1234567, 0.123456, None, math.inf, "-Infinity", 98765.4)] == [
        "1,234,567", "0.1235", "-", "∞", "-∞", "98,765",
    ]  # fmt: skip
    assert [duration(value) for value in (9.6, 75, 4000, math.nan)] == ["10 s", "1 min 15 s", "1 h 06 min", "-"]


def test_a_source_that_is_new_or_gone_counts_as_changed() -> None:
    assert changes_in_words({"a": 1_000_000}, {"a": 0, "b": 1_000_000}) == "a 100 % -> 0 %, b 0 % -> 100 %"
    assert changes_in_words({"a": 1}, {"a": 1}) == "nothing"


def test_errors_stand_with_their_values_and_nothing_is_left_out() -> None:
    evidence = {
        "gap": 0.5, "gap_standard_error": 0.1, "source_value": {"value": 1.0, "standard_error": 0.2},
        "standard_error": 0.3,
        "usable": False, "names": ["a", "b"], "none": [], "who": None, "deep": {"er": {"x_y": 1}},
    }  # fmt: skip
    assert list(evidence_in_words(evidence)) == [
        ("gap", "0.50 ± 0.10"), ("source value", "1.00 ± 0.20"), ("standard error", "0.3"), ("usable", "no"),
        ("names", "a, b"), ("none", "none"), ("who", "none"), ("deep er x y", "1"),
    ]  # fmt: skip
