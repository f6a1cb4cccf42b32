"""A launch that starts another number of processes than was meant is stopped before the first step, with the remedy."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.sharing import free_port
from tests.together.launches import Ended, Place, lines, outcome
from trainer.engines.launch import NUM_PROCESSES_VARIABLE

REMEDY = "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"


def assert_refused(ended: Ended, run: Path, *said: str) -> None:
    assert ended.code != 0
    assert lines(run, "step") == []
    assert outcome(run)["exit_code"] == 2
    for words in said:
        assert words in ended.output, ended.output
    assert outcome(run)["traceback"] is None


def test_accelerate_launch_cpu_which_starts_one_process_in_silence_is_refused(place: Place) -> None:
    run = place.folder / "silently-one"
    ended = place.launch(
        run, options=["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    ).wait()
    assert_refused(ended, run, REMEDY)


def test_a_launch_file_for_four_processes_that_starts_one_is_refused(place: Place) -> None:
    run, file = place.folder / "four-in-the-file", place.folder / "four.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nmixed_precision: 'no'\nnum_machines: 1\n"
        f"num_processes: 4\nmain_process_port: {free_port()}\nuse_cpu: true\ndebug: false\n"
    )
    assert_refused(place.launch(run, options=["--config_file", str(file)]).wait(), run, REMEDY)


def test_master_address_without_world_size_is_refused_with_exit_code_2(place: Place) -> None:
    run = place.folder / "no-world-size"
    ended = place.fit(run, extra={"MASTER_ADDR": "127.0.0.1"}).wait()
    assert ended.code == 2
    assert_refused(ended, run, "MASTER_ADDR is set but WORLD_SIZE is not", REMEDY)


def test_another_number_of_processes_than_the_batch_script_expects_is_refused(place: Place) -> None:
    run = place.folder / "not-as-expected"
    ended = place.fit(run, extra={NUM_PROCESSES_VARIABLE: "4"}).wait()
    assert ended.code == 2
    assert_refused(ended, run, f"{NUM_PROCESSES_VARIABLE} asks for 4 processes, but 1 started", REMEDY)


@pytest.mark.slow
def test_two_started_processes_where_the_batch_script_expects_four_are_refused(place: Place) -> None:
    run = place.folder / "two-of-four"
    ended = place.launch(run, processes=2, extra={NUM_PROCESSES_VARIABLE: "4"}).wait()
    assert_refused(ended, run, "asks for 4 processes, but 2 started")


def test_a_precision_of_the_launcher_against_the_recipe_is_refused(place: Place) -> None:
    run = place.folder / "two-precisions"
    ended = place.fit(run, extra={"ACCELERATE_MIXED_PRECISION": "bf16"}).wait()
    assert ended.code == 2
    assert_refused(ended, run, "mixed precision bf16", "training.precision fp32", "precision is the recipe's")


def test_a_second_launch_on_a_run_folder_is_refused_with_the_name_of_the_holder(place: Place) -> None:
    import fcntl

    run = place.folder / "locked"
    run.mkdir()
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 4242 on elsewhere")
        file.flush()
        ended = place.fit(run, extra={"HYBRID_TRAINER_REFUSAL": str(run / "refusal")}).wait()
    assert ended.code == 2
    assert "is in use" in ended.output
    assert "process 4242 on elsewhere" in ended.output
    assert "process 4242 on elsewhere" in (run / "refusal").read_text()  # else the batch script would try again
    assert not (run / "outcome.json").exists()  # the outcome belongs to the run that has the folder


def test_a_later_rank_of_a_refused_launch_leaves_no_trace_in_the_folder(place: Place) -> None:
    """Its main rank has not got the folder: what it wrote, the ranks of the run there would take for their own."""
    run = place.folder / "locked-for-all"
    run.mkdir()
    (run / ".lock").write_text("process 4242 on elsewhere\nelsewhere-29500")
    several = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ended = place.fit(run, extra={**several, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}).wait()
    assert ended.code == 2
    assert "error: rank 1 on" in ended.output
    assert not (run / "outcome.json").exists()


def test_the_plain_command_is_the_same_program(place: Place) -> None:
    run = place.folder / "plain"
    ended = place.process(
        [sys.executable, "-m", "trainer", "fit", str(place.recipe), "--run", str(run), "--set", "trainig.steps=3"]
    ).wait()
    assert ended.code == 2
    assert "trainig" in ended.output
    assert "Traceback" not in ended.output
    assert outcome(run)["exit_code"] == 2
    assert not (run / "ledger.jsonl").exists()


def test_a_mistake_in_the_recipe_is_printed_once_by_several_processes(place: Place) -> None:
    run = place.folder / "told-once"
    ended = place.launch(run, "trainig.steps=3", processes=2).wait()
    assert ended.code != 0
    assert ended.output.count("error: --set trainig") == 1, ended.output
    assert outcome(run)["exit_code"] == 2


def test_a_mistake_in_the_recipe_leaves_the_outcome_of_a_finished_run_alone(place: Place, alone: Path) -> None:
    run = Path(shutil.copytree(alone, place.folder / "finished"))
    ended = place.fit(run, "trainig.steps=3").wait()
    assert ended.code == 2
    assert outcome(run)["state"] == "finished"


def test_a_default_file_of_accelerate_that_starts_one_process_is_refused(place: Place) -> None:
    """`accelerate config` writes it, and the launcher reads it without being told."""
    run, home = place.folder / "default-file", place.folder / "hf-home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate" / "default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nmixed_precision: 'no'\nnum_machines: 1\n"
        f"num_processes: 4\nmain_process_port: {free_port()}\nuse_cpu: true\ndebug: false\n"
    )
    ended = place.launch(run, options=[], extra={"HF_HOME": str(home)}).wait()
    assert_refused(ended, run, REMEDY)
