"""Reads a recipe's text into plain values and remembers where each of them was written.

YAML is read by ruamel.yaml, which follows YAML 1.2: `1e-3` is a number and `no` is a word there, while the older rules
read a string and `false`, two mistakes that a training run shows only hours later. Values are built from the node tree
and not by a loader: a duplicate key must be one mistake among the others, and every loader either stops at it or keeps
silent about it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from trainer.base.errors import UserError

KeyPath = tuple[str | int, ...]
Tree = dict[str, Any]
_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
_TEXT_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp"))


@dataclass(frozen=True)
class Place:
    """Where a value was written: a line of a file, or the text of a `--set`; relative paths start at ``folder``."""

    file: str
    line: int | None = None
    folder: Path = Path()

    def at(self, node: Node) -> "Place":
        """The place of a node of this file; a `--set` has no lines."""
        return self if self.is_override else Place(self.file, node.start_mark.line + 1, self.folder)

    @property
    def is_override(self) -> bool:
        """Whether the value comes from the command line."""
        return self.file.startswith("--set")


@dataclass
class RecipeDocument:
    """Plain values, the place of each, the mistakes so far, and the paths they are about."""

    tree: Tree = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[UserError] = field(default_factory=list)
    mistaken: set[KeyPath] = field(default_factory=set)
    lacks_a_base: bool = False  # the recipe that it extends was not found: what is missing may be there

    def place(self, path: KeyPath) -> Place:
        """The place of ``path``, or of the nearest thing around it that was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place("recipe")

    def mistake(self, what: str, path: KeyPath, *, got: object = None, remedy: str | None = None) -> None:
        """Notes a mistake at ``path``; reading continues, so that all of them are shown together."""
        place = self.place(path)
        self.mistaken.add(path)
        self.mistakes.append(UserError(what, got=got, remedy=remedy, file=place.file, line=place.line))

    def mapping_at(self, path: KeyPath) -> Tree:
        """The mapping at ``path`` as written; empty where there is none."""
        return mapping_at(self.tree, path)

    def forget_below(self, path: KeyPath) -> None:
        """Drops the places of ``path`` and of everything below it."""
        for place in [place for place in self.places if place[: len(path)] == path]:
            del self.places[place]


def mapping_at(tree: Any, path: KeyPath) -> Tree:
    """The mapping at ``path`` of ``tree``; empty where there is none."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def number_at(tree: Any, path: KeyPath) -> float | None:
    """The number at ``path`` of ``tree``; None where there is none."""
    value = mapping_at(tree, path[:-1]).get(str(path[-1]))
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether the value is a number; `true` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def dotted(path: KeyPath) -> str:
    """A path as a user would write it after `--set`: `training.steps`."""
    return ".".join(str(part) for part in path)


def read_file(path: Path) -> tuple[RecipeDocument, str]:
    """The values of the recipe at ``path``, and its text.

    UserError when the file cannot be read or is not YAML; what is wrong inside is in ``RecipeDocument.mistakes``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "Give the path of a recipe; `trainer recipes` lists the shipped ones"
        raise UserError(f"the recipe cannot be read: {error.strerror}", remedy=remedy, file=path) from error
    except UnicodeDecodeError as error:
        raise UserError(
            "the recipe is not UTF-8 text", got=error.reason, remedy="Save it as UTF-8", file=path
        ) from error
    place = Place(str(path), folder=path.resolve().parent)
    document = RecipeDocument(places={(): Place(str(path), 1, place.folder)})
    node = _compose(text, place)
    if not isinstance(node, MappingNode):
        raise UserError(
            "the recipe has no keys", remedy="Write `name: ...` and so on, one key a line", file=path, line=1
        )
    document.tree = _value_of(node, (), document, place, ())
    return document, text


def read_mapping(values: Mapping[str, Any], folder: Path) -> RecipeDocument:
    """A recipe that was given as a mapping; its relative paths start at ``folder``."""
    return RecipeDocument(tree=_plain(values), places={(): Place("recipe", folder=folder)})


def apply_override(override: str, document: RecipeDocument, folder: Path) -> None:
    """Puts the value of one `a.b=c` into the tree; everything below it has that `--set` for its place."""
    place = Place(f"--set {override}", folder=folder)
    key, equals, text = override.partition("=")
    path: KeyPath = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        document.mistakes.append(UserError("not of the form a.b=c", got=override, file=place.file))
        return
    try:
        node = _compose(text, place)
    except UserError as error:
        document.mistakes.append(error)
        return
    container = _container(path, document, place)
    if container is None:
        return
    document.forget_below(path)
    document.places[path] = place
    container[path[-1]] = None if node is None else _value_of(node, path, document, place, ())


def _plain(value: Any) -> Any:
    """A copy with dicts, lists, texts and numbers in place of other mappings, tuples, paths and numbers of numpy."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def _compose(text: str, place: Place) -> Node | None:
    reader = YAML(typ="safe", pure=True)
    try:
        node: Node | None = reader.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None and not place.is_override else None
        problem = " ".join(part.strip() for part in (error.context, error.problem) if part)
        raise UserError(f"not valid YAML: {problem}", file=place.file, line=line) from error
    except YAMLError as error:
        raise UserError(f"not valid YAML: {error}", file=place.file) from error
    return node


def _value_of(node: Node, path: KeyPath, document: RecipeDocument, file: Place, around: tuple[int, ...]) -> Any:
    """Plain values below ``node``; ``around`` are the nodes it stands in, since an alias may point to one of them."""
    if id(node) in around:
        document.mistake(f"{dotted(path)} is an alias of something that contains it", path)
        return None
    around = (*around, id(node))
    if isinstance(node, MappingNode):
        values: Tree = {}
        for key, child in _entries(node, path, document, file):
            values[key] = _value_of(child, (*path, key), document, file, around)
        return values
    if isinstance(node, SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            document.places[(*path, index)] = file.at(child)
            items.append(_value_of(child, (*path, index), document, file, around))
        return items
    if node.tag in _PLAIN_TAGS:
        return YAML(typ="safe", pure=True).constructor.construct_object(node)
    if node.tag not in _TEXT_TAGS:
        document.mistake(f"{dotted(path)} carries a YAML tag", path, got=node.tag, remedy="Write the plain value")
    return node.value


def _entries(node: MappingNode, path: KeyPath, document: RecipeDocument, file: Place) -> Iterator[tuple[str, Node]]:
    """Keys and value nodes of a mapping; a key that is not text, comes twice or merges is a mistake and left out."""
    first_places: dict[str, Place] = {}
    for key_node, child in node.value:
        place = file.at(key_node)
        if not isinstance(key_node, ScalarNode) or str(key_node.tag).endswith(":merge"):
            problem, remedy = "a key must be a plain word", "Write the keys out"
            document.mistakes.append(UserError(problem, remedy=remedy, file=place.file, line=place.line))
            continue
        key = str(key_node.value)
        if key in first_places:
            problem = f"{dotted((*path, key))} is written twice, first in line {first_places[key].line}"
            document.mistakes.append(UserError(problem, remedy="Keep one of them", file=place.file, line=place.line))
            continue
        first_places[key] = document.places[(*path, key)] = place
        yield key, child


def _container(path: KeyPath, document: RecipeDocument, place: Place) -> dict[str | int, Any] | None:
    """The mapping that holds the last part of ``path``, made where it is missing; None, and a mistake, if a value is in
    the way.
    """
    current: Any = document.tree
    for depth, part in enumerate(path[:-1]):
        if current.get(part) is None:
            current[part] = {}
            document.places[path[: depth + 1]] = place
        if not isinstance(current[part], dict):
            problem = f"{dotted(path[: depth + 1])} has no keys of its own"
            document.mistakes.append(UserError(problem, got=current[part], file=place.file))
            return None
        current = current[part]
    container: dict[str | int, Any] = current
    return container
