"""The page reference/recipe.md: every key of a recipe, from the pydantic models that check it."""

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docsite.pages import code, table
from trainer.recipe import ALLOWED_ON_RESUME, Recipe

HEAD = """# Recipe

<!-- Written by `python -m docsite`; edit the descriptions in the code instead. -->

Every key of a recipe. A key without a default is **required**. Unknown keys are errors. `NAME` stands for a name of
your choice. Values are set on the command line with `--set`, for example `--set training.steps=200`.
The same as a JSON schema, for editors: `trainer recipes --schema`.
"""
PLAIN = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"}


@dataclass(frozen=True)
class Section:
    """One configuration: its path in the recipe, the model, and the ``kind`` that chooses it, if any."""

    path: str
    model: type[BaseModel]
    kind: str = ""

    @property
    def title(self) -> str:
        """Heading of the section."""
        return f"{self.path} (kind: {self.kind})" if self.kind else self.path


def page() -> str:
    """The page."""
    parts = [HEAD, f"## Top level\n\n{_first_sentence(Recipe)}\n\n{_keys(Recipe)}"]
    written: dict[type[BaseModel], str] = {}
    for section in _sections(Recipe, ""):
        level = "##" if "." not in section.path and not section.kind else "###"
        home = written.setdefault(section.model, section.title)
        if home == section.title:
            body = f"{_first_sentence(section.model)}\n\n{_keys(section.model)}"
        elif section.path.startswith(home) or any(section.path.startswith(f"{other}.") for other in _repeats(parts)):
            continue
        else:
            body = f"The keys of [{home}](#{_anchor(home)})."
        parts.append(f"{level} {section.title}\n\n{body}")
    parts.append(
        "## Keys that may change on resume\n\nEverything else must stay as it was; `trainer fit` shows the "
        "difference and refuses.\n\n" + "\n".join(f"- `{key}`" for key in ALLOWED_ON_RESUME)
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _repeats(parts: list[str]) -> list[str]:
    """Paths of the sections that only point to another one: what is below them is described there too."""
    return [part.split("\n")[0].lstrip("# ") for part in parts if "\n\nThe keys of [" in part]


def _anchor(title: str) -> str:
    """The anchor of a heading, as the site makes it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def _first_sentence(model: type[BaseModel]) -> str:
    lines = (model.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(lines.split()).replace("``", "`")


def _sections(model: type[BaseModel], path: str) -> Iterator[Section]:
    for name, field in model.model_fields.items():
        here = f"{path}.{_key(name, field)}" if path else _key(name, field)
        yield from _sections_of(field.annotation, here)


def _sections_of(annotation: Any, path: str) -> Iterator[Section]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = _kind(annotation)
        yield Section(path, annotation, kind)
        yield from _sections(annotation, path)
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _sections_of(arguments[0], path)
    elif origin in (dict, Mapping):
        yield from _sections_of(arguments[1], f"{path}.NAME")
    elif origin in (tuple, list):
        yield from _sections_of(arguments[0], f"{path}[]")
    elif origin in (Union, types.UnionType):
        for choice in arguments:
            yield from _sections_of(choice, path)


def _kind(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    if field is None or get_origin(field.annotation) is not Literal or len(get_args(field.annotation)) != 1:
        return ""
    return str(get_args(field.annotation)[0])


def _keys(model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        shown = _key(name, field)
        rows.append([code(shown), _type(field), _default(field), _meaning(field)])
    return table(["key", "type", "default", "meaning"], rows) if rows else "No keys."


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _meaning(field: FieldInfo) -> str:
    """The description; of a section without one, the first sentence of its configuration."""
    if field.description:
        return field.description
    models = [model for model in _models(field.annotation) if model.__doc__]
    return _first_sentence(models[0]) if len(models) == 1 else ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _type(field: FieldInfo) -> str:
    shown = shown_type(field.annotation)
    bounds = [words for item in field.metadata if (words := _bound(item))]
    return ", ".join([shown, *bounds])


def shown_type(annotation: Any) -> str:
    """A type in words."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return "section"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(code(member.value) for member in annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [words for item in arguments[1:] if (words := _bound(item))]
        return ", ".join([shown_type(arguments[0]), *bounds])
    if origin is Literal:
        return " or ".join(code(_yaml(choice)) for choice in arguments)
    if origin in (Union, types.UnionType):
        shown = dict.fromkeys(shown_type(choice) for choice in arguments)
        if {PLAIN[int], PLAIN[float]} <= shown.keys():
            del shown[PLAIN[int]]
        return " or ".join(shown)
    if origin in (tuple, list, Sequence):
        return f"list of {shown_type(arguments[0])}" if arguments else "list"
    if origin in (dict, Mapping):
        return f"NAME: {shown_type(arguments[1])}" if arguments else "mapping"
    return "any value" if annotation is Any else str(getattr(annotation, "__name__", annotation))


def _bound(item: Any) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}
    return ", ".join(f"{said} {getattr(item, name)}" for name, said in words.items() if _has(item, name))


def _has(item: Any, name: str) -> bool:
    return getattr(item, name, None) is not None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True) if _makes_alone(field) else PydanticUndefined
    if isinstance(value, BaseModel):
        kind = _kind(type(value))
        return f"kind {code(kind)}" if kind else "its defaults"
    return "" if value is PydanticUndefined else code(_yaml(value))


def _makes_alone(field: FieldInfo) -> bool:
    return field.default_factory is None or not field.default_factory_takes_validated_data


def _yaml(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"' if value in ("", "on", "off", "yes", "no") else value
    if isinstance(value, Path):
        return str(value)
    return json.dumps(value, default=lambda other: list(other) if isinstance(other, (tuple, frozenset)) else str(other))
