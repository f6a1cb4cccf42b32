"""A checkpoint is complete or absent, whatever happens while it is written, and damage is found before it is used."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.base.errors import UserError
from trainer.training.checkpoint import (
    MANIFEST,
    STATE,
    clean,
    damage,
    latest,
    require_space,
    save,
    set_aside_newer,
    settle,
)
from trainer.training.run import RunState

SEALED = ("fsync", "rename", "mkdir", "rmdir", "unlink", "write")  # what a kill can come before


class Alone:
    """The only rank."""

    rank, world_size = 0, 1

    def gather(self, value: Any) -> list[Any]:
        return [value]


def writer(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(content)
        (folder / "optimizer").write_bytes(content[::-1])

    return write


def state_at(step: int) -> dict[str, Any]:
    return RunState(step=step, position=step).to_json()


def save_step(root: Path, step: int, keep: int = 2) -> Path:
    state = state_at(step)
    write = writer(b"weights of step %d" % step)
    return save(root, step, write=write, state=state, keep=keep, last_healthy_step=0, ranks=Alone())[0]


def fail(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)


def test_what_was_saved_is_found_with_its_state(tmp_path: Path) -> None:
    folder = save_step(tmp_path, 7)
    checkpoint = latest(tmp_path, warn=fail)
    assert checkpoint is not None
    assert (checkpoint.folder, checkpoint.step, checkpoint.state) == (folder, 7, json.loads(json.dumps(state_at(7))))
    assert (checkpoint.folder / "weights").read_bytes() == b"weights of step 7"


def test_every_folder_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def write(folder: Path) -> None:
        (folder / "sharded" / "deep").mkdir(parents=True)
        (folder / "sharded" / "deep" / "weights").write_bytes(b"weights")

    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save(tmp_path, 7, write=write, state={}, keep=1, last_healthy_step=0, ranks=Alone())
    aside = tmp_path / ".step-00000007.partial"
    assert {aside, aside / "sharded", aside / "sharded" / "deep"} <= set(synced)


class TwoDisks(Alone):
    """The first of two ranks; the second has written to a disk of its own."""

    world_size = 2

    def gather(self, value: Any) -> list[Any]:
        result, problem = value
        return [value, ([] if isinstance(result, list) else None, problem)]


def test_ranks_that_see_different_files_do_not_publish_a_part_as_the_whole(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="must be on a disk that all share"):
        save(tmp_path, 3, write=writer(b"x"), state={}, keep=2, last_healthy_step=0, ranks=TwoDisks())
    assert not list(tmp_path.glob("step-*"))


class Second:
    """The second of two ranks; the first has made its folder, on another disk."""

    rank, world_size = 1, 2

    def gather(self, value: Any) -> list[Any]:
        return [(None, None), value]


@pytest.mark.parametrize("harm", ["not there", "not a folder"])
def test_a_rank_that_cannot_write_into_the_folder_is_named_before_anybody_writes(tmp_path: Path, harm: str) -> None:
    """What one rank fails at inside ``write`` leaves the others waiting in a collective."""
    if harm == "not a folder":
        (tmp_path / ".step-00000007.partial").write_text("")

    def write(folder: Path) -> None:
        pytest.fail("it wrote")

    with pytest.raises(OSError, match=r"rank 1: .*step-00000007.partial"):
        save(tmp_path, 7, write=write, state={}, keep=1, last_healthy_step=0, ranks=Second())


def test_no_folder_and_an_empty_folder_hold_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent", warn=fail) is None
    assert latest(tmp_path, warn=fail) is None


def test_only_the_newest_are_kept_and_the_pointer_names_the_last(tmp_path: Path) -> None:
    for step in (5, 10, 100_000_000, 999_999_999):  # by number: as names the last two would come first
        save_step(tmp_path, step)
    assert {path.name for path in tmp_path.glob("step-*")} == {"step-100000000", "step-999999999"}
    assert (tmp_path / "latest").read_text() == "step-999999999\n"


def killed_at(operation: int, root: Path, step: int) -> bool:
    """Save in a child process that dies by signal 9 before its n-th file operation; whether it got that far."""
    child = os.fork()
    if child == 0:
        num_operations = [0]

        def counted(name: str) -> None:
            original = getattr(os, name)

            def wrapped(*args: object, **more: object) -> object:
                if num_operations[0] == operation:
                    os.kill(os.getpid(), signal.SIGKILL)
                num_operations[0] += 1
                return original(*args, **more)

            setattr(os, name, wrapped)

        for name in SEALED:
            counted(name)
        save_step(root, step, keep=1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.faults
@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step reached again"])
def test_a_kill_before_any_file_operation_of_a_save_leaves_a_complete_checkpoint(tmp_path: Path, again: bool) -> None:
    step, operation, steps_left = (10 if again else 20), 0, set()
    while True:
        root = tmp_path / str(operation)
        save_step(root, 10)
        died = killed_at(operation, root, step)
        clean(root)
        checkpoint = latest(root, warn=fail)
        assert checkpoint is not None
        assert checkpoint.step in (10, step)
        assert (checkpoint.folder / "weights").read_bytes() == b"weights of step %d" % checkpoint.step
        assert not list(root.glob(".step-*"))
        save_step(root, 30)  # and the next save works
        newest = latest(root, warn=fail)
        assert newest is not None
        assert newest.step == 30
        steps_left.add(checkpoint.step)
        if not died:
            break
        operation += 1
    assert operation > 8, "the save does fewer file operations than it must"
    assert steps_left == {10, step}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    place=st.integers(0, 10_000), bit=st.integers(0, 7), name=st.sampled_from([MANIFEST, STATE, "weights", "optimizer"])
)
def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path: Path, place: int, bit: int, name: str) -> None:
    folder = save_step(tmp_path, 3)
    flip(folder / name, place, bit)
    problem = damage(folder)
    if name == MANIFEST and problem is None:  # in the step or in white space, which nothing depends on
        assert all((folder / file).is_file() for file in json.loads((folder / MANIFEST).read_text())["files"])
    else:
        assert problem is not None
        assert name in problem or MANIFEST in problem or name == MANIFEST


@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, harm: str) -> None:
    save_step(tmp_path, 10)
    weights = save_step(tmp_path, 20) / "weights"
    match harm:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "flipped":
            flip(weights, 5)
        case "missing":
            weights.unlink()
        case _:
            (weights.parent / MANIFEST).unlink()
    warnings: list[str] = []
    checkpoint = latest(tmp_path, warn=warnings.append)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert len(warnings) == 1
    assert "step-00000020 is damaged" in warnings[0]


FILES = (MANIFEST, STATE, "weights", "optimizer")
HARMS: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped": lambda path: flip(path, path.stat().st_size // 2, bit=2),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_whatever_happens_to_a_file_the_checkpoint_is_passed_over_and_the_file_named(
    tmp_path: Path, name: str, harm: str
) -> None:
    save_step(tmp_path, 10)
    HARMS[harm](save_step(tmp_path, 20) / name)
    warnings: list[str] = []
    checkpoint = latest(tmp_path, warn=warnings.append)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert len(warnings) == 1
    assert name in warnings[0] or MANIFEST in warnings[0]


def rewritten(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_that_leaves_out_a_file_is_not_believed(tmp_path: Path) -> None:
    folder = save_step(tmp_path, 10)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    rewritten(folder / MANIFEST, files={name: entry for name, entry in files.items() if name != "weights"})
    assert damage(folder) == f"{MANIFEST} does not name weights"
    (folder / "weights").unlink()
    (folder / "deep").mkdir()
    (folder / "deep" / "more").touch()
    assert damage(folder) == f"{MANIFEST} does not name deep/more"


def test_files_that_a_file_manager_or_a_network_file_system_leaves_do_no_harm(tmp_path: Path) -> None:
    folder = save_step(tmp_path, 10)
    (folder / ".DS_Store").touch()
    (folder / ".nfs0001").touch()
    assert damage(folder) is None


@pytest.mark.parametrize("step", [15, 99_999_999_999])
def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(tmp_path: Path, step: int) -> None:
    for saved in (10, 20):
        save_step(tmp_path, saved)
    shutil.copytree(tmp_path / "step-00000020", tmp_path / f"step-{step:08d}")
    shutil.rmtree(tmp_path / "step-00000020")
    warnings: list[str] = []
    checkpoint = latest(tmp_path, warn=warnings.append)
    assert checkpoint is not None
    assert checkpoint.step == 10
    assert [warning for warning in warnings if "says that it is the checkpoint after step 20" in warning] == warnings


@pytest.mark.parametrize("state", [{}, [], None, 3, {"step": 11}, {"step": None}])
def test_a_state_that_is_not_that_of_the_step_is_damage_whatever_its_hash(tmp_path: Path, state: Any) -> None:
    folder = save(tmp_path, 10, write=writer(b"x"), state=state, keep=2, last_healthy_step=0, ranks=Alone())[0]
    problem = damage(folder)
    assert problem is not None
    assert problem.startswith(STATE)


@pytest.mark.parametrize("name", ["step-00000010", ".step-00000010.partial", "damaged-step-00000010"])
def test_a_file_that_is_named_like_a_checkpoint_is_refused_at_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"{name}: this is not a folder"):
        clean(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_save_that_was_killed_after_its_rename_left_to_do_is_done_at_the_next_start(tmp_path: Path) -> None:
    for step in (10, 20):
        save_step(tmp_path, step)
    (tmp_path / "latest").write_text("step-00000010\n")
    (tmp_path / ".latest.123.partial").touch()
    clean(tmp_path)
    newest = latest(tmp_path, warn=fail)
    assert newest is not None
    settle(tmp_path, newest, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000020"]
    assert (tmp_path / "latest").read_text() == "step-00000020\n"


def test_a_lack_of_space_is_told_in_units_that_fit(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match=r"checkpoints need [0-9.]+ [TG]B more .*, [0-9.]+ [TGMk]B are free"):
        require_space(tmp_path, free, keep=1)


def test_when_none_is_whole_the_run_is_not_started_anew_in_silence(tmp_path: Path) -> None:
    for step in (10, 20):
        flip(save_step(tmp_path, step) / "weights", 0)
    warnings: list[str] = []
    with pytest.raises(UserError, match=r"no checkpoint in .* is complete"):
        latest(tmp_path, warn=warnings.append)
    assert len(warnings) == 2


def test_a_rollback_finds_the_newest_up_to_a_step(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_step(tmp_path, step, keep=3)
    checkpoint = latest(tmp_path, warn=fail, at_most=29)
    assert checkpoint is not None
    assert checkpoint.step == 20
    assert latest(tmp_path, warn=fail, at_most=9) is None


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_newer_checkpoint_does_not_push_a_complete_one_out(tmp_path: Path, keep: int) -> None:
    for step in (10, 20):
        save_step(tmp_path, step, keep=2)
    flip(tmp_path / "step-00000020" / "weights", 0)
    checkpoint = latest(tmp_path, warn=lambda text: None)
    assert checkpoint is not None
    set_aside_newer(tmp_path, checkpoint.step)
    save_step(tmp_path, 15, keep=keep)  # stopped by a signal before it came to step 20 again
    checkpoint = latest(tmp_path, warn=fail)
    assert checkpoint is not None
    assert checkpoint.step == 15
    assert (tmp_path / "damaged-step-00000020").is_dir(), "what is damaged is kept for whoever can repair it"


def test_a_folder_that_cannot_be_read_back_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def losing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and self.is_dir():
            (self / "weights").write_bytes(b"what a broken disk made of it")
        return rename(self, target)

    save_step(tmp_path, 10)
    monkeypatch.setattr(Path, "rename", losing)
    with pytest.raises(OSError, match="does not read back"):
        save_step(tmp_path, 20, keep=1)
    assert damage(tmp_path / "step-00000010") is None, "the old one goes only after the new one is verified"


def test_space_is_asked_for_what_is_still_to_come(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path / "not" / "there" / "yet", free // 4, keep=2)
    with pytest.raises(UserError, match=r"2 kept and one being written.*are free"):
        require_space(tmp_path, int(free / 2.5), keep=2)
    for step in (10, 20):
        save_step(tmp_path, step)
    require_space(tmp_path, int(free / 2.5), keep=2)  # two are there already: only the one being written is needed
