"""A takedown finds exactly what derives from its origin, through all generations, and nothing is made of it again."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthesis.pools import publish, record, row
from trainer.base.errors import UserError
from trainer.data.find import find_files
from trainer.data.source_config import SourceConfig
from trainer.synthesis.lineage import Origin, take_down, taken_down_origins
from trainer.synthesis.pool import Pool

DOCUMENTS = ["b1", "b2", "b3"]


@st.composite
def three_generations(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Rows of three generations, made of documents, of earlier rows, or of rows of their own generation."""
    generations: list[list[dict[str, Any]]] = []
    earlier: list[str] = []
    for number in (1, 2, 3):
        rows = []
        for place in range(draw(st.integers(1, 4))):
            document = draw(st.sampled_from(DOCUMENTS))
            made_of = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True)) if earlier else []
            parents = made_of or [f"books:{document}"]
            terms = draw(st.sampled_from(["MIT", "CC-BY-SA-4.0", "Apache-2.0 AND CC-BY-SA-4.0"]))
            found = row(f"{place}", number, source_id=document, parents=parents, license=terms)
            if made_of:
                found["source_id"] = draw(st.sampled_from(DOCUMENTS)) + "-other"  # only the parents tell
            rows.append(found)
            earlier.append(found["id"])
        generations.append(rows)
    return generations


def descends(name: str, rows: dict[str, dict[str, Any]], begins: set[str]) -> bool:
    """By walking up from the row: another way than that of the code."""
    return name in begins or any(parent in rows and descends(parent, rows, begins) for parent in rows[name]["parents"])


@given(generations=three_generations(), kind=st.sampled_from(["document", "row", "license", "source"]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_takedown_takes_all_that_derives_from_its_origin_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    generations: list[list[dict[str, Any]]],
    kind: str,
    data: st.DataObject,
) -> None:
    pool = Pool(tmp_path_factory.mktemp("pool"))
    for number, of_generation in enumerate(generations, start=1):
        publish(pool.folder, number, of_generation)
    rows = {found["id"]: found for of_generation in generations for found in of_generation}
    name = data.draw(st.sampled_from(sorted(rows)))
    if kind == "document":
        origin, begins = Origin(document="books:b1"), {key for key in rows if "books:b1" in rows[key]["parents"]}
    elif kind == "row":
        origin, begins = Origin(document=name), {name}
    elif kind == "license":
        origin = Origin(license="CC-BY-SA-4.0")
        begins = {key for key in rows if "CC-BY-SA-4.0" in rows[key]["license"]}
    else:
        origin, begins = Origin(source="books"), set(rows)
    expected = {key for key in rows if descends(key, rows, begins)}
    assert take_down(pool, origin, "asked").ids == expected
    found = find_files(SourceConfig(kind="synthetic", path=str(pool.rows)), pool.folder)
    assert found.taken_down == expected
    take_down(pool, origin, "asked again")
    assert len(pool.manifest().takedowns) == 1


def test_rows_that_came_after_a_takedown_are_found_by_the_next(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    publish(tmp_path, 1, [row("a")])
    take_down(pool, Origin(document="b1"), "")
    publish(tmp_path, 2, [row("late", 2, parents=["1-a"], source_id="x")])
    take_down(pool, Origin(document="b1"), "")
    assert pool.manifest().taken_down == {"1-a", "2-late"}


def test_a_stitched_row_goes_with_any_of_its_parts(tmp_path: Path) -> None:
    parts = [row("p"), row("q")]
    whole = row("whole", parents=["books:b1", "1-p", "1-q"])
    Pool(tmp_path).publish(record(1, 2, stitched=1), [whole], [], parts)
    assert take_down(Pool(tmp_path), Origin(document="1-q"), "").ids == {"1-q", "1-whole"}


def test_nothing_is_made_of_what_is_taken_down(tmp_path: Path) -> None:
    publish(tmp_path, 1, [row("a")])
    take_down(Pool(tmp_path), Origin(document="books:b1"), "")
    take_down(Pool(tmp_path), Origin(license="CC-BY-NC-4.0"), "")
    origins = taken_down_origins(Pool(tmp_path))
    assert [any(origin.is_of("books", name, "MIT") for origin in origins) for name in ("b1", "b2")] == [True, False]
    assert any(origin.is_of("other", "z", "MIT AND CC-BY-NC-4.0") for origin in origins)


def test_a_takedown_names_one_thing() -> None:
    with pytest.raises(UserError, match="names one thing"):
        Origin(document="a", source="b")
