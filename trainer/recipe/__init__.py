"""The recipe: everything that decides what is trained, composed of the parts' own configurations and checked as a
whole.

A recipe is strict (an unknown key is a mistake) and every mistake in it is reported in one go, with its line: a wrong
run costs hours, and finding five typing mistakes in five attempts costs patience. Only the question whether
transformers knows the keys of the model needs a heavy import; `trainer plan`, which must answer at once, leaves it out.
"""

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.control.controller import ControlConfig
from trainer.data.config import DataConfig
from trainer.evaluate.config import EvaluationConfig
from trainer.mixture.config import MixtureConfig
from trainer.model.build import ModelConfig
from trainer.model.config import TrainingConfig
from trainer.recipe.checks import note_contradictions, note_machine_mistakes, note_policy_mistakes
from trainer.recipe.loading import Document, read_document
from trainer.recipe.messages import note_mistakes
from trainer.recipe.shipped import ShippedRecipe, shipped_folder, shipped_recipes
from trainer.tracking.journal import MonitorConfig
from trainer.training.config import CheckpointConfig

__all__ = [
    "ALLOWED_ON_RESUME",
    "Difference",
    "LoadedRecipe",
    "Recipe",
    "RecipeError",
    "ShippedRecipe",
    "differences",
    "load_recipe",
    "recipe_schema",
    "resolved_yaml",
    "shipped_folder",
    "shipped_recipes",
]

# What a run may change when it goes on: how long it trains, how the same samples are dealt out, what is saved and
# shown. Anything else would make the second half of the run another experiment than the first.
ALLOWED_ON_RESUME = (
    "training.steps",
    "training.micro_batch",
    "training.timeout_s",
    "mixture.global_batch",
    "mixture.max_epochs*",
    "monitor.*",
    "checkpoint.*",
    "data.cache",
    "data.num_proc",
    "data.sources.*.path",  # moved files; their content is compared by the fingerprints of the prepared segments
    "data.sources.*.joins",  # of later steps; what has joined is compared with the ledger
    "evaluation.document_batch",
    "evaluation.max_compute_share",
    "evaluation.source_value.max_compute_share",
    "evaluation.alignment.max_compute_share",
)


class Recipe(Config):
    """A whole training run: what is trained, on what, in which mixture, steered and watched how."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run; its folder is runs/<name>")
    seed: int = Field(default=17, ge=0, lt=2**63, description="all randomness of the run is derived from it")
    engine: Literal["accelerate", "lightning"] = Field(
        default="accelerate", description="what makes the steps: our loop under Accelerate, or a Lightning Trainer"
    )
    model: ModelConfig = Field(description="the model to train")
    data: DataConfig = Field(description="sources, tokenizer, held-out documents")
    mixture: MixtureConfig = Field(description="what of a batch each source gets")
    control: ControlConfig = Field(
        default_factory=ControlConfig, description="who changes the shares, and who may veto"
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="when and on what held-out loss is read"
    )
    training: TrainingConfig = Field(description="steps, learning rate, precision")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="when to save and what to keep")
    monitor: MonitorConfig = Field(
        default_factory=MonitorConfig, description="where figures are shown beside the journal"
    )


class RecipeError(UserError):
    """All that is wrong with a recipe, in the order of its lines."""

    def __init__(self, mistakes: list[UserError]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda one: (one.line is None, one.line or 0)))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, the folder its data paths are relative to, and its text as written."""

    recipe: Recipe
    folder: Path
    text: str


@dataclass(frozen=True)
class Difference:
    """One key that differs between two recipes; ``allowed`` when a run may go on under the new value."""

    key: str
    old: Any
    new: Any
    allowed: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def load_recipe(path: Path | str, overrides: list[str] | None = None, *, on_this_machine: bool = True) -> LoadedRecipe:
    """The recipe at ``path`` with ``overrides`` (`a.b=c`, the value in YAML) applied.

    Paths of data and models come out absolute. ``on_this_machine`` also checks what only this machine can tell: whether
    the data files are there, and whether transformers knows the model's keys (its import takes seconds). Raises
    UserError when it cannot be read, RecipeError with every mistake when it is wrong.
    """
    path = Path(path)
    document, text = read_document(path, overrides or [])
    note_contradictions(document)  # first: they know the line, where the parts' own rules often know only the section
    recipe = _validated(document)
    if recipe is not None and not document.mistakes:
        note_policy_mistakes(document, recipe.control, recipe.mixture, recipe.data, recipe.evaluation)
    folder = path.resolve().parent
    if on_this_machine:
        note_machine_mistakes(document, folder)
    if document.mistakes or recipe is None:
        raise RecipeError(document.mistakes)
    return LoadedRecipe(recipe=_anchored(recipe, folder), folder=folder, text=text)


def _validated(document: Document) -> Recipe | None:
    try:
        # Through JSON, since pydantic's strict mode takes a list for a tuple and a string for a path only there.
        return Recipe.model_validate_json(json.dumps(document.tree), strict=True)
    except ValidationError as error:
        note_mistakes(error, Recipe, document)
        return None


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every local path absolute, so that its copy in the run folder means the same files."""
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    held_out = tree["data"]["held_out"]
    sources = [
        *tree["data"]["sources"].values(),
        *(held_out[part] for part in ("validation", "test") if held_out["kind"] == "dataset"),
    ]
    joins = [join for source in sources for join in source.get("joins", ())]
    for place in [*sources, *joins]:
        if place.get("path") and not place.get("package") and "://" not in place["path"]:
            place["path"] = str(folder / Path(place["path"]).expanduser())
    if tree["data"].get("cache"):
        tree["data"]["cache"] = str(folder / Path(tree["data"]["cache"]).expanduser())
    for part in (tree["model"], tree["data"]["tokenizer"]):
        local = folder / Path(part.get("pretrained") or "").expanduser()
        if part.get("pretrained") and local.is_dir():
            part["pretrained"] = str(local)
    return Recipe.model_validate(tree)


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that loads to the same recipe."""
    writer: Any = YAML(typ="safe", pure=True)  # its attributes are declared as None
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = 120
    stream = StringIO()
    writer.dump(recipe.model_dump(mode="json"), stream)
    return stream.getvalue()


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def differences(old: Recipe, new: Recipe) -> list[Difference]:
    """The keys whose values differ, sorted by name; a key that only one of them has counts with None for the other."""
    left, right = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    changed = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return [Difference(key, left.get(key), right.get(key), _is_allowed(key)) for key in changed]


def _is_allowed(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in ALLOWED_ON_RESUME)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
