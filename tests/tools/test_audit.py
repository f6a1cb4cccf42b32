"""Ids follow from ledger and seed alone: what an audit says is what a full replay of the plan counts."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from tests.journals import start_line, step_line
from trainer.base.errors import UserError
from trainer.data.prepare import prepare
from trainer.mixture.ledger import BatchSize, Fact, Ledger, Segment, Shares, Topology, to_record
from trainer.mixture.plan import SNAPSHOT_EVERY_STEPS, Plan
from trainer.recipe import load_recipe, resolved_yaml
from trainer.tools.audit import show_sample, show_step, uses_of
from trainer.tools.run_view import Slot, open_run
from trainer.tracking.journal import AppendOnlyFile, Journal

STEPS, SEED = SNAPSHOT_EVERY_STEPS + 300, 3  # the recipe's seed


def facts() -> list[Fact]:
    return [
        Segment(step=1, source="real", kind="real", segment=0, num_samples=900),
        Segment(step=1, source="good", kind="synthetic", segment=0, num_samples=2_000),
        Segment(step=1, source="bad", kind="synthetic", segment=0, num_samples=1),
        BatchSize(step=1, global_batch=8),
        Shares(step=1, shares={"real": 500_000, "good": 450_000, "bad": 50_000}),
        Topology(step=1, world_size=1, micro_batch=4, accumulation=2),
        Shares(step=200, shares={"real": 600_000, "good": 400_000, "bad": 0}),
        BatchSize(step=700, global_batch=5),
        Topology(step=700, world_size=3, micro_batch=4, accumulation=1),
    ]


@pytest.fixture
def folder(tiny_recipe: Path, tmp_path: Path) -> Path:
    """A run folder of 1,300 steps without data or model: ledger with a mark, journal with
    ``batch_hash`` of some steps.
    """
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(resolved_yaml(load_recipe(tiny_recipe).recipe))
    plan = Plan(SEED, Ledger(facts()))
    ledger, journal = AppendOnlyFile(run / "ledger.jsonl"), Journal(run / "journal.jsonl")
    for fact in [*facts(), plan.snapshot(plan.state(SNAPSHOT_EVERY_STEPS + 1))]:
        ledger.append(to_record(fact))
    journal.write(replace(start_line({}), store=str(tmp_path / "thrown-away")))
    for step in range(1, STEPS + 1):
        journal.write(step_line(step, shares={}, batch_hash=str(2**64 - step)))
    ledger.close()
    journal.close()
    return run


def replayed() -> dict[int, list[tuple[str, int, int]]]:
    """(source, epoch, sample) of every slot of every step, walked from the beginning without marks."""
    plan = Plan(SEED, Ledger(facts()))
    state, steps = plan.start(), {}
    for step in range(1, STEPS + 1):
        batch, state = plan.draw(state)
        rows = zip(batch.source.tolist(), batch.epoch.tolist(), batch.sample.tolist(), strict=True)
        steps[step] = [(plan.sources[source], epoch, sample) for source, epoch, sample in rows]
    return steps


def test_a_step_is_answered_as_a_full_replay_counts_it(folder: Path) -> None:
    run, expected = open_run(folder), replayed()
    for step in (1, 199, 200, 699, 700, SNAPSHOT_EVERY_STEPS, SNAPSHOT_EVERY_STEPS + 1, STEPS):
        assert [(slot.source, slot.epoch, slot.sample) for slot in run.batch(step)] == expected[step]
    assert run.batch(700)[0].slot == 699 * 8
    assert run.batch(702)[-1].slot == 699 * 8 + 3 * 5 - 1


def test_every_use_of_a_sample_is_found_and_no_other(folder: Path) -> None:
    run = open_run(folder)
    used: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for step, rows in replayed().items():
        for source, epoch, sample in rows:
            used[source, sample].append((step, epoch))
    for source, sample in [("real", 0), ("real", 17), ("real", 899), ("good", 1_999), ("good", 3)]:
        assert [(step, slot.epoch) for step, slot in uses_of(run, source, sample)] == used[source, sample]


def test_a_source_of_one_sample_uses_it_in_every_epoch(folder: Path) -> None:
    uses = list(uses_of(open_run(folder), "bad", 0))
    assert [slot.epoch for _, slot in uses] == list(range(len(uses)))
    assert max(step for step, _ in uses) < 200


def test_ranks_are_those_of_the_topology_in_force(folder: Path) -> None:
    run = open_run(folder)
    assert {slot.rank for slot in run.batch(699)} == {0}
    assert [slot.rank for slot in run.batch(700)] == [0, 1, 2, 0, 1], "cell c takes slots c, c + R, ..."


def test_without_the_store_ids_are_still_answered(folder: Path) -> None:
    run = open_run(folder)
    audited = json.loads(show_step(run, 5, as_json=True))
    assert (audited["step"], audited["batch_hash"], audited["predicted_batch_hash"]) == (5, 2**64 - 5, None)
    assert [Slot(**slot) for slot in audited["slots"]] == run.batch(5)
    text = show_step(run, 5, as_json=False)
    assert text.splitlines()[0] == "step 5: 8 samples from slot 32"
    assert f"batch_hash as journaled  {2**64 - 5}" in text
    assert json.loads(show_sample(run, "real:17", as_json=True))["uses"][0]["sample"] == 17
    assert "real:17: used" in show_sample(run, "real:17", as_json=False)


@pytest.mark.parametrize("step", [0, -1, STEPS + 1])
def test_a_step_outside_the_run_is_refused(folder: Path, step: int) -> None:
    with pytest.raises(UserError, match=f"has steps 1 to {STEPS}"):
        open_run(folder).batch(step)


@pytest.mark.parametrize(
    "name", ["real", "unknown:3", "real:", "real:900", "real:\N{SUPERSCRIPT TWO}", "good:some title"]
)
def test_a_sample_that_is_none_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError):
        show_sample(open_run(folder), name, as_json=False)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        open_run(tmp_path)


@pytest.fixture
def with_store(tiny_recipe: Path, tmp_path: Path) -> Path:
    """A run folder of 3 steps with its prepared store; the documents of `good` know how they were generated."""
    return run_with_store(tiny_recipe, tmp_path, id_column="title")


def run_with_store(tiny_recipe: Path, tmp_path: Path, *, id_column: str) -> Path:
    """A run folder of 3 steps with its prepared store, where a column of `good` names its documents."""
    rows = [json.loads(line) for line in (tmp_path / "good.jsonl").read_text().splitlines()]
    synthetic = [{**row, "title": str(7_000 + number), "seed": number} for number, row in enumerate(rows)]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in synthetic))
    keys = [f"data.sources.good.id_column={id_column}", "data.sources.good.provenance=[seed, topic]"]
    loaded = load_recipe(tiny_recipe, keys, on_this_machine=False)
    data = prepare(loaded.recipe.data, seed=SEED, base=loaded.folder)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(resolved_yaml(loaded.recipe))
    ledger, journal = AppendOnlyFile(run / "ledger.jsonl"), Journal(run / "journal.jsonl")
    segments = [
        Segment(step=1, source=name, kind=source.kind, segment=0, num_samples=source.segments[0].num_samples)
        for name, source in data.sources.items()
    ]
    shares = Shares(step=1, shares={"real": 0, "good": 1_000_000, "bad": 0})
    for fact in [*segments, *facts()[3:4], shares, facts()[5]]:
        ledger.append(to_record(fact))
    journal.write(replace(start_line({}), store=str(data.folder)))
    for step in range(1, 4):
        journal.write(step_line(step, shares={}))
    ledger.close()
    journal.close()
    return run


def test_an_audit_names_the_documents_of_each_sample_and_what_made_them(with_store: Path) -> None:
    run = open_run(with_store)
    slots = json.loads(show_step(run, 2, as_json=True))["slots"]
    documents = [document for slot in slots for document in slot["documents"]]
    assert len(slots) == 8
    assert all(slot["documents"] for slot in slots)
    assert {document["id"] for document in documents} == {str(7_000 + document["seed"]) for document in documents}
    first = documents[0]
    expected = f"{first['id']}  seed={first['seed']}, topic={first['topic']}"
    assert expected in show_step(run, 2, as_json=False)
    sample = f"good:{slots[0]['sample']}"
    assert expected in show_sample(run, sample, as_json=False)
    assert json.loads(show_sample(run, sample, as_json=True))["uses"][0]["documents"] == slots[0]["documents"]


def test_a_documents_id_that_looks_like_a_number_is_asked_for_as_an_id(with_store: Path) -> None:
    run = open_run(with_store)
    with pytest.raises(UserError, match="has samples 0 to"):
        show_sample(run, "good:7003", as_json=False)
    used = json.loads(show_sample(run, "good:id=7003", as_json=True))["uses"]
    assert all("7003" in [document["id"] for document in use["documents"]] for use in used)
    assert "good:id=7003: used" in show_sample(run, "good:id=7003", as_json=False)
    with pytest.raises(UserError, match="no document with this id"):
        show_sample(run, "good:id=3", as_json=False)


def test_a_row_that_no_step_used_is_told_apart_by_what_became_of_it(tiny_recipe: Path, tmp_path: Path) -> None:
    num_rows = len((tmp_path / "good.jsonl").read_text().splitlines())
    with (tmp_path / "good.jsonl").open("a") as file:
        file.write(json.dumps({"text": "", "title": "a void", "topic": "sea"}) + "\n")
    run = run_with_store(tiny_recipe, tmp_path, id_column="title")
    data = open_run(run).prepared()
    assert data is not None
    for part, held_out in (("validation", data.validation), ("test", data.test)):
        with pytest.raises(UserError, match=rf"held out \({part}\): never drawn"):
            show_sample(open_run(run), f"real:{held_out.ids[0]}", as_json=False)
    (malformed,) = [json.loads(line) for line in (data.folder / "quarantine.jsonl").read_text().splitlines()]
    assert malformed["line"] == num_rows + 1
    place = f"{malformed['file']}:{malformed['line']}"
    with pytest.raises(UserError, match="dropped as malformed: empty text"):
        show_sample(open_run(run), f"good:{place}", as_json=False)
    for name in (f"real:{place}", f"good:{malformed['file']}:{num_rows + 2}", "good:id=3", "bad:x"):
        with pytest.raises(UserError, match="no such document was trained on, held out or malformed"):
            show_sample(open_run(run), name, as_json=False)


def test_an_id_of_several_documents_is_answered_for_all_of_them(tiny_recipe: Path, tmp_path: Path) -> None:
    run = open_run(run_with_store(tiny_recipe, tmp_path, id_column="topic"))
    data = run.prepared()
    assert data is not None
    segment = data.sources["good"].segments[0]
    described = [segment.describe(document) for document in range(segment.num_documents)]
    name = described[0]["id"]
    places = [f"{document['file']}:{document['line']}" for document in described if document["id"] == name]
    assert len(places) > 1
    answer = json.loads(show_sample(run, f"good:{name}", as_json=True))
    assert answer["places"] == places
    used = {slot["sample"] for step in (1, 2, 3) for slot in json.loads(show_step(run, step, as_json=True))["slots"]
            if name in [document["id"] for document in slot["documents"]]}  # fmt: skip
    assert {use["sample"] for use in answer["uses"]} == used
    text = show_sample(run, f"good:{name}", as_json=False)
    assert f"{len(places)} documents have this id: {', '.join(places)}" in text
