"""The pools that a recipe, a run or a folder means."""

from collections.abc import Iterator
from pathlib import Path

from trainer.base.errors import UserError
from trainer.base.paths import expanded
from trainer.data.pool_manifest import MANIFEST, pool_of
from trainer.data.walk import split_pattern
from trainer.recipe import LoadedRecipe, load_recipe
from trainer.runs.rounds.files import RoundFiles
from trainer.synthesis.pool import Pool

RECIPE = "recipe.yaml"  # of a run's folder


def pools_of(path: Path) -> list[Pool]:
    """The pools that ``path`` means: a pool's folder, a run's folder, or a recipe that makes or reads one. Raises
    ``UserError`` where there is none.
    """
    if (path / MANIFEST).is_dir():
        return [Pool(path)]
    is_run = path.is_dir()
    loaded = load_recipe(path / RECIPE if is_run else path, [], on_this_machine=False)
    folders = [*_of_recipe(loaded), *([RoundFiles(path).pool] if is_run else [])]
    pools = [Pool(folder) for folder in dict.fromkeys(map(Path.resolve, folders)) if (folder / MANIFEST).is_dir()]
    if not pools:
        remedy = "Make one with `trainer synthesize`, or give the folder of a pool"
        raise UserError("there is no pool yet", got=str(path), remedy=remedy)
    return pools


def the_pool(path: Path) -> Pool:
    """The one pool that ``path`` means. ``UserError`` where it means several."""
    pools = pools_of(path)
    if len(pools) > 1:
        folders = ", ".join(str(pool.folder) for pool in pools)
        raise UserError(f"{path} has several pools", got=folders, remedy="Give the folder of one of them")
    return pools[0]


def _of_recipe(loaded: LoadedRecipe) -> Iterator[Path]:
    if loaded.recipe.synthesis is not None:
        yield loaded.folder / expanded(loaded.recipe.synthesis.pool)
    for segment in loaded.recipe.data.every_segment.values():
        if segment.path is not None and segment.package is None and "://" not in segment.path:
            pool = pool_of(split_pattern(loaded.folder, expanded(segment.path))[0])
            if pool is not None:
                yield pool
