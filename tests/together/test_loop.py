"""What a run does when something goes wrong inside it: losses that are not numbers, damage that calls for a rollback,
sources that are used up.
"""

import json
from pathlib import Path

import pytest

from tests.together.kill9 import compare, finish
from tests.together.launches import Place, Strike, by_step, decisions, lines, outcome, predicted
from trainer.mixture.ledger import Rollback, from_record
from trainer.tools.run_view import open_run

# Learn on real text, then see nothing but another vocabulary at a high rate: held-out loss rises, and no cut may help.
DAMAGE = [
    "training.steps=60",
    "training.learning_rate=2.0e-2",
    "training.schedule={kind: constant}",
    "evaluation.every_steps=2",
    "checkpoint.keep=20",
    "mixture.shares={real: 1, good: 0, bad: 0}",
    "control.policy={kind: schedule, points: [{at: 0.4, shares: {real: 1, good: 0, bad: 0}},"
    " {at: 0.5, shares: {real: 0, good: 0, bad: 1}}]}",
    "control.guard={min_documents: 8, warn_at: 5, alarm_at: 10, cut: false, stop: false, max_rollbacks: 1,"
    " advanced: {min_evaluations: 5, history_evaluations: 8, margin: 0, freeze_evaluations: 0}}",
]


@pytest.fixture(scope="module")
def rolled_back(place: Place, alone: Path) -> Path:
    """A run whose guard takes it back once."""
    run = place.folder / "rolled-back"
    finish(place, run, *DAMAGE)
    return run


def test_a_rollback_marks_the_discarded_slots_and_continues_with_new_samples(rolled_back: Path) -> None:
    facts = [from_record(record) for record in lines(rolled_back, file="ledger.jsonl")]
    rollback = next(fact for fact in facts if isinstance(fact, Rollback))
    line = lines(rolled_back, "rollback")[0]
    assert (rollback.step, rollback.to_step) == (line["step"] + 1, line["to_step"])
    run = open_run(rolled_back)
    assert rollback.first_slot == run.batch(rollback.to_step)[-1].slot + 1
    assert rollback.last_slot == run.batch(line["step"])[-1].slot + 1
    assert run.batch(rollback.step)[0].slot == rollback.last_slot, "slots only grow"
    used = [
        (slot.source, slot.epoch, slot.sample)
        for step in by_step(rolled_back, "batch_hash")
        for slot in run.batch(step)
    ]
    assert len(used) == len(set(used)), "a sample came twice in one epoch"


def test_a_slice_that_synthetic_text_thins_out_is_reported_once(place: Place) -> None:
    run = place.folder / "skewed"
    rivers = "data.sources.bad={kind: synthetic, path: bad.jsonl, slice: topic, where: {topic: rivers}}"
    shares = "mixture.shares={real: 0.3, good: 0, bad: 0.7}"
    ended = place.fit(run, rivers, shares, "control.policy={kind: constant}").wait()
    assert ended.code == 0, ended.output
    skewed = {line["slice"]: line for line in lines(run, "skew")}
    assert set(skewed) == {"birds", "rivers", "tools", "towns"}
    assert len(lines(run, "skew")) == 4, "each slice is told once"
    assert skewed["rivers"]["drawn"] > 2 * skewed["rivers"]["real"]
    assert ended.output.count("of the real data (evaluation.slice_skew)") == 4
    counts, drawn = by_step(run, "counts"), lines(run, "evaluation")[-1]["drawn_slices"]
    of_real = sum(count["real"] for count in counts.values()) / sum(sum(count.values()) for count in counts.values())
    assert drawn["birds"]["drawn"] == pytest.approx(of_real * drawn["birds"]["real"], rel=0.05)


def test_after_a_rollback_the_run_still_trains_all_positions_of_its_schedule(rolled_back: Path) -> None:
    line = lines(rolled_back, "rollback")[0]
    discarded = line["step"] - line["to_step"]
    assert list(by_step(rolled_back, "batch_hash")) == list(range(1, 60 + discarded + 1))
    newest = max((rolled_back / "checkpoints").glob("step-*"))
    state = json.loads((newest / "state.json").read_text())
    assert (state["position"], state["step"]) == (60, 60 + discarded)
    assert {step: int(batch_hash) for step, batch_hash in by_step(rolled_back, "batch_hash").items()} == predicted(
        rolled_back
    )


def test_a_rollback_restores_weights_and_optimizer(rolled_back: Path) -> None:
    """The steps after it are repeated by a fresh engine that starts from the checkpoint it went back to."""
    from trainer.data.loader import Stream
    from trainer.engines import open_engine
    from trainer.mixture.partition import RankPartition
    from trainer.model.build import build_model

    line = lines(rolled_back, "rollback")[0]
    run = open_run(rolled_back)
    data = run.prepared()
    assert data is not None
    model = build_model(
        run.recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        sequence_length=data.sequence_length,
        seed=run.recipe.seed,
    )
    engine = open_engine(model, run.recipe.training, seed=run.recipe.seed)
    engine.restore(rolled_back / "checkpoints" / f"step-{line['to_step']:08d}")
    stream = Stream(
        run.plan,
        {(name, 0): source.segments[0] for name, source in data.sources.items()},
        state=run.plan.state(line["step"] + 1),
        partition=RankPartition(rank=0, world_size=1, micro_batch=run.recipe.training.micro_batch),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
    )
    rates = by_step(rolled_back, "learning_rate")
    for number in (1, 2, 3):
        step = line["step"] + number
        rate = run.recipe.training.rate(line["to_step"] + number - 1)
        assert rates[step] == rate, "the schedule did not go back with the weights"
        figures = engine.train_step(stream.next(), learning_rate=rate, stop=False, ledger_digest=0).result()
        assert figures.loss == pytest.approx(by_step(rolled_back, "loss")[step], rel=1e-6)
    stream.close()


@pytest.mark.faults
def test_a_kill_right_after_a_rollback_leaves_no_trace(place: Place, rolled_back: Path) -> None:
    run = place.folder / "killed-rolled-back"
    ended = place.fit(run, *DAMAGE, strike=Strike(run.with_name("rollback.alive"), "rollback", 1)).wait()
    assert ended.code == -9
    finish(place, run, *DAMAGE)
    cells = compare(run, rolled_back)
    assert all(equal == total for equal, total in cells.values()), cells


def test_three_steps_that_are_not_finite_end_the_run_and_name_the_samples(place: Place, alone: Path) -> None:
    run = place.folder / "blown-up"
    blow_up = ["training.learning_rate=1.0e+30", "training.max_grad_norm=1.0e+30", "training.schedule={kind: constant}"]
    ended = place.fit(run, *blow_up).wait()
    assert ended.code == 1
    nonfinite_lines = lines(run, "nonfinite")
    assert [line["step"] for line in nonfinite_lines] == [nonfinite_lines[0]["step"] + number for number in range(3)]
    assert outcome(run)["state"] == "failed"
    assert "not finite 3 steps in a row" in outcome(run)["reason"]
    opened = open_run(run)
    expected = [f"{slot.source}:{slot.segment}:{slot.sample}" for slot in opened.batch(nonfinite_lines[-1]["step"])]
    assert nonfinite_lines[-1]["samples"] == expected
    assert ", ".join(expected) in outcome(run)["reason"]
    assert ended.output.count("no rank updated its weights") == 3
    updated = by_step(run, "updated")
    assert not any(updated[line["step"]] for line in nonfinite_lines)
    assert ended.output.rstrip().splitlines()[-2].startswith("the run failed:")


def test_a_cap_is_journalled_and_moves_the_share_inside_its_kind(place: Place, alone: Path) -> None:
    run = place.folder / "capped"
    constant = ["control.policy={kind: constant}", "mixture.shares={real: 0.5, good: 0.3, bad: 0.2}"]
    ended = place.fit(run, *constant, "mixture.max_epochs={bad: 0.2}", "data.cache=null").wait()
    assert ended.code == 0, ended.output
    cap = lines(run, "cap")[0]
    epochs = by_step(run, "epochs")
    assert cap["source"] == "bad"
    assert cap["epochs"] == pytest.approx(epochs[50]["bad"])
    assert epochs[50]["bad"] <= 0.2 < epochs[50]["bad"] + 3 / lines(run, "start")[0]["sources"]["bad"]["num_samples"]
    assert by_step(run, "shares")[cap["step"]]["bad"] == 200_000
    assert by_step(run, "shares")[cap["step"] + 1] == cap["shares"] == {"real": 500_000, "good": 500_000, "bad": 0}
    explained = place.command("explain", str(run), "--step", "50").wait()
    assert "reached the cap of its epochs" in explained.output


def test_a_cap_without_anybody_to_take_over_ends_with_the_remedy(place: Place, alone: Path) -> None:
    run = place.folder / "used-up"
    ended = place.fit(run, "mixture.max_epochs={real: 0.3}").wait()
    assert ended.code == 2
    assert "raise mixture.max_epochs" in ended.output
    assert decisions(run), "the steps before it were trained"
