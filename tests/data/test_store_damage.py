"""A prepared store that is not what was written is named, and prepared again; one that is, is used from anywhere."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from tests.data.corpus import prepared, recipe, small_files
from tests.data.harm import NEEDS_ROOT, flip, read_only
from trainer.base.errors import UserError
from trainer.data import waiting
from trainer.data.config import DataConfig
from trainer.data.fingerprint import stamp_key
from trainer.data.prepare import prepare
from trainer.data.store import COMPLETE, MANIFEST, PreparedData, open_prepared
from trainer.data.store_files import DamagedStoreError, files_in
from trainer.data.whole import is_marked, open_whole, require_whole

FILES = (
    COMPLETE,
    "quarantine.jsonl",
    *(
        f"source-{source}/segment-0/{name}"
        for source in (0, 1)
        for name in ("documents.jsonl", "line_offsets.npy", "token_offsets.npy", "tokens.npy")
    ),
    MANIFEST,
    *(
        f"{part}/{name}"
        for part in ("test", "validation")
        for name in ("names.json", "num_bytes.npy", "offsets.npy", "slice_of.npy", "tokens.npy")
    ),
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)


HARMS: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "first bit flipped": lambda path: flip(path, 0),
    "a bit flipped": lambda path: flip(path, path.stat().st_size // 2),
    "last bit flipped": lambda path: flip(path, -1),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}


@pytest.fixture
def folder(folder: Path, own_cache: Path) -> Path:
    with (folder / "web.jsonl").open("ab") as file:
        file.write(b"no row\n")  # so that the quarantine is not empty
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("pristine")
    small_files(folder)
    with (folder / "web.jsonl").open("ab") as file:
        file.write(b"no row\n")
    return prepared(folder, recipe())


def test_every_file_of_a_store_is_harmed_here(pristine: PreparedData) -> None:
    assert set(FILES) == set(files_in(pristine.folder))
    assert set(FILES) == set(pristine.files) | {MANIFEST, COMPLETE}


@pytest.mark.parametrize("name", FILES)
def test_whatever_happens_to_a_file_it_is_named_when_the_store_is_opened(
    pristine: PreparedData, tmp_path: Path, name: str
) -> None:
    for harm, act in HARMS.items():
        if name == "quarantine.jsonl" and harm == "emptied":
            assert pristine.files[name].bytes, "an empty file cannot be emptied"
        copy = Path(shutil.copytree(pristine.folder, tmp_path / harm))
        act(copy / name)
        with pytest.raises(UserError) as refused:
            open_whole(copy)
        if (name, harm) == (COMPLETE, "missing"):
            assert "not a complete prepared store" in str(refused.value)
            continue
        assert isinstance(refused.value, DamagedStoreError)
        assert name in str(refused.value), harm
        assert "prepares it again" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("source-0/segment-0/tokens.npy", "a bit flipped"),
        ("test/offsets.npy", "a bit flipped"),
        ("validation/names.json", "missing"),
        (MANIFEST, "emptied"),
        (COMPLETE, "missing"),
    ],
)
def test_a_damaged_store_is_prepared_again_after_a_word(
    folder: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = prepared(folder, recipe())
    HARMS[harm](before.folder / name)
    after = prepared(folder, recipe())
    assert (after.folder, after.fingerprint, after.files) == (before.folder, before.fingerprint, before.files)
    assert files_in(after.folder).items() >= after.files.items()
    assert [path for path in before.folder.parent.iterdir() if path.is_dir()] == [after.folder]
    told = [record.message for record in caplog.records if "preparing them again" in record.message]
    assert [name in message for message in told] == ([] if name == COMPLETE else [True])


def test_what_a_pointer_leads_to_is_not_believed_either(folder: Path) -> None:
    data = prepared(folder, recipe())
    (pointer,) = (folder / "cache" / "runs").glob("*.store")
    for text in ("", "../..", "x" * 5000, "\0", "0" * 32):
        pointer.write_text(text)
        assert prepared(folder, recipe()).fingerprint == data.fingerprint


def test_a_store_that_was_prepared_again_has_another_seal(folder: Path) -> None:
    before = prepared(folder, recipe())
    flip(before.folder / "test" / "tokens.npy", -1)
    assert prepared(folder, recipe()).seal != before.seal


@NEEDS_ROOT
@pytest.mark.parametrize("left_out", ["nothing", "pointer", "notes"])
def test_a_store_in_a_cache_that_is_read_only_is_used(folder: Path, own_cache: Path, left_out: str) -> None:
    data, runs = prepared(folder, recipe()), folder / "cache" / "runs"
    (runs / f"{next(runs.glob('*.store')).stem}.failed").write_text("an old one")
    if left_out == "pointer":
        next(runs.glob("*.store")).unlink()
    if left_out == "notes":
        shutil.rmtree(runs)
    with read_only(folder / "cache"):
        again = prepared(folder, recipe())
        other = prepared(folder, recipe(), is_main=False, patience_s=5)
    assert again.seal == other.seal == data.seal
    assert bool(list(own_cache.glob("runs/*.store"))) == (left_out != "nothing"), "noted where there is room for it"


@NEEDS_ROOT
def test_what_is_missing_or_damaged_in_a_cache_that_is_read_only_is_refused_in_words(folder: Path) -> None:
    data = prepared(folder, recipe())
    flip(data.folder / "source-1" / "segment-0" / "tokens.npy", -1)
    with read_only(folder / "cache"):
        for seed, tree in ((0, recipe()), (0, recipe(sequence_length=8))):
            with pytest.raises(UserError, match=r"cannot be written to: Read-only file system .*data\.cache"):
                prepared(folder, tree, seed)


@NEEDS_ROOT
def test_with_nowhere_to_note_anything_a_store_is_used_all_the_same(folder: Path, own_cache: Path) -> None:
    data = prepared(folder, recipe())
    own_cache.mkdir()
    with read_only(folder / "cache"), read_only(own_cache):
        assert prepared(folder, recipe()).seal == data.seal
        assert prepared(folder, recipe(), is_main=False, patience_s=5).seal == data.seal


@NEEDS_ROOT
@pytest.mark.parametrize("kilobytes", [64, 200])
def test_a_cache_without_room_is_told_in_a_line_with_what_is_needed(folder: Path, kilobytes: int) -> None:
    cache = folder / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(cache)], check=True)
    try:
        (cache / "ballast").write_bytes(b"\0" * (kilobytes - 24) * 1024)
        with pytest.raises(UserError, match=r"no room for the prepared data: No space left on device") as refused:
            prepared(folder, recipe())
        assert str(refused.value).startswith(f"{cache}: ")
        assert "kB are needed" in str(refused.value)
        assert "are free" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not list(cache.glob("stores/*.tmp")), "what was begun is removed"
    finally:
        subprocess.run(["umount", "--lazy", str(cache)], check=True)


def test_the_other_processes_wait_where_a_file_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_S", 0.01)
    data, opened = prepared(folder, recipe()), list[PreparedData]()
    (data.folder / "test" / "offsets.npy").unlink()
    waiter = Thread(target=lambda: opened.append(prepared(folder, recipe(), is_main=False)))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    again = prepared(folder, recipe())
    waiter.join(30)
    assert [other.seal for other in opened] == [again.seal]


def test_a_store_of_another_format_says_so(folder: Path) -> None:
    data = prepared(folder, recipe())
    (data.folder / COMPLETE).write_text("")
    manifest = data.folder / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": ', '"format": 1'))
    with pytest.raises(UserError, match="a prepared store has format 1"):
        open_prepared(data.folder)


def test_files_that_this_user_may_not_read_are_refused_in_words(folder: Path) -> None:
    data = prepared(folder, recipe())
    (data.folder / "test" / "names.json").unlink()
    (data.folder / "test" / "names.json").mkdir()  # root may read everything but a folder
    with pytest.raises(UserError, match=r"names\.json"):
        open_prepared(data.folder)


def test_a_key_of_the_cache_is_the_same_for_all_processes(folder: Path) -> None:
    config = DataConfig.model_validate(recipe())
    prepare(config, seed=0, base=folder)
    key = stamp_key(config, seed=0, base=folder, cache=folder / "cache")
    assert waiting.pointed_store(folder / "cache", key) is not None


def test_a_file_that_turns_out_to_be_unreadable_is_named(folder: Path) -> None:
    data = prepared(folder, recipe())
    path = data.folder / "source-0" / "segment-0" / "documents.jsonl"
    path.unlink()
    path.symlink_to(path.name)  # a loop: what no user can read, root neither
    with pytest.raises(DamagedStoreError, match=r"documents\.jsonl cannot be read"):
        require_whole(data)
    assert not is_marked(data)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["the index", "its account"])
def test_a_local_index_that_is_not_what_was_written_is_made_again(
    folder: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    tree = recipe()
    tree["sources"]["made"]["streaming"] = True
    before = prepared(folder, tree)
    index = next(path for path in (folder / "cache" / "index").glob("*.jsonl"))
    shutil.rmtree(before.folder)
    HARMS[harm](index if name == "the index" else index.with_suffix(".files.json"))
    after = prepared(folder, tree)
    assert after.files == before.files
    told = [
        record.message for record in caplog.records if "local index of made is not what was written" in record.message
    ]
    assert len(told) == ((name, harm) != ("the index", "missing"))


@pytest.mark.parametrize(("written", "changed"), [('"read": 1', '"read": 2'), ('"skipped"', '"skippad"')])
def test_an_account_of_a_local_index_that_still_is_json_is_not_believed(
    folder: Path, written: str, changed: str
) -> None:
    tree = recipe()
    tree["sources"]["made"]["streaming"] = True
    before = prepared(folder, tree)
    account = next((folder / "cache" / "index").glob("*.files.json"))
    text = account.read_text()
    assert written in text
    account.write_text(text.replace(written, changed))
    shutil.rmtree(before.folder)
    assert prepared(folder, tree).files == before.files
    assert account.read_text() == text
