"""A pool as a table and in the formats of others, and the way from a row to the steps that used it."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.commands import Ended
from tests.synthesis.pools import publish, row
from trainer.base.errors import UserError
from trainer.synthesis.lineage import Origin, take_down
from trainer.synthesis.pool import Pool
from trainer.tools.audit import uses_of
from trainer.tools.pool.exports import exported
from trainer.tools.pool.listing import generations, listing
from trainer.tools.pool.uses import samples_of
from trainer.tools.run_view import open_run


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Three generations; one is quarantined, and a document is taken down."""
    folder = tmp_path / "pool"
    publish(folder, 1, [row("a"), row("b", source_id="b 2/ü", parents=["books:b 2/ü"])], cost=0.5)
    publish(folder, 2, [row("c", 2, source_id="x", parents=["1-b"])])
    publish(folder, 3, [row("d", 3)])
    Pool(folder).quarantine(3, by="guard", reason="worse")
    take_down(Pool(folder), Origin(document="books:b 2/ü"), "asked")
    return Pool(folder)


def test_the_list_tells_what_became_of_every_generation(pool: Pool) -> None:
    facts = generations(pool)
    assert [(one.requests, one.accepted, one.rows, one.taken_down, one.tokens, one.cost) for one in facts] == [
        (2, 2, 2, 1, 16, 0.5), (1, 1, 1, 1, 8, None), (1, 1, 1, 0, 8, None),
    ]  # fmt: skip
    assert [one.state for one in facts] == ["read", "read", "quarantined by guard: worse"]
    assert any("document books:b 2/ü (2 rows): asked" in line for line in listing(pool))


def test_prov_has_every_row_with_its_round_its_parents_and_its_end(pool: Pool) -> None:
    prov = pytest.importorskip("prov.model")
    document = prov.ProvDocument.deserialize(io.StringIO(exported(pool, "prov")), format="json")
    kinds = {
        kind: [tuple(str(value) for _, value in record.formal_attributes) for record in document.get_records(cls)]
        for kind, cls in (
            ("made", prov.ProvGeneration), ("derived", prov.ProvDerivation), ("ended", prov.ProvInvalidation),
            ("agents", prov.ProvAssociation),
        )
    }  # fmt: skip
    rows = {made[0]: made[1] for made in kinds["made"] if made[0].startswith("row:")}
    assert rows == {"row:1-a": "round:1", "row:1-b": "round:1", "row:2-c": "round:2", "row:3-d": "round:3"}
    derived = {(one[0], one[1]) for one in kinds["derived"]}
    assert ("row:2-c", "row:1-b") in derived
    assert ("row:1-b", "document:books%3Ab%202%2F%C3%BC") in derived
    ended = {one[0] for one in kinds["ended"]}
    assert ended == {"row:1-b", "row:2-c", "file:generation-0003.shard-0-of-1.parquet"}
    assert {one[1] for one in kinds["agents"]} == {"generator:writer%40w1"}
    assert exported(pool, "prov-n").startswith("document")


def test_croissant_reads_the_rows_by_its_own_tool(pool: Pool) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    file = pool.folder / "croissant.json"
    file.write_text(exported(pool, "croissant"))
    dataset = mlcroissant.Dataset(jsonld=str(file))
    assert len(dataset.metadata.record_sets) == 2, "the quarantined generation is not in it"
    assert "not to be used: 1-b, 2-c" in dataset.metadata.description
    name = "generation-0002.shard-0-of-1"
    (read,) = dataset.records(name)
    assert read[f"{name}/text"] == b"a text that is named c"
    assert read[f"{name}/parents"] == [b"1-b"]


def test_a_format_that_is_not_there_is_named(pool: Pool) -> None:
    with pytest.raises(UserError, match="prov, prov-n, croissant"):
        exported(pool, "rdf")


def test_from_a_row_to_its_steps_and_from_a_takedown_to_a_preparation_without_it(
    trainer: Callable[..., Ended], tiny_recipe: Path
) -> None:
    folder = tiny_recipe.parent
    long = "some words of a text that goes on for quite a while so that it fills a part of a sample by itself"
    rows = [row(f"n{place}", text=f"{place} {long} {place * 7}", source_id=f"r{place % 5}") for place in range(40)]
    for one in rows:
        one["parents"] = [f"real:{one['source_id']}"]
    publish(folder / "pool", 1, rows)
    sets = ["--set", "data.sources.good.path=pool/rows", "--set", "training.steps=3"]
    trainer("fit", tiny_recipe, "--run", folder / "run", *sets)
    run = open_run(folder / "run")
    data = run.prepared()
    assert data is not None
    samples = {key: names for key, names in samples_of(data, {"1-n7"}).items() if key[0] == "good"}
    expected = sorted({step for key in samples for step, _ in uses_of(run, key[0], key[2], key[1])})
    shown = json.loads(trainer("audit", folder / "run", "--sample", "pool:1-n7", "--json").stdout)
    assert sorted(map(int, shown["steps"])) == expected
    assert shown["row"]["generator"] == "writer"
    assert shown["row"]["parents"] == ["real:r2"]
    text = trainer("audit", folder / "run", "--sample", "pool:1-n7").stdout
    assert re.search(r"scores: quality 0.5", text)
    assert re.search(r"license: CC-BY-4.0", text)
    done = json.loads(trainer("takedown", folder / "run", "--document", "real:r2", "--json").stdout)
    taken = {f"1-n{place}" for place in range(2, 40, 5)}
    assert set(done["taken_down"][0]["rows"]) == taken
    assert done["steps"].get("1-n7", []) == expected
    assert "read, 8 taken down" in trainer("pool", folder / "pool").stdout
    prepared = trainer("fit", tiny_recipe, "--run", folder / "next", *sets)
    assert "8 taken down" in prepared.stdout + prepared.stderr
    after = open_run(folder / "next").prepared()
    assert after is not None
    segment = after.sources["good"].segments[0]
    ids = {str(segment.describe(document)["id"]) for document in range(segment.num_documents)}
    assert ids == {one["id"] for one in rows} - taken
