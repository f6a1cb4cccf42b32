"""From YAML text to a tree of nodes that is worth reading: of bounded size and depth, whatever was written.

A few hundred bytes of YAML can stand for millions of values (aliases of aliases) or nest deeper than Python can
recurse. Both are found in the stream of events, before a tree is built.
"""

from collections.abc import Iterable

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, NodeEvent
from ruamel.yaml.nodes import Node

from trainer.base.errors import UserError

MAX_CHARACTERS = 1_000_000  # of a file; a recipe of 300 sources with every default written out has 300 kB
MAX_VALUES = 30_000  # keys and values, those behind aliases counted wherever they stand
MAX_DEPTH = 30  # collections inside each other; ours is 7 deep


def compose(text: str, *, file: str, has_lines: bool) -> Node | None:
    """The node of the text's one document; ``UserError`` where it is not YAML or larger than a recipe can be."""
    if len(text) > MAX_CHARACTERS:
        raise _too_large(f"{len(text):,} characters", f"{MAX_CHARACTERS:,}", file, None)
    try:
        _check_bounds(YAML(typ="safe", pure=True).parse(text), file)
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None and has_lines else None
        problem = " ".join(part.strip() for part in (error.context, error.problem) if part)
        raise UserError(f"not valid YAML: {problem}", file=file, line=line) from error
    except YAMLError as error:
        raise UserError(f"not valid YAML: {error}", file=file) from error
    except RecursionError:
        raise _too_large("brackets or lines too deep", f"{MAX_DEPTH} levels", file, None) from None
    return node


def _check_bounds(events: Iterable[Event], file: str) -> None:
    """``UserError`` at the first of the events that goes beyond a bound."""
    depth, total = 0, 0
    sizes: dict[str, int] = {}  # values in what an anchor names
    begun: list[tuple[str | None, int]] = []  # anchor of each open collection, values before it
    for event in events:
        if isinstance(event, AliasEvent):
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, NodeEvent):
            total += 1
            if isinstance(event, CollectionStartEvent):
                depth += 1
                begun.append((event.anchor, total - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
            anchor, before = begun.pop()
            if anchor:
                sizes[anchor] = total - before
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise _too_large(f"more than {MAX_DEPTH} levels", f"{MAX_DEPTH} levels", file, line)
        if total > MAX_VALUES:
            raise _too_large(f"more than {MAX_VALUES:,} values", f"{MAX_VALUES:,} values", file, line)


def _too_large(got: str, most: str, file: str, line: int | None) -> UserError:
    return UserError("this is larger than a recipe can be", got=got, remedy=f"At most {most}", file=file, line=line)
