"""Whether the filters that a recipe names can be made on this machine: their packages, and what these say of them."""

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.data.filters import FILTERS, FilterChain, FilterConfig
from trainer.recipe.loading import KeyPath, RecipeDocument, dotted, mapping_at


def note_filter_mistakes(document: RecipeDocument) -> None:
    """Adds every built-in filter that cannot be made: a package is missing, or refuses what is asked of it."""
    adapter: TypeAdapter[Any] = TypeAdapter(FilterConfig)
    for path in _written_filters(document.tree):
        section = mapping_at(document.tree, path[:-1]).get(str(path[-1]))
        for number, keys in enumerate(section if isinstance(section, list) else []):
            if not isinstance(keys, dict) or str(keys.get("kind")) not in FILTERS.builtin:
                continue  # of one from outside nobody knows what it costs to make it
            try:
                FilterChain([adapter.validate_python(keys)])
            except ValidationError:
                continue  # noted already
            except UserError as error:
                place = (*path, number)
                problem = f"{dotted(place)}: {error.what}"
                document.mistake(problem, place, got=error.got, remedy=error.remedy)


def _written_filters(tree: Any) -> Iterator[KeyPath]:
    yield ("data", "filters")
    yield ("synthesis", "filters")
    for name in mapping_at(tree, ("data", "sources")):
        yield ("data", "sources", name, "filters")
    for part in ("validation", "test"):
        yield ("data", "held_out", part, "filters")
