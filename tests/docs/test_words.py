"""The check of the words finds retired words where they are public, and only there."""

from pathlib import Path

import pytest

from docsite.words import hits_in, strings


@pytest.mark.parametrize(
    "text",
    [
        "3 readings in a row",
        "no worth was measured",
        "rehearsals of 8 steps",
        "run it again and it goes on",
        "the source is guilty",
        "the labels are tokenised",
        "not a run folder: this is no folder",
        "at most 3 % of the worst tenth",
    ],
)
def test_a_retired_word_is_found(text: str) -> None:
    assert [hit.line for hit in hits_in(f"first line\n{text}", "README.md")][:1] == [2]


@pytest.mark.parametrize(
    "text",
    [
        "reading the report",
        "There is no index array",
        "the source is suspected",
        "three evaluations, next to each other",
        "a token of it is worth 0.3 of a fresh one",
        "trainer submit --at-once 4",
        "it is no longer drawn",
    ],
)
def test_the_same_letters_in_another_sense_are_not(text: str) -> None:
    assert hits_in(text, "README.md") == []


def test_docstrings_are_read_only_where_asked(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""A docstring."""\n\nWORD = "a string"\nSHOWN = f"{WORD} inside"\n')
    assert list(strings(module, with_docstrings=False)) == [(3, "a string"), (4, " inside")]
    assert (1, "A docstring.") in strings(module, with_docstrings=True)
