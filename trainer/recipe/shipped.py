"""The recipes and launch files that come with the package, found in a checkout and in an installed wheel alike.

They live at the root of the repository, where people look for them; the wheel carries them inside the package.
"""

import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from trainer.base.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with the package; ``summary`` is the comment line after its command."""

    name: str
    path: Path
    summary: str


def shipped_folder(kind: str) -> Path:
    """The folder of the shipped ``recipes`` or ``launch`` files."""
    in_wheel = _PACKAGE / "shipped" / kind
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / kind


def constraints_file() -> Path:
    """The versions that this release was tested with."""
    in_wheel = _PACKAGE / "shipped" / "constraints.txt"
    return in_wheel if in_wheel.is_file() else _PACKAGE.parent / "constraints.txt"


def shipped_recipes() -> list[ShippedRecipe]:
    """All shipped recipes, the quickstart first, the rest by name."""
    paths = sorted(shipped_folder("recipes").glob("*.yaml"), key=lambda path: (path.stem != "quickstart", path.stem))
    return [ShippedRecipe(path.stem, path, _summary(path)) for path in paths]


def shipped_path(name: str) -> Path:
    """The file of the shipped recipe called ``name``; UserError with the nearest right name if there is none."""
    paths = {recipe.name: recipe.path for recipe in shipped_recipes()}
    if name in paths:
        return paths[name]
    near = get_close_matches(name, paths, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"Shipped: {', '.join(paths)}"
    raise UserError("no such recipe: not a file, not a shipped name", got=name, remedy=remedy)


def recipe_path(given: Path | str) -> Path:
    """The recipe's file: as given, or the shipped recipe of that name."""
    path = Path(given)
    is_name = not path.suffix and len(path.parts) == 1
    return shipped_path(path.name) if is_name and not path.exists() else path


def copy_recipes(name: str | None, folder: Path) -> list[Path]:
    """Copies one shipped recipe, or all, with the data they read, into ``folder``; the new recipe files.

    UserError instead of writing over a file that exists.
    """
    sources = [shipped_path(name)] if name is not None else [recipe.path for recipe in shipped_recipes()]
    copies = [folder / source.name for source in sources]
    if folder.exists() and not folder.is_dir():
        raise UserError("recipes are copied into a folder, and this is not one", got=str(folder))
    for copy in copies:
        if copy.exists():
            raise UserError(
                "the recipe would be overwritten", got=str(copy), remedy="Choose another folder, or move the file away"
            )
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(shipped_folder("recipes") / "data", folder / "data", dirs_exist_ok=True)
    for source, copy in zip(sources, copies, strict=True):
        shutil.copyfile(source, copy)
    return copies


def _summary(path: Path) -> str:
    """The second comment line: the first is the command that runs the recipe."""
    comments = [
        line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    return comments[1] if len(comments) > 1 else ""
