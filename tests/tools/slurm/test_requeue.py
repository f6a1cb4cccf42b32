"""What a job makes of its run's end: on with it, or an end; never again and again for nothing. On a real SLURM."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.together.launches import Place, by_step, lines, outcome, write_recipe
from tests.tools.slurm.cluster import TWO_NODES, Cluster, events, said, step_of, submitted

pytestmark = pytest.mark.slow

ALONE = ["--nodes", "1", "--gpus-per-node", "0", "--cpus-per-process", "1"]
LONG = ["training.steps=3000", "evaluation.every_steps=1000", "checkpoint.every_steps=1000"]
ROOT = Path(__file__).parents[3]


def reasons(run: Path) -> str:
    return " / ".join(event["reason"] for event in events(run, "end"))


def test_a_canceled_job_saves_stays_canceled_and_resumes_when_submitted_by_hand(slurm: Cluster, place: Place) -> None:
    run = place.folder / "canceled"
    job = submitted(slurm.submit(place, run, *LONG, nodes=ALONE))
    slurm.wait(job, until=lambda: step_of(run) > 20)
    slurm.ask("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
    time.sleep(8.0)  # a requeued job would be back after 6 s
    assert slurm.state(job) == "CANCELLED"
    assert events(run, "requeue") == []
    assert outcome(run)["state"] == "interrupted"
    reached = step_of(run)
    assert (run / "checkpoints" / f"step-{reached:08d}").is_dir()
    again = slurm.ask("sbatch", "--parsable", str(run / "slurm" / "train.sbatch"))
    slurm.wait(again, until=lambda: step_of(run) > reached)
    slurm.ask("scancel", again)
    slurm.wait(again)
    assert lines(run, "start")[-1]["resumed_from"] == f"step-{reached:08d}"
    assert list(by_step(run, "batch_hash")) == list(range(1, step_of(run) + 1))


def test_a_run_that_dies_without_progress_is_given_up_after_so_many_starts(slurm: Cluster, place: Place) -> None:
    run = place.folder / "dies"
    job = submitted(slurm.submit(place, run, nodes=ALONE, more=["--env", "PYTHON=/bin/false", "--idle-restarts", "1"]))
    assert slurm.wait(job) == "FAILED", said(run)
    assert [event["event"] for event in events(run)] == ["submit", "start", "requeue", "start", "end"]
    assert "no new checkpoint in 2 starts: not requeued" in reasons(run)


def test_a_mistake_found_on_the_node_is_not_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    place = Place(tmp_path, write_recipe(tmp_path))
    run = tmp_path / "run"
    job = submitted(slurm.submit(place, run, nodes=ALONE, more=["--sbatch=--hold"]))
    (tmp_path / "good.jsonl").unlink()
    slurm.ask("scontrol", "release", job)
    assert slurm.wait(job) == "FAILED", said(run)
    assert slurm.shown(job)["ExitCode"] == "2:0"
    assert [event["event"] for event in events(run)] == ["submit", "start", "end"]
    assert "refused, see" in reasons(run)
    assert "good.jsonl" in outcome(run)["reason"]


def test_each_task_of_an_array_has_its_own_run_and_restarts_alone(slurm: Cluster, place: Place) -> None:
    """The last task's SLURM_JOB_ID is the whole array's: requeued by that, every task would start again."""
    root = place.folder / "array"
    job = submitted(slurm.submit(place, root, "training.steps=300", nodes=ALONE, more=["--array", "seed=1,2"]))
    first, last = root / "0", root / "1"
    slurm.wait(f"{job}_1", until=lambda: step_of(last) > 5)
    slurm.ask("scancel", "--batch", "-s", "USR1", f"{job}_1")
    assert [slurm.wait(f"{job}_{index}") for index in (0, 1)] == ["COMPLETED", "COMPLETED"], said(root)
    assert [len(events(run, "start")) for run in (first, last)] == [1, 2]
    assert [outcome(run)["state"] for run in (first, last)] == ["finished", "finished"]
    assert by_step(first, "batch_hash") != by_step(last, "batch_hash")
    status = place.command("submit", "--status", str(root), extra=slurm.variables).wait().output
    assert f"{job}_0" in status
    assert "1 (1 by itself, 0 by SLURM)" in status


def test_a_launch_file_is_started_on_every_node(slurm: Cluster, place: Place) -> None:
    run = place.folder / "launch-file"
    file = ROOT / "launch" / "accelerate" / "cpu_processes.yaml"
    job = submitted(slurm.submit(place, run, nodes=TWO_NODES, more=["--launch-file", str(file)]))
    assert slurm.wait(job) == "COMPLETED", said(run)
    assert lines(run, "start")[0]["world_size"] == 2


def test_a_launch_of_another_number_of_processes_than_asked_for_is_refused(slurm: Cluster, place: Place) -> None:
    """The launcher of one node starts two processes; the script expects one."""
    run = place.folder / "too-many"
    job = submitted(slurm.submit(place, run, nodes=TWO_NODES, more=["--sbatch=--hold"]))
    script = run / "slurm" / "train.sbatch"
    text = script.read_text()
    assert text.count('--nproc_per_node "$PROCESSES_PER_NODE"') == 1
    text = text.replace('--nproc_per_node "$PROCESSES_PER_NODE"', "--nproc_per_node 2").replace("#SBATCH --hold\n", "")
    (run / "other.sbatch").write_text(text)
    slurm.ask("scancel", job)
    other = slurm.ask("sbatch", "--parsable", str(run / "other.sbatch"))
    assert slurm.wait(other) == "FAILED", said(run)
    assert "HYBRID_TRAINER_NUM_PROCESSES asks for 2 processes, but 4 started" in outcome(run)["reason"]


APPTAINER = """#!/bin/bash
# Stands in for the program, which no package archive has: takes its options, and runs the command outside of any image.
printf '%s\\n' "$@" >"$SEEN"
while [ "$1" != image.sif ]; do shift; done
shift
exec "$@"
"""


def test_an_image_file_is_run_by_apptainer_and_signals_reach_the_run(
    slurm: Cluster, place: Place, tmp_path: Path
) -> None:
    run, program = place.folder / "contained", tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    more = ["--container", "image.sif", "--mount", "/data:/data", "--env", f"SEEN={tmp_path / 'seen'}"]
    more += ["--env", f"PATH={program.parent}:{os.environ['PATH']}", "--env", f"PYTHON={sys.executable}"]
    job = submitted(slurm.submit(place, run, "training.steps=100", nodes=ALONE, more=more))
    slurm.wait(job, until=lambda: step_of(run) > 5)
    slurm.ask("scancel", "--batch", "-s", "USR1", job)
    assert slurm.wait(job) == "COMPLETED", said(run)
    calls = (tmp_path / "seen").read_text().splitlines()
    assert calls[:6] == ["exec", "--pwd", str(Path.cwd()), "--bind", "/data:/data", "image.sif"]
    assert [event["event"] for event in events(run)] == ["submit", "start", "warned", "requeue", "start", "end"]
