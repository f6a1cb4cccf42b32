"""Rounds of synthesis inside a run: what they make joins from an exact step, whatever happens to the run meanwhile."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.together.launches import Place, Strike, by_step, lines, predicted, wait_until
from tests.together.rounds import OWN, STEPS, WORDS, sets, words
from trainer.base.atomic import write_text
from trainer.runs.rounds.files import RoundFiles
from trainer.synthesis.lineage import Origin, take_down
from trainer.synthesis.pool import Pool
from trainer.tools.pool.takedown import takedown
from trainer.tools.run_view import open_run


@pytest.fixture(scope="module")
def own(place: Place) -> Path:
    """A run whose own model writes a generation every 8 steps."""
    run = place.folder / "own"
    ended = place.fit(run, *sets()).wait()
    assert ended.code == 0, ended.output
    return run


def joins(run: Path) -> list[tuple[int, int, int]]:
    """Step, segment and samples of the segments of `made` in the ledger."""
    return [
        (fact["step"], fact["segment"], fact["num_samples"])
        for fact in lines(run, file="ledger.jsonl")
        if fact["fact"] == "segment" and fact["source"] == "made"
    ]


def test_a_generation_joins_right_after_its_step_and_is_drawn(own: Path) -> None:
    assert [(step, segment) for step, segment, _ in joins(own)] == [(9, 0), (17, 1), (25, 2)]
    counts = by_step(own, "counts")
    assert all(not counts[step].get("made") for step in range(1, 9))
    assert all(counts[step]["made"] == 3 for step in range(9, STEPS + 1))  # a quarter of 12
    assert [line["state"] for line in lines(own, "round")] == ["begun", "written", "ended", "joined"] * 3


def test_batch_hashes_of_a_run_that_makes_its_own_data_are_what_ledger_and_stores_predict(own: Path) -> None:
    assert {step: int(batch_hash) for step, batch_hash in by_step(own, "batch_hash").items()} == predicted(own)


def texts(run: Path) -> list[str]:
    return [
        text
        for file in sorted((run / "pool" / "rows").glob("*.parquet"))
        for text in pq.read_table(file, columns=["text"])["text"].to_pylist()
    ]


# The first four lines are of the first generation: begun, written, ended, joined.
@pytest.mark.parametrize(
    "line", [5, 6, 8, pytest.param(4, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_a_run_killed_in_a_round_is_the_run_that_was_not(place: Place, own: Path, line: int) -> None:
    run = place.folder / f"killed-in-round-{line}"
    assert place.fit(run, *sets(), strike=Strike(run.with_name("r.alive"), "round", line)).wait().code == -9
    ended = place.fit(run, *sets()).wait()
    assert ended.code == 0, ended.output
    assert by_step(run, "batch_hash") == by_step(own, "batch_hash")
    assert (run / "ledger.jsonl").read_bytes() == (own / "ledger.jsonl").read_bytes()
    assert texts(run) == texts(own)


@pytest.mark.slow
def test_two_processes_write_and_draw_what_one_does(place: Place, own: Path) -> None:
    run = place.folder / "own-pair"
    ended = place.launch(run, *sets(), processes=2).wait()
    assert ended.code == 0, ended.output
    assert texts(run) == texts(own)
    assert by_step(run, "batch_hash") == by_step(own, "batch_hash")


def test_training_goes_on_while_a_generator_writes_and_a_resume_lets_it_join_where_it_did(place: Place) -> None:
    run, pids = place.folder / "alongside-round", place.folder / "pids"
    pids.mkdir()
    slow = sets(WORDS, generator=words(pids=str(pids), seconds=0.02), steps=100_000)
    live = place.fit(run, *slow)

    def has_joined() -> bool:
        steps = [line["step"] for line in lines(run, "round") if line["state"] == "joined"]
        return bool(steps) and any(line["step"] > steps[0] + 3 for line in lines(run, "step"))

    assert wait_until(live, has_joined), live.wait().output
    live.send(signal.SIGKILL)
    assert live.wait().code == -9
    first, hashes = lines(run, "round")[0], by_step(run, "batch_hash")
    (join,) = [line for line in lines(run, "round") if line["state"] == "joined"][:1]
    assert (first["state"], first["step"]) == ("begun", 6)
    assert join["step"] > 7, "training waited for it"
    ended = place.fit(run, *sets(WORDS, generator=words(), steps=max(hashes) + 5)).wait()
    assert ended.code == 0, ended.output
    again = by_step(run, "batch_hash")
    assert {step: again[step] for step in hashes} == hashes
    assert join["step"] in [line["step"] for line in lines(run, "round") if line["state"] == "joined"]
    assert {step: int(batch_hash) for step, batch_hash in again.items()} == predicted(run)


def test_the_process_of_a_round_ends_with_a_killed_run_which_then_finishes_it(place: Place) -> None:
    run, pids = place.folder / "orphan", place.folder / "orphans"
    pids.mkdir()
    live = place.fit(run, *sets(WORDS, generator=words(pids=str(pids), seconds=30.0), steps=100_000))
    assert wait_until(live, lambda: any(pids.iterdir())), live.wait().output
    live.send(signal.SIGKILL)
    live.wait()
    (pid,) = [int(path.name) for path in pids.iterdir()]
    assert wait_until_gone(pid), "the process of the round outlived its run"
    done = max(by_step(run, "batch_hash"))
    ended = place.fit(run, *sets(WORDS, generator=words(), steps=done + 20, wait=True)).wait()
    assert ended.code == 0, ended.output
    generations = [line["generation"] for line in lines(run, "round") if line["state"] == "joined"]
    assert generations[0] == 1


def wait_until_gone(pid: int) -> bool:
    import time

    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_generator_that_fails_is_told_and_asked_again_and_the_run_goes_on(place: Place) -> None:
    run = place.folder / "failing"
    ended = place.fit(run, *sets(WORDS, generator=words(fails=True), wait=True, every=10)).wait()
    assert ended.code == 0, ended.output
    states = [(line["generation"], line["state"]) for line in lines(run, "round")]
    assert states == [(1, "begun"), (1, "failed")] * 2  # not after the last step
    assert "the server is gone" in lines(run, "round")[1]["reason"]
    assert "generation 1 failed" in ended.output


@pytest.mark.slow
def test_of_a_window_of_generations_older_ones_retire(place: Place) -> None:
    run = place.folder / "window"
    ended = place.fit(run, *sets(WORDS, wait=True, keep_generations=1)).wait()
    assert ended.code == 0, ended.output
    facts = [
        (fact["step"], fact["fact"], fact["segment"])
        for fact in lines(run, file="ledger.jsonl")
        if fact["fact"] in ("segment", "retire") and fact["source"] == "made"
    ]
    assert facts[:5] == [
        (7, "segment", 0), (13, "segment", 1), (13, "retire", 0), (19, "segment", 2), (19, "retire", 1),
    ]  # fmt: skip
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)


def test_a_run_cannot_change_which_source_it_makes(place: Place, own: Path) -> None:
    ended = place.fit(own, *sets(OWN, source="other", steps=40)).wait()
    assert ended.code == 2
    assert "synthesis.source" in ended.output


def test_a_lot_is_valued_before_the_rest_of_a_round_is_bought(place: Place) -> None:
    """Random words beside real text that was hardly repeated: they are not worth it, and the reason says so."""
    run = place.folder / "lots"
    ended = place.fit(run, *sets(WORDS, wait=True, every=20, requests=120, lot=60)).wait()
    assert ended.code == 0, ended.output
    states = [line["state"] for line in lines(run, "round")]
    assert states in (["begun", "not-bought", "ended"], ["begun", "ended", "joined"]), states
    (ended_line,) = [line for line in lines(run, "round") if line["state"] == "ended"]
    assert ended_line["record"]["requests"] == 60


def test_a_takedown_retires_what_a_document_has_led_to_from_the_next_evaluation_on(place: Place) -> None:
    run = place.folder / "takedown"
    live = place.fit(run, *sets(WORDS, wait=True, every=1_000_000, first=6, steps=100_000))
    assert wait_until(live, lambda: any(line["state"] == "joined" for line in lines(run, "round")))
    pool = Pool(run / "pool")
    file = next(iter(pool.rows.glob("*.parquet")))
    source_id = pq.read_table(file, columns=["source_id"])["source_id"][0].as_py()
    take_down(pool, Origin(document=f"real:{source_id}"), "the author asks for it")
    assert wait_until(live, lambda: any(line["state"] == "quarantined" for line in lines(run, "round")))
    (line,) = [line for line in lines(run, "round") if line["state"] == "quarantined"]
    live.send(signal.SIGTERM)
    assert live.wait().code == 75
    assert "the author asks for it" in line["reason"]
    counts = by_step(run, "counts")
    assert counts[line["step"]]["made"]
    assert not any(count["made"] for step, count in counts.items() if step > line["step"])
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)


def test_a_run_all_of_whose_own_rows_are_taken_down_goes_on_without_them_and_cannot_be_replayed(place: Place) -> None:
    run = place.folder / "all-taken-down"
    once = {"wait": True, "every": 1_000_000, "first": 4}
    ended = place.fit(run, *sets(WORDS, steps=8, **once)).wait()
    assert ended.code == 0, ended.output
    done = takedown(run, Origin(source="real"), "the rights were withdrawn")
    assert done.steps
    ended = place.fit(run, *sets(WORDS, steps=14, **once)).wait()
    assert ended.code == 0, ended.output
    counts = by_step(run, "counts")
    assert counts[8]["made"]
    assert not any(count.get("made") for step, count in counts.items() if step > 8)
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)
    retired = [(line["step"], line["source"], line["segment"]) for line in lines(run, "retire")]
    assert retired == [(8, "made", 0)], "the journal says what retired"
    refused = place.fit(place.folder / "of-taken-down", *sets(WORDS, steps=14), more=["--ledger", str(run)]).wait()
    assert refused.code == 2
    assert "drew documents that were taken down since" in " ".join(refused.output.split())


def test_texts_that_failed_after_an_earlier_step_do_not_stop_the_rounds_that_follow(place: Place) -> None:
    run = place.folder / "left-behind"
    assert place.fit(run, *sets(steps=7)).wait().code == 0
    left = Pool(run / "pool").responses_file(1, 0, 1)
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text('{"format": 1, "requests": 24, "digest": "of the model of an earlier step"}\n')
    ended = place.fit(run, *sets(steps=10)).wait()
    assert ended.code == 0, ended.output
    assert [line["state"] for line in lines(run, "round")] == ["begun", "written", "ended", "joined"]


def test_answers_that_a_killed_round_has_to_other_requests_do_not_stop_it(place: Place) -> None:
    run = place.folder / "other-requests"
    assert place.fit(run, *sets(WORDS, wait=True, every=8, steps=7)).wait().code == 0
    left = Pool(run / "pool").responses_file(1, 0, 1)
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text('{"format": 1, "requests": 24, "digest": "of prompts that the recipe had before"}\n')
    ended = place.fit(run, *sets(WORDS, wait=True, every=8, steps=10)).wait()
    assert ended.code == 0, ended.output
    assert [line["state"] for line in lines(run, "round")] == ["begun", "ended", "joined"]


def test_requests_that_were_planned_by_another_recipe_are_planned_anew_after_one_failure(place: Place) -> None:
    run = place.folder / "stale-plan"
    assert place.fit(run, *sets(steps=7)).wait().code == 0
    write_text(RoundFiles(run).asked(1, 8), "[]")
    ended = place.fit(run, *sets(steps=18)).wait()
    assert ended.code == 0, ended.output
    states = [line["state"] for line in lines(run, "round")]
    assert states == ["begun", "written", "failed", "begun", "written", "ended", "joined"]


def test_a_replay_draws_what_the_other_run_made(place: Place, own: Path) -> None:
    run = place.folder / "own-replayed"
    ended = place.fit(run, *sets(), more=["--ledger", str(own)]).wait()
    assert ended.code == 0, ended.output
    assert by_step(run, "batch_hash") == by_step(own, "batch_hash")
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)
    assert not lines(run, "round")


@pytest.mark.slow
def test_lightning_makes_the_same_rounds(place: Place, own: Path) -> None:
    pytest.importorskip("pytorch_lightning", reason="NOT TESTED: Lightning is not installed")
    run = place.folder / "own-lightning"
    ended = place.fit(run, *sets(), "engine=lightning").wait()
    assert ended.code == 0, ended.output
    assert texts(run) == texts(own)
    assert by_step(run, "batch_hash") == by_step(own, "batch_hash")


HARMFUL = [  # whatever is worth less than real text is harmful to this guard
    "control={policy: {kind: constant}, guard: {min_documents: 8, measure_source_value: true, "
    "advanced: {cut_below: 50, attribution_z: 0.01}}}",
    "mixture.shares={real: 1, good: 0, bad: 0}",
    "evaluation={every_steps: 5, validation_documents: 24, source_samples: 4, source_value: "
    '{enabled: "on", every_evaluations: 1, until: 1.0, samples_per_step: 2, held_out_samples: 4}}',
]


def test_the_guard_quarantines_generations_and_after_two_of_them_cuts_their_source(place: Place) -> None:
    run = place.folder / "harmful"
    given = [*sets(WORDS, wait=True, every=6, steps=60)[:2], *HARMFUL]
    ended = place.fit(run, *given).wait()
    assert ended.code == 0, ended.output
    quarantined = [line for line in lines(run, "round") if line["state"] == "quarantined"]
    assert quarantined, [line["reason"] for line in lines(run, "decision")]
    retired = {fact["segment"]: fact["step"] for fact in lines(run, file="ledger.jsonl") if fact["fact"] == "retire"}
    assert {line["segment"]: line["step"] + 1 for line in quarantined} == retired
    assert Pool(run / "pool").manifest().quarantined.keys() == {line["generation"] for line in quarantined}
    opened = open_run(run)
    for segment, step in retired.items():
        later = [slot for later in range(step, opened.last_step + 1) for slot in opened.batch(later)]
        assert not any((slot.source, slot.segment) == ("made", segment) for slot in later)
    cuts = [line for line in lines(run, "decision") if line["action"] == "cut"]
    assert all("is quarantined" in line["reason"] for line in cuts[: len({line["step"] for line in quarantined})])
    if len(quarantined) >= 2 and len(cuts) > 2:
        assert cuts[-1]["shares"]["made"] == 0
        assert not [line for line in lines(run, "round") if line["step"] > cuts[-1]["step"]]
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)
