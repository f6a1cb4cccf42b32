"""Seams: where a part that comes in kinds (policy, filter, reader, tracker, measurement) may come from outside.

A recipe names such a part by its ``kind``, which is one of

- a name of the built-in table,
- ``package.module:Name``, anything that can be imported,
- the name of an entry point of the group ``hybrid_trainer.<group>`` of an installed package.

A part from outside that is configured brings its own configuration class, as its attribute ``Config`` or ``config``:
a ``trainer.base.config.Config`` with a field ``kind: str``. ``OpenUnion`` makes pydantic validate a section with it::

    POLICIES: Seam[Policy] = Seam("policies", {"constant": constant, "priced": priced}, requires=("begin", "propose"))
    PolicyConfig = Annotated[ConstantConfig | PricedConfig, OpenUnion(POLICIES)]
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Generic, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.signatures import Arguments, misfit

T = TypeVar("T")
_BUILTIN, _OUTSIDE = "built-in", "outside"  # choices of an open union
OUTSIDE_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"  # package.module:Name


class Seam(Generic[T]):
    """The parts of one group by their kind: a built-in table, open to parts from outside.

    ``requires`` names the attributes that a part from outside must have, ``calls`` and ``methods`` how it and what it
    makes are called (see ``trainer.base.signatures``); ``noun`` is what one part is called in messages (by default the
    group's name without its plural).
    """

    def __init__(
        self,
        group: str,
        builtin: Mapping[str, T],
        *,
        requires: tuple[str, ...] = (),
        calls: Mapping[str, Arguments] | None = None,
        methods: Mapping[str, Arguments] | None = None,
        noun: str | None = None,
    ) -> None:
        self.group = f"hybrid_trainer.{group}"
        self.builtin = dict(builtin)
        self.requires, self.calls, self.methods = requires, calls or {}, methods or {}
        self.noun = noun or (f"{group[:-3]}y" if group.endswith("ies") else group.removesuffix("s"))
        self.loaded: dict[str, T] = {}  # from outside, by the kind that named them

    def kinds(self) -> tuple[str, ...]:
        """Every kind that can be named without an import path: the built-in ones, then installed entry points."""
        return (*self.builtin, *(name for name in self._entry_points() if name not in self.builtin))

    def resolve(self, kind: str) -> T:
        """The part of this ``kind``; ``UserError`` where there is none, or where it is not what a part has to be."""
        if kind in self.builtin:
            return self.builtin[kind]
        if kind not in self.loaded:
            self.loaded[kind] = self._checked(kind, self._load(kind))
        return self.loaded[kind]

    def config_of(self, kind: str) -> type[Config]:
        """The configuration class of a part from outside; ``UserError`` where it brings none that fits."""
        part = self.resolve(kind)
        config = getattr(part, "Config", None) or getattr(part, "config", None)
        if not (isinstance(config, type) and issubclass(config, Config) and "kind" in config.model_fields):
            remedy = "Give it an attribute Config: a subclass of trainer.base.config.Config with a field `kind: str`"
            raise UserError(f"the {self.noun} {kind!r} brings no configuration class", got=config, remedy=remedy)
        return config

    def _load(self, kind: str) -> object:
        if ":" in kind:
            return self._imported(kind)
        entry_point = self._entry_points().get(kind)
        if entry_point is None:
            near = get_close_matches(kind, self.kinds(), n=1, cutoff=0.6)
            remedy = (
                f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(self.kinds())}; or package.module:Name"
            )
            raise UserError(f"no {self.noun} of this kind", got=kind, remedy=remedy)
        return self._imported(entry_point.value)

    def _imported(self, path: str) -> object:
        module_name, _, name = path.partition(":")
        module_name, name = module_name.strip(), name.partition("[")[0].strip()
        if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
            remedy = "Write it as package.module:Name"
            raise UserError(f"not an import path of a {self.noun}", got=path, remedy=remedy)
        try:
            part: object = import_module(module_name)
        except Exception as error:  # whatever a module of the user's does when it is imported
            raise UserError(
                f"the {self.noun} {path!r} cannot be imported: {type(error).__name__}: {error}",
                remedy=_import_remedy(module_name, error),
            ) from error
        for attribute in name.split("."):
            if not hasattr(part, attribute):
                near = get_close_matches(attribute, dir(part), n=1)
                hint = f"Did you mean {near[0]!r}?" if near else None
                raise UserError(f"{module_name} has no {attribute!r}", got=path, remedy=hint)
            part = getattr(part, attribute)
        return part

    def _checked(self, kind: str, part: object) -> T:
        missing = [name for name in self.requires if not hasattr(part, name)]
        if missing:
            remedy = f"A {self.noun} has {', '.join(self.requires)}"
            raise UserError(f"the {self.noun} {kind!r} lacks {', '.join(missing)}", remedy=remedy)
        if (wrong := misfit(part, self.calls, self.methods)) is not None:
            what = f"the {self.noun} {kind!r} cannot be called as a {self.noun} is"
            raise UserError(what, got=wrong[0], remedy=f"Write it as {wrong[1]}")
        return cast(T, part)

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in _installed(group=self.group)}


class OpenUnion:
    """Annotation of a union of configurations by ``kind``: the built-in ones, strictly, or that of a part from outside.

    Mistakes in a section of an outside kind are reported by its own configuration class, at their own path.
    """

    def __init__(self, seam: Seam[Any]) -> None:
        self.seam = seam

    def outside_models(self) -> list[type[BaseModel]]:
        """The configuration classes of the parts from outside that were named so far."""
        return [self.seam.config_of(kind) for kind in self.seam.loaded]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        is_union = get_origin(source) is Union or type(source).__name__ == "UnionType"
        builtin = handler(Annotated[source, Field(discriminator="kind")] if is_union else source)
        # A choice, not a wrapping function: the built-in sections are then validated from JSON itself, where strict
        # validation takes a list for a tuple.
        return core_schema.tagged_union_schema(
            {_BUILTIN: builtin, _OUTSIDE: core_schema.with_info_plain_validator_function(self._validate)},
            self._choice,
            serialization=core_schema.wrap_serializer_function_ser_schema(self._serialize, info_arg=True),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = [name for name in self.seam.kinds() if name not in self.seam.builtin]
        kind: JsonSchemaValue = {"type": "string", "pattern": OUTSIDE_PATTERN, "description": "package.module:Name"}
        if names:
            kind = {"anyOf": [kind, {"enum": names}]}
        outside = {"type": "object", "properties": {"kind": kind}, "required": ["kind"], "title": "From outside"}
        builtin = handler(cast(Any, schema)["choices"][_BUILTIN])
        return {"anyOf": [builtin, outside]}

    def _choice(self, value: Any) -> str:
        kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
        is_outside = isinstance(kind, str) and kind not in self.seam.builtin
        return _OUTSIDE if is_outside else _BUILTIN

    def _validate(self, value: Any, info: ValidationInfo) -> Any:
        kind = value["kind"] if isinstance(value, Mapping) else value.kind
        if ":" not in kind and kind not in self.seam.kinds():
            raise _mistakes(kind, _unknown_kind(kind, self.seam.kinds()))
        try:
            config = self.seam.config_of(kind)
        except UserError as error:
            raise _mistakes(
                kind, InitErrorDetails(type="value_error", loc=("kind",), input=kind, ctx={"error": ValueError(error)})
            ) from error
        try:
            if info.mode == "json":  # a recipe: strict, and a list is a tuple only in JSON
                return config.model_validate_json(json.dumps(value), strict=True)
            return config.model_validate(value)
        except ValidationError as error:
            raise _mistakes(kind, *(_under(config.__name__, details) for details in error.errors())) from error

    def _serialize(self, value: Any, builtin: core_schema.SerializerFunctionWrapHandler, info: Any) -> Any:
        if getattr(value, "kind", None) in self.seam.builtin:
            return builtin(value)
        return value.model_dump(mode=info.mode, exclude_unset=info.exclude_unset)


def is_outside_kind(kind: object) -> bool:
    """Whether ``kind`` names a part from outside, whose section has keys of its own: an import path, or an installed
    entry point of any group.
    """
    if not isinstance(kind, str):
        return False
    return ":" in kind or any(point.group.startswith("hybrid_trainer.") for point in _installed(name=kind))


def _installed(**wanted: str) -> tuple[EntryPoint, ...]:
    """The entry points of installed packages of a ``group`` or a ``name``."""
    return _looked_for(cast(Callable[..., Iterable[EntryPoint]], entry_points), tuple(sys.path), **wanted)


@cache
def _looked_for(
    find: Callable[..., Iterable[EntryPoint]], places: tuple[str, ...], **wanted: str
) -> tuple[EntryPoint, ...]:
    """What ``find`` gives, looked for once in the ``places`` where Python looks: that opens a file of every package,
    which was half of a preparation when it was done for each data file.
    """
    return tuple(find(**wanted))


def _unknown_kind(kind: str, kinds: tuple[str, ...]) -> InitErrorDetails:
    expected = ", ".join(repr(name) for name in kinds)
    context = {"discriminator": "'kind'", "tag": kind, "expected_tags": expected}
    return InitErrorDetails(type="union_tag_invalid", input=kind, ctx=context)


def _under(tag: str, details: Any) -> InitErrorDetails:
    """One mistake of another validation as a mistake of this one; ``tag`` tells where its keys are declared."""
    kind, context = details["type"], details.get("ctx", {})
    if kind not in get_args(core_schema.ErrorType):
        kind, context = PydanticCustomError(kind, details["msg"]), {}
    return InitErrorDetails(type=kind, loc=(tag, *details["loc"]), input=details["input"], ctx=context)


def _mistakes(title: str, *details: InitErrorDetails) -> ValidationError:
    return ValidationError.from_exception_data(title, list(details))


def _import_remedy(module_name: str, error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return "Import it in a Python shell to see where it fails"
    if module_name == error.name or module_name.startswith(f"{error.name}."):
        return "Install the package, or run where Python finds it (PYTHONPATH)"
    return f"It needs {error.name!r}, which is not installed"
