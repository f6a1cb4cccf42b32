"""From what was written to what is meant: `extends`, shares written with their sources, paths relative to a file."""

from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.base.paths import expanded
from trainer.base.records import SHARE_ONE
from trainer.mixture.config import AUTO
from trainer.mixture.shares import rounded
from trainer.recipe.loading import LONGEST_QUOTED, KeyPath, Place, RecipeDocument, Tree, dotted, mapping_at, read_file
from trainer.recipe.shipped import shipped_path

EXTENDS = "extends"
SHARE = "share"
MOST_EXTENDED = 20  # recipes under each other


def resolve_extends(document: RecipeDocument, files: tuple[Path, ...] = ()) -> None:
    """Puts the recipe that ``document`` extends under it, and what that one extends under that.

    ``files`` are those that led here: a file among them again is a mistake. Mappings are merged key by key; lists and
    plain values replace; `null` removes the key, which then has its default; a mapping of another `kind` replaces the
    whole, since the keys of the one mean nothing to the other.
    """
    if EXTENDS not in document.tree:
        return
    base = document.tree.pop(EXTENDS)
    place = document.place((EXTENDS,))
    path: KeyPath = (EXTENDS,)
    if not isinstance(base, str):
        document.lacks_a_base = True
        document.mistake("extends is not the path or name of a recipe", path, got=base)
        return
    try:
        file = _extended_file(base, place.folder)
    except UserError as error:
        document.lacks_a_base = True
        document.mistake(f"extends: {error.what}", path, got=error.got, remedy=error.remedy)
        return
    if len(files) > MOST_EXTENDED:
        document.mistake(f"extends goes over more than {MOST_EXTENDED} recipes", path, got=base)
        return
    if file in files:
        chain = " -> ".join(step.name for step in (*files[files.index(file) :], file))
        document.lacks_a_base = True
        document.mistake(f"extends goes in a circle: {chain}", path, remedy="Remove one of them")
        return
    below, _ = read_file(file)
    resolve_extends(below, (*files, file))
    document.tree = _merged(below, document, below.tree, document.tree, ())
    document.places = {**below.places, **document.places}
    document.mistakes += below.mistakes
    document.mistaken |= below.mistaken
    document.lacks_a_base = below.lacks_a_base


def _extended_file(given: str, folder: Path) -> Path:
    """A file, with or without its suffix, alongside the recipe that names it; else a shipped recipe."""
    for name in (given, f"{given}.yaml"):
        path = folder / expanded(name)
        if path.is_file():
            return path.resolve()
    return shipped_path(given).resolve()


def _merged(below: RecipeDocument, document: RecipeDocument, old: Any, new: Any, path: KeyPath) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)) or _is_another_kind(old, new):
        below.forget_below(path)
        return new
    merged = dict(old)
    for key, value in new.items():
        key_path = (*path, key)
        if value is None and key in old:
            del merged[key]
            below.forget_below(key_path)
            document.forget_below(key_path)
        else:
            merged[key] = _merged(below, document, old[key], value, key_path) if key in old else value
    return merged


def _is_another_kind(old: Tree, new: Tree) -> bool:
    return "kind" in old and "kind" in new and old["kind"] != new["kind"]


def resolve_shares(document: RecipeDocument) -> None:
    """Moves the shares written with the sources to `mixture.shares`, the one form that decisions refer to.

    All sources have one or none has; together with `mixture.shares` there would be two answers. `shares: auto` are
    equal shares until the data are prepared.
    """
    sources = document.mapping_at(("data", "sources"))
    mixture = document.tree.get("mixture")
    if isinstance(mixture, dict) and mixture.get("shares") == AUTO and sources:
        equal = rounded(dict.fromkeys(sources, 1.0), step=1)  # until the data are prepared
        mixture["shares"] = {name: share / SHARE_ONE for name, share in equal.items()}
        mixture["from_prior_values"] = True
    with_share = [name for name, source in sources.items() if mapping_at(source, ()).get(SHARE) is not None]
    if not with_share:
        return
    mixture_shares = mapping_at(document.tree, ("mixture", "shares"))
    shares_path: KeyPath = ("mixture", "shares")
    places = {name: document.place(("data", "sources", name, SHARE)) for name in with_share}
    shares = {name: sources[name].pop(SHARE) for name in with_share}
    if mixture_shares:
        problem = "the shares are written twice: with the sources and in mixture.shares"
        document.mistake(problem, shares_path, got=", ".join(with_share), remedy="Keep those with the sources")
        return
    without = [name for name in sources if name not in shares]
    if without and shares_path not in document.mistaken:
        first = without[0]
        problem = f"{'sources' if len(without) > 1 else 'source'} {', '.join(without)} without a share"
        remedy = "Give each source a `share`; 0 leaves it out"
        document.mistake(problem, ("data", "sources", first), remedy=remedy)
        document.mistaken.add(shares_path)
    mixture = document.tree.setdefault("mixture", {})
    if isinstance(mixture, dict):
        mixture["shares"] = shares
        document.places[shares_path] = _first_of(places, document)
        document.places |= {(*shares_path, name): place for name, place in places.items()}


def _first_of(places: dict[str, Place], document: RecipeDocument) -> Place:
    return document.places.get(("data", "sources"), next(iter(places.values())))


def resolve_paths(document: RecipeDocument) -> None:
    """Makes every local path absolute, from the file that wrote it: the copy in a run folder means the same files."""
    data: KeyPath = ("data",)
    for path in [(*data, "sources", name) for name in document.mapping_at((*data, "sources"))]:
        _anchor_rows(document, path)
    for part in ("validation", "test"):
        _anchor_rows(document, (*data, "held_out", part))
    _anchor_rows(document, (*data, "machine_text", "real"))
    _anchor_rows(document, (*data, "machine_text"))
    _anchor(document, (*data, "cache"))
    for key in (("pool",), ("generator", "path"), ("generator", "cache")):
        _anchor(document, ("synthesis", *key))
    for path in (
        ("model", "pretrained"),
        (*data, "tokenizer", "pretrained"),
        (*data, "teacher", "model"),
        ("synthesis", "generator", "model"),
    ):
        _anchor(document, path, only_folders=True)
    graders = _value_at(document.tree, ("synthesis", "graders"))
    for index in range(len(graders) if isinstance(graders, list) else 0):
        _anchor(document, ("synthesis", "graders", index, "model", "cache"))
        for path in (("synthesis", "graders", index, "model"), ("synthesis", "graders", index, "model", "model")):
            _anchor(document, path, only_folders=True)


def _anchor_rows(document: RecipeDocument, path: KeyPath) -> None:
    """Anchors the `path` of the rows at ``path`` and of every further segment in a list below it."""
    rows = _value_at(document.tree, path)
    if not isinstance(rows, dict):
        return
    if not rows.get("package"):
        _anchor(document, (*path, "path"))
    for key, value in rows.items():
        for index in range(len(value) if isinstance(value, list) else 0):
            _anchor_rows(document, (*path, key, index))


def _anchor(document: RecipeDocument, path: KeyPath, *, only_folders: bool = False) -> None:
    container = _value_at(document.tree, path[:-1])
    value = container.get(path[-1]) if isinstance(container, dict) else None
    if not isinstance(value, str) or not value or "://" in value:
        return
    try:
        absolute = document.place(path).folder / expanded(value)
        if not only_folders or absolute.is_dir():  # what is not a folder is an id on the hub
            container[path[-1]] = str(absolute)
    except UserError as error:
        document.mistake(f"{dotted(path)}: {error.what}", path, got=error.got, remedy=error.remedy)
    except OSError as error:  # a name that no file can have
        document.mistake(f"{dotted(path)}: {error.strerror}", path, got=value[:LONGEST_QUOTED])


def _value_at(tree: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int):
            tree = tree[part]
        else:
            return None
    return tree
