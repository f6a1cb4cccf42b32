"""What the tests of recipes share: editing a recipe's text, and the mistakes in it."""

from pathlib import Path

import pytest

from trainer.base.errors import UserError
from trainer.recipe import RecipeError, load_recipe


def line_of(file: Path, text: str) -> int:
    """Number of the first line that holds ``text``."""
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


def mistakes_in(file: Path, *overrides: str) -> tuple[UserError, ...]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, list(overrides), on_this_machine=False)
    return caught.value.mistakes
