"""What no section can check alone: whether the sections of a recipe agree with each other.

Names are compared on what was written, not on what was validated, so that a wrong number somewhere does not hide a
wrong name elsewhere: all mistakes are shown together.
"""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.base.errors import UserError
from trainer.base.records import Kind
from trainer.control.config import ControlConfig
from trainer.control.controller import (
    forgetting_from,
    gradient_alignment_from,
    initial_state,
    source_value_from,
)
from trainer.control.priced.real_budget import least_capped
from trainer.data.find import local_files
from trainer.data.source_config import SourceConfig
from trainer.evaluate.config import EvaluationConfig
from trainer.mixture.config import MixtureConfig
from trainer.mixture.shares import HALF_A_MILLIONTH
from trainer.model.build import transformers_config
from trainer.model.config import ModelConfig
from trainer.recipe.loading import LONGEST_QUOTED, KeyPath, RecipeDocument, dotted, is_number, mapping_at, number_at
from trainer.recipe.messages import nearest
from trainer.synthesis.prompts import check_template, template_of


def note_contradictions(document: RecipeDocument) -> None:
    """Adds to ``document`` every contradiction between what its sections say."""
    kinds = _source_kinds(document.tree)
    if kinds:
        _note_shares(document, kinds)
        _note_held_out(document, kinds)
        _note_synthesis(document, kinds)
        _note_named_sources(document, kinds | _made_source(document))
    _note_batch_and_steps(document)
    _note_late_joins(document)
    _note_teacher(document)


def _source_kinds(tree: Any) -> dict[str, Any]:
    """Kind of each source as written; None where it is missing or no word."""
    kinds = {name: mapping_at(source, ()).get("kind") for name, source in mapping_at(tree, ("data", "sources")).items()}
    return {name: kind if isinstance(kind, str) else None for name, kind in kinds.items()}


def _made_source(document: RecipeDocument) -> dict[str, str]:
    """The source that the rounds of the run make, if they do; it is none of those in `data.sources`."""
    name = mapping_at(document.tree, ("synthesis",)).get("source")
    return {name: "synthetic"} if isinstance(name, str) else {}


def _note_shares(document: RecipeDocument, kinds: Mapping[str, Any]) -> None:
    path: KeyPath = ("mixture", "shares")
    shares = mapping_at(document.tree, path)
    for name in kinds:
        if shares and name not in shares and path not in document.mistaken:
            document.mistake(
                f"source {name} has no share", (*path, name), remedy=f"Add `{name}: 0` to leave it out, or a share"
            )
    if not shares or path in document.mistaken:
        return
    if not all(
        is_number(share) and share >= 0 for share in shares.values()
    ):  # what is wrong with it, its own rule says
        return
    total = sum(shares.values())
    if abs(total - 1) > HALF_A_MILLIONTH:
        remedy = f"Divide each by {total:.9g}" if total > 0 else "Give a source a share above 0"
        document.mistake("shares must sum to 1", path, got=round(total, 9), remedy=remedy)


def _note_held_out(document: RecipeDocument, kinds: Mapping[str, Any]) -> None:
    if "real" not in kinds.values() and set(kinds.values()) == {"synthetic"}:
        remedy = (
            "Held-out documents must be real: add a source of `kind: real`, or give data.held_out data sets of its own"
        )
        if not mapping_at(document.tree, ("data", "held_out", "validation")):
            document.mistake("no source is real", ("data", "sources"), remedy=remedy)
    name = mapping_at(document.tree, ("data", "held_out")).get("source")
    path: KeyPath = ("data", "held_out", "source")
    if isinstance(name, str) and name not in kinds:
        document.mistake(f"data.held_out.source: {name} is not a source", path, remedy=nearest(name, kinds))
    elif isinstance(name, str) and kinds[name] == "synthetic":
        real = [source for source, kind in kinds.items() if kind == "real"]
        document.mistake(f"held-out documents must be real, but {name} is synthetic", path, remedy=nearest(name, real))


def _note_named_sources(document: RecipeDocument, kinds: Mapping[str, Any]) -> None:
    """Every mapping from source names, wherever it stands, names sources that exist."""
    places: list[KeyPath] = [("mixture", "shares"), ("mixture", "max_epochs")]
    policy = mapping_at(document.tree, ("control", "policy"))
    places += [("control", "policy", key) for key in ("floors", "ceilings", "targets")]
    points = policy.get("points")
    for index, point in enumerate(points if isinstance(points, list) else []):
        shares = mapping_at(point, ("shares",))
        place: KeyPath = ("control", "policy", "points", index, "shares")
        _note_unknown(document, place, shares, kinds)
        if missing := [name for name in kinds if shares and name not in shares]:
            document.mistake(
                f"{dotted(place)} has no share for {', '.join(missing)}",
                place,
                remedy="Name every source; 0 is allowed",
            )
    for place in places:
        _note_unknown(document, place, mapping_at(document.tree, place), kinds)


def _note_unknown(document: RecipeDocument, path: KeyPath, names: Iterable[str], kinds: Mapping[str, Any]) -> None:
    for name in names:
        if name not in kinds:
            document.mistake(f"{dotted(path)}: {name} is not a source", (*path, name), remedy=nearest(name, kinds))


def _note_synthesis(document: RecipeDocument, kinds: Mapping[str, Any]) -> None:
    """Prompts are made of real training sources, by templates that can be rendered."""
    sources = mapping_at(document.tree, ("synthesis",)).get("sources")
    for index, name in enumerate(sources if isinstance(sources, list) else []):
        place: KeyPath = ("synthesis", "sources", index)
        if not isinstance(name, str):
            continue  # its own rule says what is wrong with it
        if name not in kinds:
            document.mistake(f"{dotted(place)}: {name} is not a source", place, remedy=nearest(name, kinds))
        elif kinds[name] == "synthetic":
            remedy = "Name a real one: what a model wrote is not written about again"
            document.mistake(f"{dotted(place)}: {name} is synthetic", place, remedy=remedy)
    made: KeyPath = ("synthesis", "source")
    for name in _made_source(document).keys() & kinds.keys():
        remedy = "Give it another name: it begins empty, and synthesis.share is its share"
        document.mistake(f"{dotted(made)}: {name} is in data.sources", made, got=name, remedy=remedy)
    prompts = mapping_at(document.tree, ("synthesis",)).get("prompts")
    for index, prompt in enumerate(prompts if isinstance(prompts, list) else []):
        for place, template in _templates(mapping_at(prompt, ())):
            try:
                check_template(template_of(template if isinstance(template, str) else ""))
            except UserError as error:
                path: KeyPath = ("synthesis", "prompts", index, *place)
                document.mistake(error.what, path, got=error.got, remedy=error.remedy)


def _templates(prompt: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
    """Where a prompt has templates, and what they are."""
    turns = prompt.get("turns")
    own: list[tuple[KeyPath, Any]] = [((key,), prompt.get(key)) for key in ("template", "row")]
    return [*own, *((("turns", number), turn) for number, turn in enumerate(turns if isinstance(turns, list) else []))]


def _note_batch_and_steps(document: RecipeDocument) -> None:
    tree = document.tree
    micro, whole = number_at(tree, ("training", "micro_batch")), number_at(tree, ("mixture", "global_batch"))
    if micro is not None and whole is not None and micro > whole:
        problem, path = "training.micro_batch is larger than the global batch", ("training", "micro_batch")
        document.mistake(problem, path, got=micro, remedy=f"At most mixture.global_batch, {whole}")
    steps, warmup = number_at(tree, ("training", "steps")), number_at(tree, ("training", "schedule", "warmup_steps"))
    if steps is not None and warmup is not None and warmup >= steps:
        problem = "training.schedule.warmup_steps leaves no step after it"
        document.mistake(
            problem, ("training", "schedule", "warmup_steps"), got=warmup, remedy=f"Below training.steps, {steps}"
        )


def _note_teacher(document: RecipeDocument) -> None:
    """A teacher and the weight of what is learned from it go together."""
    has_teacher = bool(mapping_at(document.tree, ("data", "teacher")))
    weight = mapping_at(document.tree, ("training",)).get("teacher_weight")
    if has_teacher and weight is None:
        remedy = "Set it, 0.5 for one half of the loss, or remove data.teacher"
        document.mistake(
            "data.teacher has no effect without training.teacher_weight", ("data", "teacher"), remedy=remedy
        )
    elif weight is not None and not has_teacher:
        problem = "training.teacher_weight has no effect without data.teacher"
        document.mistake(problem, ("training", "teacher_weight"), got=weight, remedy="Name a teacher, or remove it")


def _note_late_joins(document: RecipeDocument) -> None:
    steps = number_at(document.tree, ("training", "steps"))
    for name, source in mapping_at(document.tree, ("data", "sources")).items():
        joins = mapping_at(source, ()).get("joins")
        for index, join in enumerate(joins if isinstance(joins, list) else []):
            path: KeyPath = ("data", "sources", name, "joins", index, "from_step")
            from_step = number_at(join, path[-1:])
            if steps is not None and from_step is not None and from_step > steps:
                problem, remedy = f"{dotted(path)} comes after the last step", f"At most training.steps, {steps}"
                document.mistake(problem, path, got=from_step, remedy=remedy)


def note_policy_mistakes(
    document: RecipeDocument,
    control: ControlConfig,
    mixture: MixtureConfig,
    evaluation: EvaluationConfig,
    *,
    shares: Mapping[str, int],
    kinds: Mapping[str, Kind],
) -> None:
    """Adds what policy and guard refuse to start with (a start outside a floor), and evidence they need and cannot
    have."""
    try:
        initial_state(control, shares, kinds)
        alignment_from, value_from = gradient_alignment_from(control), source_value_from(control)
        if value_from is None:
            value_from = forgetting_from(control, least_capped(kinds, mixture.max_epochs))
    except UserError as error:
        document.mistake(error.what, ("control", "policy"), got=error.got, remedy=error.remedy)
        return
    except Exception as error:  # noqa: BLE001 - whatever a policy of the user's does
        problem = f"the policy {control.policy.kind!r} failed: {type(error).__name__}: {error}"
        document.mistake(problem, ("control", "policy", "kind"))
        return
    _note_forbidden_evidence(document, "gradient_alignment", alignment_from)
    _note_forbidden_evidence(document, "source_value", value_from)
    if value_from is not None and evaluation.source_value.until < value_from:
        problem = f"evaluation.source_value.until ends before the policy first asks, at progress {value_from:g}"
        remedy = "Raise it, or lower the policy's warm_up"
        document.mistake(
            problem, ("evaluation", "source_value", "until"), got=evaluation.source_value.until, remedy=remedy
        )


def _note_forbidden_evidence(document: RecipeDocument, signal: str, needed_from: float | None) -> None:
    path: KeyPath = ("evaluation", signal, "enabled")
    if needed_from is not None and mapping_at(document.tree, path[:-1]).get("enabled") == "off":
        evidence = signal.replace("_", " ")
        problem = f"policy or guard need the {evidence} of the sources, and {dotted(path)} forbids to measure it"
        document.mistake(problem, path, got="off", remedy="Set it to auto, or choose a policy that does without")


def note_machine_mistakes(document: RecipeDocument, folder: Path) -> None:
    """Adds an engine that is not installed, data files that do not exist (paths are relative to ``folder``) and model
    keys that transformers refuses.
    """
    if document.tree.get("engine") == "lightning" and find_spec("pytorch_lightning") is None:
        remedy = "pip install 'hybrid-trainer[lightning]'"
        document.mistake("engine: Lightning is not installed", ("engine",), got="lightning", remedy=remedy)
    for path, source in _written_sources(document.tree):
        try:
            config = SourceConfig.model_validate(source)
        except ValidationError:
            continue  # noted already
        for place, segment in zip(_places(path, config), config.segments, strict=True):
            if segment.path is None or "://" in segment.path or (*place, "path") in document.mistaken:
                continue
            try:
                local_files(segment, folder)
            except UserError as error:
                problem = f"{dotted(place)}: {error.what}"
                advice = _of_the_pool(document, segment.path) or error.remedy
                document.mistake(problem, (*place, "path"), got=error.got or segment.path, remedy=advice)
            except OSError as error:  # a name that no file can have, a folder that may not be read
                problem, got = f"{dotted(place)}: {error.strerror}", segment.path[:LONGEST_QUOTED]
                document.mistake(problem, (*place, "path"), got=got)
    _note_model_mistakes(document)


def _of_the_pool(document: RecipeDocument, path: str) -> str | None:
    """What makes the files of a source that reads the pool of the recipe's own synthesis."""
    pool = mapping_at(document.tree, ("synthesis",)).get("pool")
    is_pool = isinstance(pool, str) and Path(path).is_relative_to(pool)
    return "Fill its pool with `trainer synthesize` first" if is_pool else None


def _places(path: KeyPath, source: SourceConfig) -> list[KeyPath]:
    """Where each segment of the source at ``path`` is written."""
    return [path, *((*path, "joins", index) for index in range(len(source.joins)))]


def _written_sources(tree: Any) -> list[tuple[KeyPath, Any]]:
    sources: list[tuple[KeyPath, Any]] = []
    for name, source in mapping_at(tree, ("data", "sources")).items():
        sources.append((("data", "sources", name), source))
    for part in ("validation", "test"):
        if own := mapping_at(tree, ("data", "held_out", part)):
            sources.append((("data", "held_out", part), own))
    return sources


def _note_model_mistakes(document: RecipeDocument) -> None:
    """Adds the keys of a model from scratch that its configuration class in transformers refuses, each of them."""
    model = dict(mapping_at(document.tree, ("model",)))
    keys = model["config"] = dict(mapping_at(model, ("config",)))
    sequence_length = number_at(document.tree, ("data", "sequence_length"))
    vocabulary_size = number_at(document.tree, ("data", "tokenizer", "train_bpe"))
    while True:
        try:
            config = ModelConfig.model_validate(model)
        except ValidationError:
            return  # noted already
        if config.pretrained is not None:
            return
        try:
            transformers_config(
                config, vocabulary_size=int(vocabulary_size or 32_768), sequence_length=int(sequence_length or 1)
            )
        except UserError as error:
            key = error.what.split(" ", 1)[0].removeprefix("model.config.")
            place: KeyPath = ("model", "config", key) if key in keys else ("model", "architecture")
            document.mistake(error.what, place, got=error.got, remedy=error.remedy)
            if keys.pop(key, None) is None:
                return
        else:
            return
