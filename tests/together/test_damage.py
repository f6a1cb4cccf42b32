"""What a run says of files in its folder that were damaged or edited: refused in words, or passed over and counted."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.together.launches import Ended, Place, by_step, lines, outcome
from trainer.training.checkpoint import MANIFEST, STATE

LONGER, SHARD = "training.steps=60", "shard-00001-model-00001-of-00001.safetensors"


@pytest.fixture
def copied(place: Place, alone: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run of 50 steps to do things to."""
    return Path(shutil.copytree(alone, place.folder / request.node.name.replace("/", "-")))


def refused(ended: Ended, *words: str) -> None:
    """A mistake in words, and no stack trace."""
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output


def rehashed(folder: Path) -> None:
    """A checkpoint whose manifest says that all is as it should be."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-00000050"


def replaced_in(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert content.count(old) == 1, f"{old} is in {path.name} {content.count(old)} times"
    path.write_text(content.replace(old, new))


def test_a_ledger_that_was_edited_at_equal_length_is_refused(place: Place, copied: Path) -> None:
    shares = next(line for line in lines(copied, file="ledger.jsonl") if line["fact"] == "shares")["shares"]
    first = ",".join(f'"{name}":{share}' for name, share in shares.items())
    edited = first.replace("500000", "400000").replace('"good":250000', '"good":350000')
    assert len(edited) == len(first) != 0
    content = (copied / "ledger.jsonl").read_text()
    (copied / "ledger.jsonl").write_text(content.replace(first, edited, 1))
    before = (copied / "ledger.jsonl").read_bytes()
    refused(place.fit(copied, LONGER).wait(), "ledger.jsonl: the ledger was changed after step-00000050 was saved")
    assert (copied / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", ["fit", "explain", "audit"])
def test_shares_that_do_not_sum_are_refused_with_file_and_line(place: Place, copied: Path, command: str) -> None:
    ledger = copied / "ledger.jsonl"
    number = next(n for n, line in enumerate(lines(copied, file=ledger.name), start=1) if line["fact"] == "shares")
    ledger.write_text(ledger.read_text().replace('"real":500000', '"real":510000', 1))
    if command == "fit":
        shutil.rmtree(copied / "checkpoints")
        ended = place.fit(place.folder / f"{copied.name}-replayed", more=["--ledger", str(copied)]).wait()
    else:
        ended = place.command(command, str(copied), "--step", "5").wait()
    refused(ended, f"ledger.jsonl:{number}: a fact of kind 'shares'", "sum to 1000000 millionths")


def test_a_recipe_that_is_gone_is_missed(place: Place, copied: Path) -> None:
    (copied / "recipe.yaml").unlink()
    refused(place.fit(copied, LONGER, "seed=4").wait(), "recipe.yaml: the recipe that this run began with is missing")


def test_fewer_steps_than_are_done_are_refused(place: Place, copied: Path) -> None:
    (copied / "outcome.json").unlink()
    ended = place.fit(copied, "training.steps=10").wait()
    refused(ended, "50 steps of this run are done, more than training.steps (got 10)")


def test_a_broken_byte_in_the_journal_costs_its_line_and_every_view_says_so(place: Place, copied: Path) -> None:
    journal = copied / "journal.jsonl"
    raw = journal.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(raw, start=1) if b'"kind":"step","step":7,' in line)
    raw[number - 1] = raw[number - 1].replace(b'"step":7,', b'"step"\x1a7,')
    journal.write_bytes(b"".join(raw))
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 0, ended.output
    assert outcome(copied)["state"] == "finished"
    assert (copied / "report.html").stat().st_mtime > (copied / "recipe.yaml").stat().st_mtime
    told = f"lines of {journal} cannot be read and are left out; the first: {journal}:{number}: "
    assert told in ended.output
    for words in (["report"], ["explain"], ["explain", "--step", "5"], ["audit", "--step", "5"], ["evaluate"]):
        view = place.command(words[0], str(copied), *words[1:]).wait()
        assert view.code == 0, view.output
        assert view.output.count(told) == 1, view.output


@pytest.mark.parametrize(
    ("name", "content"), [("outcome.json", b"{}"), (".lock", b"\xff\xfe\n"), ("outcome.json", b"[")]
)
def test_what_cannot_be_read_of_the_last_launch_hinders_no_other(
    place: Place, copied: Path, name: str, content: bytes
) -> None:
    (copied / name).write_bytes(content)
    ended = place.fit(copied, LONGER).wait()
    assert ended.code == 0, ended.output
    assert outcome(copied)["state"] == "finished"
    left = {path.name for path in copied.iterdir() if path.name.startswith(".")}
    assert left == {".lock"}


def edited_state(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    state = json.loads((folder / STATE).read_text())
    edit(state)
    (folder / STATE).write_text(json.dumps(state))
    rehashed(folder)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda state: state.update(position=None), "position"),
        (lambda state: state.update(tokens="many"), "tokens"),
        (lambda state: state.update(files=None), "files"),
        (lambda state: state["files"].update(ledger=[]), "files.ledger"),
        (lambda state: state.update(control={}), "policy"),
        (lambda state: state["control"]["guard"].update(alarm_count=None), "guard.alarm_count"),
        (lambda state: state.pop("losses"), "losses is missing"),
    ],
)
def test_a_state_of_another_make_is_refused_with_the_field(
    place: Place, copied: Path, edit: Callable[[dict[str, Any]], Any], words: str
) -> None:
    edited_state(newest(copied), edit)
    refused(place.fit(copied, LONGER).wait(), "step-00000050/state.json", words, "was changed since")


@pytest.mark.parametrize("name", ["model.model.embed_tokens.weight", "exp_avg_sq.model.norm.weight"])
def test_weights_that_are_no_numbers_are_named(place: Place, copied: Path, name: str) -> None:
    shard = newest(copied) / SHARD
    tensors = load_file(shard)
    tensors[name].view(-1)[3] = torch.nan
    save_file(tensors, shard, metadata=_metadata(shard))
    rehashed(newest(copied))
    refused(place.fit(copied, LONGER).wait(), f"NaN in {name}")
    if name.startswith("model."):
        refused(place.command("evaluate", str(copied)).wait(), f"NaN in {name}")


def _metadata(shard: Path) -> dict[str, str]:
    header = json.loads(shard.read_bytes()[8 : 8 + int.from_bytes(shard.read_bytes()[:8], "little")])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\xff" * 64], ids=["none", "text", "bits"])
def test_tensors_that_are_none_are_refused_in_words_whatever_their_hash(
    place: Place, copied: Path, content: bytes
) -> None:
    (newest(copied) / SHARD).write_bytes(content)
    rehashed(newest(copied))
    refused(place.fit(copied, LONGER).wait(), "the checkpoint does not hold the tensors of this model")


def test_a_model_is_written_under_the_users_mask(place: Place, copied: Path) -> None:
    shutil.rmtree(copied / "model")
    mask = os.umask(0o077)
    try:
        command = ["-m", "trainer", "fit", str(place.recipe), "--run", str(copied), "--set", LONGER]
        ended = place.process([sys.executable, *command]).wait()
    finally:
        os.umask(mask)
    assert ended.code == 0, ended.output
    modes = {path.name: path.stat().st_mode & 0o077 for path in [copied / "model", *(copied / "model").iterdir()]}
    assert not any(modes.values()), modes
    assert len(by_step(copied, "loss")) == 60


def test_an_audit_of_all_files_finds_each_one_that_is_not_what_was_written(place: Place, copied: Path) -> None:
    sound = place.command("audit", str(copied), "--files").wait()
    assert sound.code == 0, sound.output
    assert sound.output.count("ok      ") == 5, "journal, two checkpoints, ledger, prepared data"
    (newest(copied) / SHARD).write_bytes(b"")
    ledger = copied / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"real":500000,"good":250000', b'"real":400000,"good":350000', 1))
    found = place.command("audit", str(copied), "--files").wait()
    assert found.code == 1, found.output
    assert f"DAMAGED {newest(copied)}\n        {SHARD} has 0 bytes" in found.output
    assert f"DAMAGED {ledger}\n        it was changed after step-00000040 was saved" in found.output
    assert found.output.count("DAMAGED") == 2


def test_an_audit_says_where_a_step_was_not_trained_on_what_ledger_and_data_say(place: Place, copied: Path) -> None:
    ledger = copied / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"real":500000,"good":250000', b'"real":400000,"good":350000', 1))
    found = place.command("audit", str(copied), "--step", "5").wait()
    assert found.code == 1, found.output
    assert "THEY DIFFER" in found.output


def store_of(run: Path) -> Path:
    return Path(lines(run, "start")[0]["store"])


def own_store(place: Place, run: Path, tmp_path: Path) -> Place:
    """The same recipe with a copy of its prepared data, to do things to; the run's journal says where it lies."""
    shutil.copytree(place.folder / "cache", tmp_path / "cache")
    for name in ("together.yaml", "real.jsonl", "good.jsonl", "bad.jsonl"):
        shutil.copy2(place.folder / name, tmp_path / name)
    journal = run / "journal.jsonl"
    journal.write_text(journal.read_text().replace(str(place.folder / "cache"), str(tmp_path / "cache")))
    return Place(tmp_path, tmp_path / "together.yaml")


@pytest.mark.parametrize("name", ["source-0/segment-0/token_offsets.npy", "validation/offsets.npy"])
def test_views_of_a_run_name_the_damaged_file_of_its_prepared_data(
    place: Place, copied: Path, tmp_path: Path, name: str
) -> None:
    """A flipped bit in offsets once made the last figures hang."""
    own_store(place, copied, tmp_path)
    path = store_of(copied) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    for words in (["audit", str(copied), "--step", "5"], ["evaluate", str(copied)]):
        refused(
            place.command(*words).wait(), f"the prepared data are damaged: {name} does not match", "prepares it again"
        )


def test_a_run_prepares_damaged_data_again_and_draws_the_same_samples(
    place: Place, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    mine = own_store(place, run, tmp_path)
    shutil.rmtree(run)
    path = next((tmp_path / "cache" / "stores").glob("*/source-1/segment-0/tokens.npy"))
    path.write_bytes(path.read_bytes()[:-2])
    ended = mine.fit(run, "training.steps=10").wait()
    assert ended.code == 0, ended.output
    assert "source-1/segment-0/tokens.npy has" in ended.output
    assert "preparing them again" in ended.output
    expected = by_step(alone, "batch_hash")  # the shares follow the number of steps: those of the first evaluation on
    assert [by_step(run, "batch_hash")[step] for step in range(1, 6)] == [expected[step] for step in range(1, 6)]


@pytest.mark.parametrize("what", ["the data", "a checkpoint"])
def test_a_limit_on_files_is_told_in_a_line_with_place_and_need(place: Place, tmp_path: Path, what: str) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    if what == "a checkpoint":
        shutil.copytree(place.folder / "cache", cache)
    command = [sys.executable, "-m", "trainer", "fit", str(place.recipe), "--run", str(run)]
    kibibytes = 100 if what == "a checkpoint" else 4
    limited = ["bash", "-c", f'ulimit -f {kibibytes}; exec "$0" "$@"', *command]
    ended = place.process(limited, {"HYBRID_TRAINER_CACHE": str(cache)}).wait()
    assert "Traceback" not in ended.output
    reason = outcome(run)["reason"]
    assert outcome(run)["traceback"] is None
    assert "File too large" in reason
    assert "are needed" in reason
    assert "are free" in reason
    if what == "a checkpoint":
        assert (ended.code, "the checkpoint after step 10 could not be saved" in reason) == (1, True), ended.output
        assert str(run / "checkpoints") in reason
    else:
        assert (ended.code, "no room for the prepared data" in reason) == (2, True), ended.output
        assert str(cache) in reason
