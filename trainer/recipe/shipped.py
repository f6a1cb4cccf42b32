"""The recipes and launch files that come with the package, found in a checkout and in an installed wheel alike.

They live at the root of the repository, where people look for them; the wheel carries them inside the package.
"""

from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with the package; ``summary`` is the first sentence of its opening comment after the command."""

    name: str
    path: Path
    summary: str


def shipped_folder(kind: str) -> Path:
    """The folder of the shipped ``recipes`` or ``launch`` files."""
    in_wheel = _PACKAGE / "shipped" / kind
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / kind


def shipped_recipes() -> list[ShippedRecipe]:
    """All shipped recipes, the quickstart first, the rest by name."""
    paths = sorted(shipped_folder("recipes").glob("*.yaml"), key=lambda path: (path.stem != "quickstart", path.stem))
    return [ShippedRecipe(path.stem, path, _summary(path)) for path in paths]


def _summary(path: Path) -> str:
    """The second comment line: the first is the command that runs the recipe."""
    comments = [line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return comments[1] if len(comments) > 1 else ""
