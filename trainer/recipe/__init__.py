"""One YAML file that decides a whole run: loading, checks, messages, names of other trainers, shipped recipes."""

from trainer.base.errors import RecipeError
from trainer.recipe.recipe import (
    ALLOWED_ON_RESUME,
    Difference,
    LoadedRecipe,
    Recipe,
    differences,
    load_recipe,
    recipe_schema,
    resolved_yaml,
)
from trainer.recipe.shipped import ShippedRecipe, recipe_path, shipped_folder, shipped_recipes

__all__ = [
    "ALLOWED_ON_RESUME",
    "Difference",
    "LoadedRecipe",
    "Recipe",
    "RecipeError",
    "ShippedRecipe",
    "differences",
    "load_recipe",
    "recipe_path",
    "recipe_schema",
    "resolved_yaml",
    "shipped_folder",
    "shipped_recipes",
]
