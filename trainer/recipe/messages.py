"""Turns pydantic's errors into messages a user can act on: what is wrong, what was got, the nearest right name, what to
do.

A misspelt key is the mistake most often made and most often swallowed by trainers, so every unknown name is answered
with the nearest known one at that place, or with the section it belongs to.
"""

import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainer.base.seams import OpenUnion
from trainer.recipe.loading import LONGEST_QUOTED, KeyPath, RecipeDocument, dotted


def note_mistakes(error: ValidationError, model: type[BaseModel], document: RecipeDocument) -> None:
    """Adds a message to ``document`` for each thing wrong that has none yet; ``model`` is the whole recipe's.

    A section that is missing because its keys were written under other names, or because the recipe that has it was not
    found, is the same mistake.
    """
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_written_path(details, document.tree), []).append(details)
    noted = frozenset(document.mistaken)
    for path, errors in by_path.items():
        is_missing = errors[0]["type"] == "missing"
        is_excused = is_missing and (document.lacks_a_base or _is_above_any(path, noted))
        if path not in noted and not is_excused and not document.is_full:
            _note(path, errors, model, document, noted)


def _is_above_any(path: KeyPath, paths: Iterable[KeyPath]) -> bool:
    return any(other[: len(path)] == path for other in paths)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A remedy that names the nearest of ``choices``, or all of them when none is near."""
    names = sorted(set(choices))
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known here: {', '.join(names)}" if names else "No key is known here"


def _note(
    path: KeyPath,
    errors: list[ErrorDetails],
    model: type[BaseModel],
    document: RecipeDocument,
    noted: frozenset[KeyPath],
) -> None:
    details = errors[0]
    kind, name = details["type"], dotted(path)
    got = _presentable(details["input"])
    if kind == "extra_forbidden":
        around = fields_at(model, details["loc"][:-1])
        remedy = _other_home(path, model) or _transformers_key(path, around) or nearest(str(path[-1]), around)
        document.mistake(f"unknown key {name}", path, got=got, remedy=remedy)
    elif kind == "missing":
        field = fields_at(model, details["loc"][:-1]).get(str(path[-1]))
        remedy = f"Add `{path[-1]}:` ({field})" if field else f"Add `{path[-1]}:`"
        document.mistake(f"{name} is missing", path, remedy=remedy)
    elif kind == "union_tag_invalid":
        choices = [tag.strip(" '") for tag in str(details["ctx"]["expected_tags"]).split(",")]
        tag_path = (*path, str(details["ctx"]["discriminator"]).strip("'"))
        tag = str(details["ctx"]["tag"])
        document.mistake(
            f"{dotted(tag_path)} is none of {', '.join(choices)}", tag_path, got=tag, remedy=nearest(tag, choices)
        )
    elif kind == "union_tag_not_found":
        tag = str(details["ctx"]["discriminator"]).strip("'")
        document.mistake(f"{name} does not say which `{tag}` it is", path, remedy=f"Add `{tag}:`")
    elif kind in ("literal_error", "enum"):
        choices = [word.strip(" '") for word in str(details["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        remedy = nearest(str(details["input"]), choices)
        document.mistake(f"{name} is none of {', '.join(choices)}", path, got=got, remedy=remedy)
    elif kind in ("value_error", "assertion_error"):
        _note_broken_rule(path, details, document, noted)
    else:
        expected = " or ".join(dict.fromkeys(_wanted(error["msg"]) for error in errors))
        quoted = _written_in_quotes(details["input"], kind)
        null = " (got null)" if details["input"] is None else ""
        document.mistake(f"{name} {expected}{null}", path, got=got, remedy=quoted)


def _note_broken_rule(
    path: KeyPath, details: ErrorDetails, document: RecipeDocument, noted: frozenset[KeyPath]
) -> None:
    """A rule of a section's own, unless the checks between sections have noted the same with the right line."""
    message = str(details["ctx"]["error"]) if "ctx" in details else details["msg"]
    meant = _meant(path, message, document)
    is_about_the_whole = meant == path
    if meant in noted or (is_about_the_whole and _is_above_any(path, noted)):
        return
    name = dotted(path)
    document.mistake(f"{name}: {message}" if name else message, meant)


def _wanted(message: str) -> str:
    """pydantic's message as the end of a sentence: `Input should be ...` becomes `should be ...`."""
    subject, should, rest = message.partition(" should ")
    return f"should {rest}" if should and " " not in subject else message


def _written_in_quotes(value: Any, kind: str) -> str | None:
    if not isinstance(value, str) or kind not in ("int_type", "float_type", "bool_type"):
        return None
    try:
        float(value)
    except ValueError:
        return None
    return "Write it without quotes"


def _presentable(value: Any) -> object:
    """The wrong value if it is short enough to be read in a message, else None."""
    return value if value is not None and len(repr(value)) <= LONGEST_QUOTED else None


def _value_at(tree: Any, path: KeyPath) -> Any:
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _written_path(details: ErrorDetails, tree: Any) -> KeyPath:
    """pydantic's location without what is not written in the recipe: tags of unions and names of types."""
    path: list[str | int] = []
    current = tree
    for depth, part in enumerate(details["loc"]):
        is_last = depth == len(details["loc"]) - 1
        is_key = isinstance(current, dict) and part in current
        is_index = isinstance(current, list) and isinstance(part, int) and part < len(current)
        if is_key or is_index:
            current = current[part]
            path.append(part)
        elif is_last and details["type"] == "missing":
            path.append(part)
    return tuple(path)


def _meant(path: KeyPath, message: str, document: RecipeDocument) -> KeyPath:
    """The key a rule's message opens with (`shares.wikipedia must ...`), so that the message points at its line."""
    parts = message.split(" ", 1)[0].rstrip(":,").split(".")
    current = _value_at(document.tree, path)
    for part in parts:
        if isinstance(current, list) and part.isdecimal() and int(part) < len(current):
            current, path = current[int(part)], (*path, int(part))
        elif isinstance(current, dict) and part in current:
            current, path = current[part], (*path, part)
        else:
            break
    return path


def _other_home(path: KeyPath, model: type[BaseModel]) -> str | None:
    """Where a key of a section, or of no section, belongs if another section knows it."""
    if len(path) > 2:
        return None
    homes = [name for name in model.model_fields if name != path[0] and str(path[-1]) in fields_at(model, (name,))]
    return f"It belongs under `{homes[0]}:`" if homes else None


def _transformers_key(path: KeyPath, around: Mapping[str, str]) -> str | None:
    """A remedy for what is probably a key of transformers, which stand one level deeper."""
    if path[:-1] != ("model",) or get_close_matches(str(path[-1]), around, n=1, cutoff=0.8):
        return None
    return f"Keys of transformers stand under `model.config:`: write `model.config.{path[-1]}`"


def fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> dict[str, str]:
    """Names and descriptions of the keys known at a location of pydantic's, followed through unions, mappings and
    lists.
    """
    candidates: list[Any] = [model]
    for part in location:
        candidates = _step(candidates, part)
    models = [candidate for candidate in candidates if isinstance(candidate, type) and issubclass(candidate, BaseModel)]
    return {
        field.alias or name: field.description or ""
        for candidate in models
        for name, field in candidate.model_fields.items()
    }


def _step(candidates: list[Any], part: str | int) -> list[Any]:
    inner: list[Any] = []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            if part in candidate.model_fields:
                field = candidate.model_fields[str(part)]
                inner += _members(field.annotation) + _from_outside(field.metadata)
        elif get_origin(candidate) is not None and get_args(candidate):
            inner += _members(get_args(candidate)[-1 if get_origin(candidate) is dict else 0])
    # What is not a key is the tag of a union: it says which of the candidates is meant.
    return inner or [candidate for candidate in candidates if _has_tag(candidate, part)] or candidates


def _has_tag(candidate: Any, tag: str | int) -> bool:
    if not (isinstance(candidate, type) and issubclass(candidate, BaseModel)):
        return False
    literals = [
        get_args(field.annotation)
        for field in candidate.model_fields.values()
        if get_origin(field.annotation) is Literal
    ]
    return candidate.__name__ == tag or any(tag in values for values in literals)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0]) + _from_outside(get_args(annotation)[1:])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _members(part)]
    return [annotation]


def _from_outside(metadata: Iterable[Any]) -> list[Any]:
    """Configuration classes of parts from outside that a section of an open union was written for."""
    return [model for mark in metadata if isinstance(mark, OpenUnion) for model in mark.outside_models()]
