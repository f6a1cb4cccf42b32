"""What no part can check alone: whether the parts of a recipe agree with each other.

Names are compared on what was written, not on what was validated, so that a wrong number somewhere does not hide a wrong name
elsewhere: all mistakes are shown in one go.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.recipe.document import Document, KeyPath
from trainer.recipe.mistakes import nearest

if TYPE_CHECKING:
    from trainer.recipe import Recipe


def note_contradictions(document: Document, recipe: "Recipe | None") -> None:
    """Adds to ``document`` every contradiction between sections; those that need right values only if there are (``recipe``)."""
    kinds = _source_kinds(document.tree)
    if kinds:
        _note_shares(document, kinds)
        _note_unknown_names(document, ("mixture", "max_epochs"), kinds)
    _note_batch_and_steps(document)


def _mapping_at(tree: Any, path: KeyPath) -> dict[str, Any]:
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _number_at(tree: Any, path: KeyPath) -> float | None:
    value = _mapping_at(tree, path[:-1]).get(str(path[-1]))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _source_kinds(tree: Any) -> dict[str, Any]:
    """Kind of each source as written; None where it is missing."""
    sources = _mapping_at(tree, ("data", "sources"))
    return {name: source.get("kind") if isinstance(source, dict) else None for name, source in sources.items()}


def _note_shares(document: Document, kinds: Mapping[str, Any]) -> None:
    path: KeyPath = ("mixture", "shares")
    shares = _mapping_at(document.tree, path)
    _note_unknown_names(document, path, kinds)
    for name in kinds:
        if shares and name not in shares:
            remedy = f"Add `{name}: 0` to leave it out, or a share"
            document.mistake(f"source {name} has no share", path, remedy=remedy)
    if "real" not in kinds.values() and None not in kinds.values():
        document.mistake("no source is real", ("data", "sources"), remedy="Held-out data must be real: add a source with `kind: real`")


def _note_unknown_names(document: Document, path: KeyPath, kinds: Mapping[str, Any]) -> None:
    for name in _mapping_at(document.tree, path):
        if name not in kinds:
            document.mistake(f"{name} is no source", (*path, name), remedy=nearest(name, kinds))


def _note_batch_and_steps(document: Document) -> None:
    tree = document.tree
    micro, whole = _number_at(tree, ("training", "micro_batch")), _number_at(tree, ("mixture", "global_batch"))
    if micro is not None and whole is not None and micro > whole:
        remedy = f"At most mixture.global_batch, {whole}"
        document.mistake("training.micro_batch is larger than the global batch", ("training", "micro_batch"), got=micro, remedy=remedy)
    steps = _number_at(tree, ("training", "steps"))
    warmup = _number_at(tree, ("training", "schedule", "warmup_steps"))
    if steps is not None and warmup is not None and warmup >= steps:
        path = ("training", "schedule", "warmup_steps")
        document.mistake("training.schedule.warmup_steps leaves no step after the warm-up", path, got=warmup, remedy=f"Below training.steps, {steps}")
