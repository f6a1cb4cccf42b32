"""A run resumes: after a signal, on other processes, with another batch, from an older checkpoint, past its end."""

import json
import shutil
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.together.launches import (
    Ended,
    Place,
    by_step,
    decisions,
    lines,
    outcome,
    predicted,
    reached,
    wait_until,
    write_recipe,
)
from trainer.tools.run_view import open_run

LONGER = "training.steps=60"
SHARD = "shard-00001-model-00001-of-00001.safetensors"  # the whole state of a run in one process


def stopped(place: Place, run: Path, after: int, number: int, *sets: str, processes: int = 1) -> Ended:
    """Run until a step, send a signal, and wait for the end."""
    live = place.fit(run, *sets) if processes == 1 else place.launch(run, *sets, processes=processes)
    assert wait_until(live, reached(run, after)), live.wait().output
    live.send(number)
    return live.wait()


@pytest.fixture(scope="module")
def legs(place: Place, alone: Path) -> Path:
    """60 steps in three legs: two processes until SIGTERM, one until SIGUSR1, three with a smaller global batch."""
    run = place.folder / "legs"
    stopped(place, run, 12, signal.SIGTERM, LONGER, processes=2)
    first = outcome(run)
    assert (first["state"], first["exit_code"]) == ("interrupted", 75)
    assert (run / "checkpoints" / f"step-{first['step']:08d}").is_dir()
    second = stopped(place, run, first["step"] + 10, signal.SIGUSR1, LONGER)
    assert second.code == 75
    assert outcome(run)["state"] == "interrupted"
    third = place.launch(run, LONGER, "mixture.global_batch=9", processes=3).wait()
    assert third.code == 0, third.output
    return run


def test_two_then_one_then_three_processes_and_another_batch_train_every_step_once(legs: Path) -> None:
    assert [line["world_size"] for line in lines(legs, "start")] == [2, 1, 3]
    assert list(by_step(legs, "batch_hash")) == list(range(1, 61))
    assert {sum(counts.values()) for counts in by_step(legs, "counts").values()} == {12, 9}
    assert outcome(legs)["state"] == "finished"


def test_batch_hash_is_predicted_through_every_leg(legs: Path) -> None:
    assert {step: int(batch_hash) for step, batch_hash in by_step(legs, "batch_hash").items()} == predicted(legs)


def test_no_sample_is_lost_or_doubled_within_an_epoch_through_every_leg(legs: Path) -> None:
    run = open_run(legs)
    used = Counter((slot.source, slot.epoch, slot.sample) for step in range(1, 61) for slot in run.batch(step))
    assert set(used.values()) == {1}
    sizes = {name: source["num_samples"] for name, source in lines(legs, "start")[0]["sources"].items()}
    newest = {name: max(epoch for source, epoch, _ in used if source == name) for name in sizes}
    assert newest["real"] >= 1, "no epoch of the real source was completed: the test shows nothing"
    for name, size in sizes.items():
        for epoch in range(newest[name]):
            assert {sample for source, e, sample in used if (source, e) == (name, epoch)} == set(range(size))


def test_a_signal_ends_the_step_saves_and_exits_with_75(place: Place, alone: Path) -> None:
    run = place.folder / "terminated"
    ended = stopped(place, run, 7, signal.SIGTERM)
    saved_outcome = outcome(run)
    assert ended.code == 75
    assert saved_outcome["state"] == "interrupted"
    assert saved_outcome["step"] == max(by_step(run, "batch_hash"))
    assert lines(run)[-1]["kind"] == "finish"
    assert place.fit(run).wait().code == 0
    assert by_step(run, "loss") == by_step(alone, "loss")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_data_is_prepared_ends_the_run_immediately_with_75(number: int, tmp_path: Path) -> None:
    busy = Place(tmp_path, write_recipe(tmp_path / "recipe", num_documents=100_000))
    run = tmp_path / "run"
    live = busy.fit(run)
    assert wait_until(live, lambda: "preparing data" in live.log.read_text())
    live.send(number)
    ended = live.wait()
    assert ended.code == 75, ended.output
    assert "Traceback" not in ended.output
    assert "run the same command again to resume" in ended.output
    assert outcome(run)["state"] == "interrupted"
    assert not (run / "ledger.jsonl").exists()


def test_a_finished_run_says_so_and_stays_as_it_is(place: Place, alone: Path) -> None:
    before = (alone / "journal.jsonl").read_bytes()
    ended = place.fit(alone).wait()
    assert ended.code == 0
    assert "is finished" in ended.output
    assert (alone / "journal.jsonl").read_bytes() == before


@pytest.fixture
def copied(place: Place, alone: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run of 50 steps to do things to."""
    return Path(shutil.copytree(alone, place.folder / request.node.name))


def test_more_steps_resume_from_the_end(place: Place, copied: Path, alone: Path) -> None:
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 0, ended.output
    batch_hash = by_step(copied, "batch_hash")
    assert list(batch_hash) == list(range(1, 61))
    assert {step: batch_hash[step] for step in range(1, 51)} == by_step(alone, "batch_hash")
    assert lines(copied, "start")[-1]["resumed_from"] == "step-00000050"


def test_a_changed_recipe_is_refused_and_the_difference_shown(place: Place, copied: Path) -> None:
    ended = place.fit(copied, LONGER, "training.learning_rate=0.5", "seed=6").wait()
    assert ended.code == 2
    assert "training.learning_rate: 0.003 -> 0.5" in ended.output
    assert "seed: 5 -> 6" in ended.output
    assert "training.steps" not in ended.output.partition("the recipe is not the one")[2]


def test_keys_that_change_no_sample_may_change(place: Place, copied: Path) -> None:
    allowed = [LONGER, "training.micro_batch=5", "checkpoint.every_steps=7", "evaluation.micro_batch=3"]
    ended = place.fit(copied, *allowed).wait()
    assert ended.code == 0, ended.output
    assert {step: int(batch_hash) for step, batch_hash in by_step(copied, "batch_hash").items()} == predicted(copied)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_checkpoint_with_a_flipped_bit_is_named_and_the_one_before_is_used(
    place: Place, copied: Path, alone: Path
) -> None:
    flip_a_bit(copied / "checkpoints" / "step-00000050" / SHARD)
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 0, ended.output
    assert f"step-00000050 is damaged: {SHARD} does not match its SHA-256" in ended.output
    assert lines(copied, "start")[-1]["resumed_from"] == "step-00000040"
    batch_hash = by_step(copied, "batch_hash")
    assert {step: batch_hash[step] for step in range(1, 51)} == by_step(alone, "batch_hash")
    assert {step: int(value) for step, value in batch_hash.items()} == predicted(copied)


def test_a_run_folder_of_another_version_is_refused_with_what_to_do(place: Place, copied: Path) -> None:
    resolved = copied / "recipe.yaml"
    resolved.write_text(resolved.read_text().replace("warn_at:", "warned_every:"))
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 2, ended.output
    assert "of another version of this program, or its recipe was changed" in ended.output
    assert "start again in another --run folder" in ended.output
    assert "Traceback" not in ended.output


def test_when_no_checkpoint_is_whole_the_run_is_not_thrown_away_in_silence(place: Place, copied: Path) -> None:
    before = (copied / "journal.jsonl").read_bytes()
    for folder in (copied / "checkpoints").glob("step-*"):
        weights = folder / SHARD
        weights.write_bytes(weights.read_bytes()[:-100])
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 2
    assert ended.output.count(f"is damaged: {SHARD} has") == 2
    assert "is complete" in ended.output
    assert "restore one from a backup" in ended.output
    assert (copied / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("harm", ["shortened", "gone"])
def test_a_ledger_that_is_not_the_one_the_checkpoint_knew_is_refused(place: Place, copied: Path, harm: str) -> None:
    ledger = copied / "ledger.jsonl"
    ledger.unlink() if harm == "gone" else ledger.write_bytes(ledger.read_bytes()[:-200])
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 2
    assert "ledger.jsonl" in ended.output
    assert "fewer than the checkpoint says" in ended.output


def test_checkpoints_do_not_pile_up(alone: Path) -> None:
    assert sorted(path.name for path in (alone / "checkpoints").glob("step-*")) == ["step-00000040", "step-00000050"]
    assert (alone / "checkpoints" / "latest").read_text().strip() == "step-00000050"


def test_replaying_a_ledger_gives_the_same_samples_without_own_decisions(place: Place, alone: Path) -> None:
    run = place.folder / "replayed"
    other_policy = ["control.policy={kind: constant}", "training.learning_rate=1.0e-3"]
    ended = place.fit(run, *other_policy, more=["--ledger", str(alone)]).wait()
    assert ended.code == 0, ended.output
    assert by_step(run, "batch_hash") == by_step(alone, "batch_hash")
    assert by_step(run, "shares") == by_step(alone, "shares")
    assert decisions(run) == []


def test_replaying_a_run_with_two_batch_sizes_survives_an_interruption(place: Place, legs: Path) -> None:
    run = place.folder / "replayed-legs"
    change = next(step for step, counts in by_step(legs, "counts").items() if sum(counts.values()) == 9)
    replay = ["--ledger", str(legs)]
    live = place.fit(run, LONGER, more=replay)
    assert wait_until(live, reached(run, change + 2)), live.wait().output
    live.send(signal.SIGTERM)
    assert live.wait().code == 75
    ended = place.fit(run, LONGER, more=replay).wait()
    assert ended.code == 0, ended.output
    assert by_step(run, "batch_hash") == by_step(legs, "batch_hash")


def test_the_saved_model_loads_with_transformers_and_scores_what_evaluate_says(place: Place, alone: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    evaluated = json.loads(place.command("evaluate", str(alone), "--json").wait().output)
    model = AutoModelForCausalLM.from_pretrained(alone / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(alone / "model")
    data = open_run(alone).prepared()
    assert data is not None
    nats, tokens = 0.0, 0
    for start, end in pairwise(data.test.offsets.tolist()):
        ids = data.test.tokens[start:end].tolist()
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
        with_context = [data.end_of_document, *ids]
        for first in range(0, len(ids), data.sequence_length - 1):  # windows overlap by one token, which is context
            window = torch.tensor([with_context[first : first + data.sequence_length]])
            with torch.no_grad():
                mean_nats = model(input_ids=window, labels=window).loss
            nats, tokens = nats + float(mean_nats) * (window.shape[1] - 1), tokens + window.shape[1] - 1
    assert tokens == evaluated["test"]["tokens"]
    assert nats / tokens == pytest.approx(evaluated["test"]["nats_per_token"], rel=1e-5)
    assert evaluated["test"]["nats_per_token"] == pytest.approx(lines(alone, "test")[-1]["nats_per_token"], rel=1e-6)
