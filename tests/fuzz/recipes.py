"""Recipes with mistakes: a good one, resolved so that every key is there, changed in one to four places."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

KeyPath = tuple[str | int, ...]

ODD_TEXTS = (
    "",
    " ",
    "x",
    "~nosuchuser/x",
    "~",
    ".",
    "..",
    "no/such/file.jsonl",
    "*",
    "[",
    "**/*.jsonl",
    "http://",
    "s3://",
    "memory://nothing",
    "nosuchscheme://x",
    "file:///no/such",
    "nosuch.module:Name",
    "json:dumps",
    "os:system",
    "trainer:",
    ":",
    "a.b:c.d",
    "__main__",
    "\x00",
    "a\x00b",
    "\x1b[2J",
    "\u202e",
    "🎈",
    "\ud7ff",
    "nan",
    "-1",
    "1e5",
    "null",
    "true",
    "no",
    "x" * 5000,
    "a\nb",
    "{x}",
    "%s",
    "quickstart",
    "auto",
    "off",
    "bert",
    "mixtral",
    "real",
    "synthetic",
    "(",
)
ODD_NUMBERS = (
    0,
    -0.0,
    1,
    -1,
    2,
    3,
    1.5,
    -2.5,
    0.1,
    1e-300,
    1e-12,
    1e300,
    1e16,
    math.inf,
    -math.inf,
    math.nan,
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    10**400,
    999_999,
)
ODD_OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"x": {"y": {"z": 1}}},
    [1, "two", {"three": 3}],
    [0] * 300,
    {"kind": "x"},
    {"kind": None},
    {"kind": ["constant"]},
    {f"key{i}": i for i in range(50)},
)
KEYS = (
    "",
    " ",
    "x",
    "kind",
    "path",
    "share",
    "lr",
    "batch_size",
    "0",
    "a.b",
    "extends",
    "🎈",
    "seed ",
    "Model",
    "model",
)


def paths(tree: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of everything in ``tree`` but its root."""
    children: Any = ()
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list):
        children = enumerate(tree)
    for key, child in children:
        yield (*path, key)
        yield from paths(child, (*path, key))


def at(tree: Any, path: KeyPath) -> Any:
    """What stands at ``path``."""
    for part in path:
        tree = tree[part]
    return tree


def _nested(value: Any, depth: int) -> Any:
    for number in range(depth):
        value = [value] if number % 2 else {"x": value}
    return value


odd_values = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_OTHERS).map(copy.deepcopy),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.integers(1, 90).map(lambda depth: _nested(0, depth)),
)


@st.composite
def mutated(draw: st.DrawFn, good: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``good`` with one to four changes."""
    tree = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 4))):
        everywhere = list(paths(tree))
        if not everywhere:
            return tree
        path = draw(st.sampled_from(everywhere))
        change = draw(st.sampled_from(_CHANGES))
        change(draw, tree, path, everywhere)
    return tree


Change = Callable[[st.DrawFn, dict[str, Any], KeyPath, list[KeyPath]], None]


def _replace(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    at(tree, path[:-1])[path[-1]] = draw(odd_values)


def _remove(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    del at(tree, path[:-1])[path[-1]]


def _add_key(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    around = at(tree, path[:-1])
    key = draw(st.one_of(st.sampled_from(KEYS), st.sampled_from([str(other[-1]) for other in everywhere])))
    if isinstance(around, dict):
        around[key] = draw(odd_values)
    else:
        around.append(draw(odd_values))


def _rename(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    around = at(tree, path[:-1])
    if isinstance(around, dict):
        name = str(path[-1])
        new = draw(st.sampled_from([name[:-1], name + "s", name.upper(), name.replace("_", "-"), name[::-1], *KEYS]))
        around[new] = around.pop(path[-1])


def _wrap(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    value = at(tree, path)
    at(tree, path[:-1])[path[-1]] = draw(st.sampled_from([[value], {"x": value}, str(value), {str(path[-1]): value}]))


def _move(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    """Writes over what stands there what stands elsewhere."""
    at(tree, path[:-1])[path[-1]] = copy.deepcopy(at(tree, draw(st.sampled_from(everywhere))))


def _shift(draw: st.DrawFn, tree: dict[str, Any], path: KeyPath, everywhere: list[KeyPath]) -> None:
    """Changes a number a little, or in sign or size."""
    value = at(tree, path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        factor = draw(st.sampled_from([-1, 0, 0.5, 2, 1.0000001, 1000]))
        at(tree, path[:-1])[path[-1]] = draw(st.sampled_from([value * factor, value + 1, value - 1]))
    else:
        _replace(draw, tree, path, everywhere)


_CHANGES: tuple[Change, ...] = (_replace, _replace, _replace, _shift, _shift, _remove, _add_key, _rename, _wrap, _move)
