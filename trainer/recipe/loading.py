"""Reads a recipe's text into plain values and remembers where each of them was written.

YAML is read by ruamel.yaml, which follows YAML 1.2: `1e-3` is a number and `no` is a word there, while the older rules
read a string and `false`, two mistakes that a training run shows only hours later. Values are built from the node tree
and not by a loader: a duplicate key must be one mistake among the others, and every loader either stops at it or keeps
silent about it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from trainer.base.errors import UserError
from trainer.recipe.nodes import MAX_DEPTH, compose

KeyPath = tuple[str | int, ...]
Tree = dict[str, Any]
LONGEST_QUOTED = 80  # characters of a wrong value worth repeating
LARGEST_NUMBER = 2**63
MAX_MISTAKES = 50  # shown: more are one mistake, made by a program
_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
_TEXT_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "timestamp"))
_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # tab and line ends may be meant


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
        if self.is_full:
            return
        self.mistakes.append(UserError(what, got=got, remedy=remedy, file=place.file, line=place.line))

    @property
    def is_full(self) -> bool:
        """Whether there are as many mistakes as anybody reads."""
        return len(self.mistakes) >= MAX_MISTAKES

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
    node = compose(text, file=place.file, has_lines=True)
    if not isinstance(node, MappingNode):
        raise UserError(
            "the recipe has no keys", remedy="Write `name: ...` and so on, one key a line", file=path, line=1
        )
    document.tree = _value_of(node, (), document, place, ())
    return document, text


def read_mapping(values: Mapping[str, Any], folder: Path) -> RecipeDocument:
    """A recipe that was given as a mapping; its relative paths start at ``folder``."""
    document = RecipeDocument(places={(): Place("recipe", folder=folder)})
    document.tree = _plain(values, (), document)
    return document


def apply_override(override: str, document: RecipeDocument, folder: Path) -> None:
    """Puts the value of one `a.b=c` into the tree; everything below it has that `--set` for its place."""
    place = Place(f"--set {override}", folder=folder)
    key, equals, text = override.partition("=")
    path: KeyPath = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        document.mistakes.append(UserError("not of the form a.b=c", got=override, file=place.file))
        return
    try:
        node = compose(text, file=place.file, has_lines=False)
    except UserError as error:
        document.mistakes.append(error)
        return
    container = _container(path, document, place)
    if container is None:
        return
    document.forget_below(path)
    document.places[path] = place
    container[path[-1]] = None if node is None else _value_of(node, path, document, place, ())


def _plain(value: Any, path: KeyPath, document: RecipeDocument) -> Any:
    """A copy with dicts, lists, texts and numbers in place of other mappings, tuples, paths and numbers of numpy."""
    if len(path) > MAX_DEPTH:
        raise UserError(
            "this is larger than a recipe can be", got=dotted(path[:3]), remedy=f"At most {MAX_DEPTH} levels"
        )
    if isinstance(value, Mapping):
        return {str(key): _plain(item, (*path, str(key)), document) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), document) for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    return _checked(value.item() if isinstance(value, np.generic) else value, path, document)


def _value_of(node: Node, path: KeyPath, document: RecipeDocument, file: Place, around: tuple[int, ...]) -> Any:
    """Plain values below ``node``; ``around`` are the nodes it stands in, since an alias may point to one of them."""
    if id(node) in around:
        document.mistake(f"{dotted(path)} is an alias of something that contains it", path)
        return None
    around = (*around, id(node))
    if not isinstance(node, ScalarNode) and node.tag not in _COLLECTION_TAGS:
        _note_tag(node, path, document)
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
    return _plain_value(node, path, document)


def _plain_value(node: Node, path: KeyPath, document: RecipeDocument) -> Any:
    """The number, truth value or text of a scalar; None and a mistake for what no setting can be."""
    if node.tag not in _PLAIN_TAGS:
        if node.tag not in _TEXT_TAGS:
            _note_tag(node, path, document)
        return _checked(str(node.value), path, document)
    try:
        value = YAML(typ="safe", pure=True).constructor.construct_object(node)
    except Exception:  # noqa: BLE001 - of a tag that does not fit, or a number of ten thousand digits
        kind = node.tag.rpartition(":")[2]
        document.mistake(f"{dotted(path)} is not of the YAML kind {kind}", path, got=str(node.value)[:LONGEST_QUOTED])
        return None
    return _checked(value, path, document)


def _checked(value: Any, path: KeyPath, document: RecipeDocument) -> Any:
    """The value; None and a mistake for a number that is not finite and for a text that no setting can be."""
    if isinstance(value, float) and not math.isfinite(value):
        document.mistake(f"{dotted(path)} should be a finite number", path, got=value)
        return None
    if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
        document.mistake(f"{dotted(path)} is larger than any setting can be", path)
        return None
    if isinstance(value, str) and (match := _UNPRINTABLE.search(value)):
        document.mistake(f"{dotted(path)} holds a control character", path, got=match[0])
        return None
    return value


def _note_tag(node: Node, path: KeyPath, document: RecipeDocument) -> None:
    what = f"{dotted(path)} carries a YAML tag" if path else "the recipe carries a YAML tag"
    document.mistake(what, path, got=str(node.tag), remedy="Write the plain value")


def _entries(node: MappingNode, path: KeyPath, document: RecipeDocument, file: Place) -> Iterator[tuple[str, Node]]:
    """Keys and value nodes of a mapping; a key that is not text, comes twice or merges is a mistake and left out."""
    first_places: dict[str, Place] = {}
    for key_node, child in node.value:
        place = file.at(key_node)
        is_plain = isinstance(key_node, ScalarNode) and key_node.tag in (*_PLAIN_TAGS, *_TEXT_TAGS)
        if not is_plain or _UNPRINTABLE.search(str(key_node.value)):
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
