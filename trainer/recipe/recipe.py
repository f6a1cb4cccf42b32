"""The recipe: everything that decides what is trained, composed of the sections' own configurations and checked as a
whole.

A recipe is strict (an unknown key is a mistake) and every mistake in it is reported together with its line: a wrong run
costs hours, and finding five typing mistakes in five attempts costs patience. Only the question whether transformers
knows the keys of the model needs a heavy import; `trainer plan`, which must answer immediately, leaves it out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML

from trainer.base.config import Config
from trainer.base.errors import RecipeError, UserError
from trainer.base.records import Kind
from trainer.control.config import ControlConfig
from trainer.data.config import DataConfig
from trainer.evaluate.config import EvaluationConfig
from trainer.mixture.config import MixtureConfig
from trainer.model.config import ModelConfig, TrainingConfig
from trainer.recipe.aliases import note_aliases
from trainer.recipe.checks import note_contradictions, note_machine_mistakes, note_policy_mistakes
from trainer.recipe.filter_checks import note_filter_mistakes
from trainer.recipe.loading import MAX_MISTAKES, RecipeDocument, apply_override, read_file, read_mapping
from trainer.recipe.messages import note_mistakes
from trainer.recipe.resolve import EXTENDS, resolve_extends, resolve_paths, resolve_shares
from trainer.recipe.shipped import recipe_path
from trainer.synthesis.config import SynthesisConfig
from trainer.tracking.config import TrackingConfig
from trainer.training.config import CheckpointConfig

# What a run may change when it resumes: how long it trains, how the same samples are partitioned, what is saved and
# shown. Anything else would make the second half of the run another experiment than the first.
ALLOWED_ON_RESUME = (
    "training.steps",
    "training.rate_jump",
    "training.micro_batch",
    "training.timeout_s",
    "mixture.global_batch",
    "mixture.max_epochs*",
    "tracking.*",
    "checkpoint.*",
    "model.saved_precision",  # of what is written at the end
    "synthesis*",
    "data.cache",
    "data.num_proc",
    "data.teacher.batch",
    "data.sources.*.path",  # moved files; their content is compared by the fingerprints of the prepared segments
    "data.sources.*.joins",  # of later steps; what has joined is compared with the ledger
    "evaluation.micro_batch",
    "evaluation.max_compute_share",
    "evaluation.source_value.max_compute_share",
    "evaluation.gradient_alignment.max_compute_share",
)


# What a run may not change although the section around it may change.
FIXED_IN_A_RUN = ("synthesis.source",)


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
    tracking: TrackingConfig = Field(
        default_factory=TrackingConfig, description="where the run is shown besides its own journal"
    )
    synthesis: SynthesisConfig | None = Field(
        default=None, description="how `trainer synthesize`, or the run itself, makes the synthetic rows of a source"
    )

    @property
    def made_source(self) -> str | None:
        """The source whose segments the run makes while it trains; it begins without any."""
        return None if self.synthesis is None else self.synthesis.source

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each source that the run can draw from."""
        made: dict[str, Kind] = {self.made_source: "synthetic"} if self.made_source is not None else {}
        return {name: source.kind for name, source in self.data.sources.items()} | made

    @property
    def starting_shares(self) -> dict[str, int]:
        """The starting share of each source in millionths; 0 of one that the run makes."""
        made = {self.made_source: 0} if self.made_source is not None else {}
        return self.mixture.shares_in_millionths() | made


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, the folder it was written in, and its text as written (resolved where it was a mapping)."""

    recipe: Recipe
    folder: Path
    text: str


@dataclass(frozen=True)
class Difference:
    """One key that differs between two recipes; ``allowed`` when a run may resume under the new value."""

    key: str
    old: Any
    new: Any
    allowed: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def load_recipe(
    given: Path | str | Mapping[str, Any], overrides: list[str] | None = None, *, on_this_machine: bool = True
) -> LoadedRecipe:
    """The recipe ``given`` as a file, a shipped name or a mapping, with ``overrides`` (`a.b=c`, the value in YAML).

    Paths of data and models come out absolute. ``on_this_machine`` also checks what only this machine can tell: whether
    the data files exist, and whether transformers knows the model's keys (its import takes seconds). Raises UserError
    when it cannot be read, RecipeError with every mistake when it is wrong.
    """
    if isinstance(overrides, str):
        raise UserError("overrides is not a list", got=overrides, remedy=f"Give a list: [{overrides!r}]")
    document, folder, text = _read(given)
    for override in overrides or []:
        apply_override(override, document, folder)
    note_aliases(document, Recipe)
    resolve_shares(document)
    resolve_paths(document)
    note_contradictions(
        document
    )  # first: they know the line, where the sections' own rules often know only the section
    recipe = _validated(document)
    if recipe is not None and not document.mistakes:
        note_policy_mistakes(
            document,
            recipe.control,
            recipe.mixture,
            recipe.evaluation,
            shares=recipe.starting_shares,
            kinds=recipe.kinds,
        )
    if on_this_machine:
        note_machine_mistakes(document, folder)
        note_filter_mistakes(document)
    if document.is_full:
        document.mistakes[MAX_MISTAKES:] = [UserError("there are further mistakes", remedy="Correct these first")]
    if document.mistakes or recipe is None:
        raise RecipeError(document.mistakes)
    return LoadedRecipe(recipe=recipe, folder=folder, text=resolved_yaml(recipe) if text is None else text)


def _read(given: Path | str | Mapping[str, Any]) -> tuple[RecipeDocument, Path, str | None]:
    """The values with what they extend, the folder that overrides are relative to, and the text."""
    if isinstance(given, Mapping):
        folder, text = Path.cwd(), None
        document, file = read_mapping(given, folder), None
    else:
        file = recipe_path(given)
        document, text = read_file(file)
        folder = file.resolve().parent
    resolve_extends(document, () if file is None else (file.resolve(),))
    return document, folder, text


def _validated(document: RecipeDocument) -> Recipe | None:
    # Through JSON, since pydantic's strict mode takes a list for a tuple and a string for a path only there.
    text = json.dumps(document.tree, default=_refuse)
    try:
        return Recipe.model_validate_json(text, strict=True)
    except ValidationError as error:
        note_mistakes(error, Recipe, document)
        return None


def _refuse(value: Any) -> Any:
    """What a file cannot hold either, in a recipe given as a mapping."""
    what = f"a recipe has texts, numbers, lists and mappings, not a {type(value).__name__}"
    raise UserError(what, got=value, remedy="Write it as in a file")


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
    """The JSON schema of a recipe as written, for editors.

    Nothing in it is required, since what one recipe leaves out may come from the one it extends; null, which removes
    such a key, is allowed everywhere; `trainer check` knows.
    """
    schema = _as_written(Recipe.model_json_schema())
    description = "another recipe, by its file or shipped name, whose keys this one replaces"
    schema["properties"] = {EXTENDS: {"type": "string", "description": description}, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _as_written(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_written(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A part of one of several kinds fits more than one of them.
    schema = {key.replace("oneOf", "anyOf"): _as_written(value) for key, value in schema.items() if key != "required"}
    if isinstance(properties := schema.get("properties"), dict):
        schema["properties"] = {name: _or_null(value) for name, value in properties.items()}
    if isinstance(named := schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _or_null(named)
    return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    description = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": [schema, {"type": "null"}], **description}


def differences(old: Recipe, new: Recipe) -> list[Difference]:
    """The keys whose values differ, sorted by name; a key that only one of them has counts with None for the other."""
    left, right = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    changed = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return [Difference(key, left.get(key), right.get(key), _is_allowed(key)) for key in changed]


def _is_allowed(key: str) -> bool:
    return key not in FIXED_IN_A_RUN and any(fnmatchcase(key, pattern) for pattern in ALLOWED_ON_RESUME)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
