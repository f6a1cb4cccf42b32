"""Segments that join and retire in the middle of a run: the same samples, once each, also through resumes."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.together.launches import Place, Strike, by_step, lines, predicted, wait_until, write_documents, write_recipe
from trainer.mixture import lookups
from trainer.tools.run_view import open_run

BESIDE, INSTEAD, STEPS = 13, 25, 40  # from these steps on a second and a third segment of `good` are drawn


def good(*joins: str) -> str:
    """The source `good` with these segments after its first."""
    return (
        "data.sources.good={kind: synthetic, path: good.jsonl, id_column: title, license: CC0-1.0, max_documents: 20,"
        f" slice: topic, joins: [{', '.join(joins)}]}}"
    )


SECOND = f"{{from_step: {BESIDE}, path: later.jsonl}}"
THIRD = f"{{from_step: {INSTEAD}, path: last.jsonl, where: {{topic: [rivers, towns]}}, retires: true}}"
JOINS = [
    good(SECOND, THIRD),
    f"training.steps={STEPS}",
    "checkpoint={every_steps: 1, keep: 60}",
    'evaluation.gradient_alignment={enabled: "on", every_evaluations: 1, samples: 8}',
    'evaluation.source_value={enabled: "on", every_evaluations: 1, until: 1.0, '
    "samples_per_step: 2, held_out_samples: 4}",
]


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny recipe, with the files of two more segments next to it."""
    folder = tmp_path_factory.mktemp("joins")
    place = Place(folder, write_recipe(folder))
    for seed, name in enumerate(("later", "last", "latest"), start=10):
        write_documents(folder / f"{name}.jsonl", seed, 24)
    return place


@pytest.fixture(scope="module")
def joined(growing: Place) -> Path:
    """40 uninterrupted steps in one process, with a checkpoint after each."""
    run = growing.folder / "joined"
    ended = growing.fit(run, *JOINS).wait()
    assert ended.code == 0, ended.output
    return run


@pytest.fixture
def copied(growing: Place, joined: Path, request: pytest.FixtureRequest) -> Path:
    """The run to do things to."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Path(shutil.copytree(joined, growing.folder / name))


def back_to(run: Path, step: int) -> None:
    """Leave of a run what a loss of its newest checkpoints leaves."""
    (run / "outcome.json").unlink()
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name.partition("-")[2]) > step:
            shutil.rmtree(folder)


def joins_and_retirements(run: Path) -> list[tuple[int, str, int]]:
    ledger_lines = lines(run, file="ledger.jsonl")
    return [
        (fact_line["step"], fact_line["fact"], fact_line["segment"])
        for fact_line in ledger_lines
        if fact_line["fact"] in ("segment", "retire")
    ]


def test_a_segment_is_drawn_from_its_step_on_and_once_retired_no_more(joined: Path) -> None:
    run = open_run(joined)
    drawn = {step: {slot.segment for slot in run.batch(step) if slot.source == "good"} for step in range(1, STEPS + 1)}
    assert {frozenset(drawn[step]) for step in range(1, BESIDE)} == {frozenset({0})}
    assert set.union(*(drawn[step] for step in range(BESIDE, INSTEAD))) == {0, 1}
    assert {frozenset(drawn[step]) for step in range(INSTEAD, STEPS + 1)} == {frozenset({2})}
    assert [(line["step"], line["segment"]) for line in lines(joined, "join")] == [(BESIDE - 1, 1), (INSTEAD - 1, 2)]
    assert [(line["step"], line["segment"]) for line in lines(joined, "retire")] == [(INSTEAD - 1, 0), (INSTEAD - 1, 1)]


def test_no_sample_is_lost_or_doubled_within_an_epoch_of_a_segment(joined: Path) -> None:
    run = open_run(joined)
    used = Counter(
        ((slot.source, slot.segment), slot.epoch, slot.sample)
        for step in range(1, STEPS + 1)
        for slot in run.batch(step)
    )
    assert set(used.values()) == {1}
    sizes = {(segment.source, segment.segment): segment.num_samples for segment in run.plan.segments}
    newest = {place: max(epoch for used_place, epoch, _ in used if used_place == place) for place in sizes}
    assert newest["good", 0] >= 1, "no epoch of the first segment was completed: the test shows nothing"
    assert newest["good", 2] >= 1, "no epoch of the last segment was completed: the test shows nothing"
    for place, size in sizes.items():
        for epoch in range(newest[place]):
            assert {sample for used_place, e, sample in used if (used_place, e) == (place, epoch)} == set(range(size))


def test_synthetic_samples_stay_the_nearest_integer_through_a_join_and_a_retirement(joined: Path) -> None:
    due = drawn = 0
    shares, counts = by_step(joined, "shares"), by_step(joined, "counts")
    for step in range(1, STEPS + 1):
        due += 12 * (shares[step]["good"] + shares[step]["bad"])
        drawn += counts[step]["good"] + counts[step]["bad"]
        assert abs(due - drawn * 1_000_000) <= 500_000


def test_batch_hash_is_what_ledger_and_store_predict_through_joins(joined: Path) -> None:
    assert {step: int(batch_hash) for step, batch_hash in by_step(joined, "batch_hash").items()} == predicted(joined)


def test_two_processes_train_on_the_same_samples_through_joins(growing: Place, joined: Path) -> None:
    run = growing.folder / "pair"
    rarely = "checkpoint={every_steps: 20, keep: 2}"  # nothing but the joins is due after the steps before them
    ended = growing.launch(run, *JOINS, rarely, processes=2).wait()
    assert ended.code == 0, ended.output
    assert by_step(run, "batch_hash") == by_step(joined, "batch_hash")
    for mine, other in zip(lines(run, "evaluation"), lines(joined, "evaluation"), strict=True):
        assert mine["source_nats_per_token"] == pytest.approx(other["source_nats_per_token"], rel=1e-4)


@pytest.mark.parametrize("step", [BESIDE - 2, BESIDE - 1, BESIDE, INSTEAD - 1])
def test_a_resume_around_a_join_takes_it_once(growing: Place, joined: Path, copied: Path, step: int) -> None:
    back_to(copied, step)
    ended = growing.fit(copied, *JOINS).wait()
    assert ended.code == 0, ended.output
    assert lines(copied, "start")[-1]["resumed_from"] == f"step-{step:08d}"
    assert by_step(copied, "batch_hash") == by_step(joined, "batch_hash")
    assert (copied / "ledger.jsonl").read_bytes() == (joined / "ledger.jsonl").read_bytes()


def test_a_kill_right_after_a_join_was_journalled_leaves_no_trace(growing: Place, joined: Path) -> None:
    run = growing.folder / "killed"
    ended = growing.fit(run, *JOINS, strike=Strike(run.with_name("join.alive"), "join", 2)).wait()
    assert ended.code == -9
    assert growing.fit(run, *JOINS).wait().code == 0
    assert by_step(run, "batch_hash") == by_step(joined, "batch_hash")
    assert (run / "ledger.jsonl").read_bytes() == (joined / "ledger.jsonl").read_bytes()


def test_nothing_of_a_retired_segment_is_read_again(growing: Place, copied: Path) -> None:
    """Not by the stream, nor by trial steps, gradient alignments or evaluations: its tokens are gone once the store is
    checked.
    """
    back_to(copied, INSTEAD - 1)
    store = Path(lines(copied, "start")[0]["store"])
    tokens = [store / "source-1" / f"segment-{number}" / "tokens.npy" for number in (0, 1)]
    live = growing.fit(copied, *JOINS)
    try:
        # The store is whole by then, and no step is made yet: what the journal of this launch begins with.
        assert wait_until(live, lambda: len(lines(copied, "start")) > 1), live.wait().output
        for file in tokens:
            file.write_bytes(b"")
        ended = live.wait()
    finally:
        shutil.rmtree(store)
    assert ended.code == 0, ended.output
    evaluations = [line for line in lines(copied, "evaluation") if line["step"] >= INSTEAD]
    assert all("good" in line["source_nats_per_token"] for line in evaluations)
    assert any("good" in line["gradient_alignment"] for line in evaluations)
    assert any("good" in line["source_value"] for line in evaluations), (
        "no source was measured: the test shows too little"
    )


def test_a_replay_joins_where_the_other_run_did_and_only_once(growing: Place, joined: Path) -> None:
    run = growing.folder / "replayed"
    constant = "control.policy={kind: constant}"
    ended = growing.fit(run, *JOINS, constant, more=["--ledger", str(joined)]).wait()
    assert ended.code == 0, ended.output
    assert by_step(run, "batch_hash") == by_step(joined, "batch_hash")
    assert joins_and_retirements(run) == joins_and_retirements(joined)
    moved = good(SECOND, THIRD.replace(str(INSTEAD), str(INSTEAD + 1)))
    other = growing.fit(growing.folder / "moved", *JOINS, moved, constant, more=["--ledger", str(joined)]).wait()
    assert other.code == 2
    assert "the segments of the replayed run join at other steps" in other.output


def test_what_has_joined_cannot_change_and_what_comes_later_can(growing: Place, joined: Path, copied: Path) -> None:
    more = [*JOINS[2:], "training.steps=50"]
    later = f"{{from_step: {BESIDE + 1}, path: later.jsonl}}"
    refused = growing.fit(copied, *more, good(later, THIRD)).wait()
    assert refused.code == 2
    assert f"segment 1 of source good to join from step {BESIDE} on" in refused.output
    other = growing.fit(copied, *more, good(SECOND, THIRD.replace("last.jsonl", "latest.jsonl"))).wait()
    assert other.code == 2
    assert "the data of source good is not what this run began with" in other.output
    without_a_file = growing.fit(
        copied, *more, good(SECOND, THIRD, f"{{from_step: {STEPS}, path: latest.jsonl}}")
    ).wait()
    assert without_a_file.code == 2
    assert f"others can join from step {STEPS + 2} on" in without_a_file.output
    ended = growing.fit(copied, *more, good(SECOND, THIRD, f"{{from_step: {STEPS + 2}, path: latest.jsonl}}")).wait()
    assert ended.code == 0, ended.output
    batch_hash = by_step(copied, "batch_hash")
    assert {step: batch_hash[step] for step in range(1, STEPS + 1)} == by_step(joined, "batch_hash")
    assert joins_and_retirements(copied)[-1] == (STEPS + 2, "segment", 3)
    assert {slot.segment for slot in open_run(copied).batch(50) if slot.source == "good"} <= {2, 3}


def test_epochs_and_drawn_slices_follow_the_segments(joined: Path) -> None:
    run, epochs = open_run(joined), by_step(joined, "epochs")
    segment = run.plan.segments[lookups.segment_index(run.plan, "good", 2)]
    counts = by_step(joined, "counts")
    since = sum(counts[step]["good"] for step in range(INSTEAD, STEPS + 1))
    assert epochs[STEPS]["good"] == pytest.approx(since / segment.num_samples)
    assert epochs[INSTEAD - 1]["good"] > epochs[INSTEAD]["good"], "a fresh segment has no epochs behind it"
    first, last = (lines(joined, "evaluation")[place]["drawn_slices"] for place in (3, -1))
    assert last["rivers"]["drawn"] > first["rivers"]["drawn"], "the last segment tells of rivers and towns alone"


def test_audit_explain_and_report_tell_of_the_segments(growing: Place, joined: Path) -> None:
    slot = next(slot for slot in open_run(joined).batch(STEPS) if (slot.source, slot.segment) == ("good", 2))
    audited = growing.command("audit", str(joined), "--sample", f"good:2:{slot.sample}", "--json").wait()
    uses = json.loads(audited.output)["uses"]
    assert STEPS in [use["step"] for use in uses]
    assert {use["segment"] for use in uses} == {2}
    assert all(document["id"].startswith("last ") for use in uses for document in use["documents"])
    explained = growing.command("explain", str(joined), "--step", str(INSTEAD)).wait().output
    words = " ".join(explained.split())  # lines are wrapped
    assert f"After step {INSTEAD - 1}: segment 2 of good joins" in words
    assert f"After step {INSTEAD - 1}: segment 0 of good is retired" in words
    assert "<td>retire</td>" in (joined / "report.html").read_text()
