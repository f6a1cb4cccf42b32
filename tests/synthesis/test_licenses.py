"""The terms of rows: joined, read, and refused or told where they stand against training."""

import pytest

from trainer.base.errors import UserError
from trainer.synthesis.licenses import check_licenses, spdx, together
from trainer.synthesis.licenses_config import LicensesConfig


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (("MIT", "MIT"), "MIT"),
        (("mit", "Apache-2.0"), "MIT AND Apache-2.0"),
        (("CC-BY-4.0 OR MIT", "Apache-2.0"), "(CC-BY-4.0 OR MIT) AND Apache-2.0"),
        (("unknown", "unknown"), "unknown"),
        (("CC-BY-SA-4.0", "unknown"), "CC-BY-SA-4.0 AND LicenseRef-unknown"),
    ],
)
def test_terms_of_all_are_an_expression_that_names_each(terms: tuple[str, ...], expected: str) -> None:
    assert together(terms) == expected


def test_words_that_are_no_expression_become_a_reference() -> None:
    assert spdx("our own terms, v2") == "LicenseRef-our-own-terms-v2"
    assert spdx("MIT AND") == "LicenseRef-MIT-AND"


@pytest.mark.parametrize(
    ("source", "generator", "problem"),
    [
        ("CC-BY-ND-4.0", "MIT", "allows no derivatives"),
        ("MIT", "LicenseRef-OpenAI-Terms", "forbids training"),
        ("MIT", "LicenseRef-Llama-3 AND MIT", "forbids training"),
    ],
)
def test_terms_that_forbid_it_are_refused(source: str, generator: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        list(check_licenses(LicensesConfig(), {"source books": source, "generator g": generator}))


@pytest.mark.parametrize(
    ("source", "generator", "problem"),
    [
        ("CC-BY-NC-4.0", "MIT", "allows no commercial use"),
        ("CC-BY-SA-4.0", "GPL-3.0-only", "its own terms"),
        ("MIT", "LicenseRef-Llama-3.1", "under a condition"),
        ("unknown", "MIT", "is not known"),
        ("MIT", "LicenseRef-mine", "is not known"),
    ],
)
def test_terms_that_ask_for_something_are_told(source: str, generator: str, problem: str) -> None:
    warnings = list(check_licenses(LicensesConfig(), {"source books": source, "generator g": generator}))
    assert len(warnings) == 1
    assert problem in warnings[0]
    key = warnings[0].partition("synthesis.licenses.")[2].partition(":")[0]
    quiet = LicensesConfig(**{key: "allow"})  # type: ignore[arg-type]
    assert not list(check_licenses(quiet, {"source books": source, "generator g": generator}))


@pytest.mark.parametrize("terms", ["MIT", "Apache-2.0 AND CC-BY-4.0", "MIT OR CC-BY-NC-ND-4.0", "CC-BY-SA-4.0"])
def test_terms_that_allow_it_are_not_told(terms: str) -> None:
    assert not list(check_licenses(LicensesConfig(), {"source books": terms, "generator g": "MIT"}))


def test_ones_own_reading_counts_before_the_table() -> None:
    own = LicensesConfig(terms={"LicenseRef-OpenAI-Terms": "allowed", "LicenseRef-mine": "forbids_training"})
    assert not list(check_licenses(own, {"generator g": "LicenseRef-OpenAI-Terms"}))
    with pytest.raises(UserError, match="forbids training"):
        list(check_licenses(own, {"generator g": "LicenseRef-mine"}))
