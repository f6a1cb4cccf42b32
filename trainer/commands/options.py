"""What several commands take: a recipe, a run folder, numbers that are finite."""

import math
from pathlib import Path
from typing import Annotated

import typer


def finite(number: float | None) -> float | None:
    """Refuses what a bound lets through: `nan`, and `inf`."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number")
    return number


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped recipe.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Replace a value of the recipe; may be given again.")
]
