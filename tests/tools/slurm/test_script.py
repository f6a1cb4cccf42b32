"""The batch script: the shipped file with another head, which bash and SLURM read as it was meant."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.together.launches import Ended, Place
from trainer.base.errors import UserError
from trainer.commands.cli import BAD_INPUT
from trainer.tools.slurm.request import Request
from trainer.tools.slurm.script import BEGINS, JobPlace, batch_script, template


def script(request: Request, **given: object) -> str:
    there = {
        "name": "mine",
        "root": Path("/shared/my runs/mine"),
        "folder": Path("/home/me"),
        "python": "/venv/bin/python",
    }
    return batch_script(request, JobPlace(**{**there, **given}))  # type: ignore[arg-type]


def options(text: str) -> list[str]:
    return [word for line in text.splitlines() if line.startswith("#SBATCH ") for word in shlex.split(line[8:])]


def settings(text: str, *names: str) -> list[str]:
    """The values of variables as bash sets them."""
    head = text.partition(BEGINS)[0]
    shown = " ".join(f'"${{{name}}}"' for name in names)
    process = subprocess.run(
        ["bash", "-c", f"{head}\nprintf '%s\\n' {shown}"], capture_output=True, text=True, check=True
    )
    return process.stdout.splitlines()


def dry_run(place: Place, *words: str) -> Ended:
    return place.command("submit", str(place.recipe), "--dry-run", *words).wait()


def test_what_is_submitted_is_the_shipped_script_with_another_head() -> None:
    text = script(Request(nodes=2, gpus_per_node=8))
    assert text.partition(BEGINS)[2] == template().partition(BEGINS)[2]
    assert text.startswith("#!/bin/bash\n# sbatch /shared/my runs/mine/slurm/train.sbatch\n")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_shipped_script_sets_what_a_submitted_one_sets() -> None:
    """Otherwise the script by hand and the submitted one would be two programs."""
    pattern = re.compile(r"^(?:export )?([A-Z_]+)=", flags=re.MULTILINE)
    mine = script(Request(nodes=2, gpus_per_node=8)).partition(BEGINS)[0]
    assert set(pattern.findall(template().partition(BEGINS)[0])) == set(pattern.findall(mine))
    shipped = {word.split("=")[0] for word in options(template())}
    assert shipped <= {word.split("=")[0] for word in options(script(Request(nodes=2, gpus_per_node=8, time="1:0:0")))}


def test_the_request_stands_in_the_head_in_slurms_words() -> None:
    request = Request(
        nodes=4,
        gpus_per_node=8,
        cpus_per_process=6,
        time="1-0",
        partition="big",
        account="me",
        qos="high",
        constraint="a100&ib",
        dependency="afterok:7",
        memory="0",
        options=("--exclusive",),
        warn_s=120,
    )
    head_options = options(script(request))
    for option in (
        *(
            "--nodes=4",
            "--ntasks-per-node=1",
            "--gpus-per-node=8",
            "--cpus-per-task=48",
            "--time=1-0",
            "--partition=big",
        ),
        *("--account=me", "--qos=high", "--constraint=a100&ib", "--dependency=afterok:7", "--mem=0", "--exclusive"),
        *("--signal=B:USR1@120", "--requeue", "--open-mode=append", "--chdir=/home/me"),
        "--output=/shared/my runs/mine/slurm/%j.out",
    ):
        assert option in head_options


def test_paths_and_values_with_spaces_survive_the_shell() -> None:
    request = Request(nodes=1, gpus_per_node=0, processes_per_node=3, environment=("NOTE=it's $HOME",))
    text = script(request, fit_options=["--ledger", "/a b/c"])
    assert settings(text, "RUN", "RECIPE", "NOTE", "PROCESSES_PER_NODE", "DEVICE", "FIT_OPTIONS[1]") == [
        "/shared/my runs/mine",
        "/shared/my runs/mine/slurm/recipe.yaml",
        "it's $HOME",
        "3",
        "cpu",
        "/a b/c",
    ]


def test_an_array_has_a_run_folder_for_each_task_and_says_what_it_trains() -> None:
    text = script(Request(nodes=1, gpus_per_node=1, at_once=2), sweep=[("seed=1",), ("seed=2",), ("seed=3",)])
    assert "--array=0-2%2" in options(text)
    assert "--output=/shared/my runs/mine/slurm/%A_%a.out" in options(text)
    assert "\n# 1: seed=2\n" in text
    (run,) = settings("SLURM_ARRAY_TASK_ID=1\n" + text, "RUN")
    assert run == "/shared/my runs/mine/1"


def test_a_dry_run_prints_the_script_and_leaves_no_trace(place: Place) -> None:
    run = place.folder / "dry"
    ended = dry_run(place, "--run", str(run), "--nodes", "2", "--gpus-per-node", "2", "--time", "1:00:00")
    assert ended.code == 0
    assert ended.output.startswith("#!/bin/bash\n")
    assert f"export RUN={run}\n" in ended.output
    assert not run.exists()


def test_mistakes_in_recipe_and_request_are_printed_together_and_exit_2(place: Place) -> None:
    ended = dry_run(place, "--set", "trainig.steps=3", "--time", "1h", "--array", "seed=", "--env", "x")
    assert ended.code == BAD_INPUT
    for message in ("trainig", "--time is not a time limit", "--array is not of the form", "--env is not of the form"):
        assert message in ended.output
    assert "Traceback" not in ended.output


def test_a_mistake_of_one_task_or_of_all_tasks_of_an_array_is_printed_once(place: Place) -> None:
    ended = dry_run(place, "--array", "seed=1,2,-1", "--set", "training.micro_batch=0")
    assert ended.code == BAD_INPUT
    assert ended.output.count("training.micro_batch should be greater than 0") == 1
    assert ended.output.count("seed should be greater than or equal to 0") == 1


def test_more_processes_than_samples_in_a_batch_are_refused(place: Place) -> None:
    ended = dry_run(place, "--nodes", "4", "--gpus-per-node", "8")
    assert ended.code == BAD_INPUT
    assert "32 processes are asked for, and a global batch has 12 samples" in ended.output


def test_a_launch_file_is_refused_where_the_recipe_runs_under_lightning(place: Place) -> None:
    launch_file = Path("launch/accelerate/ddp.yaml").resolve()
    ended = dry_run(place, "--set", "engine=lightning", "--gpus-per-node", "2", "--launch-file", str(launch_file))
    assert ended.code == BAD_INPUT
    assert "--launch-file is accelerate launch's, and the recipe says engine: lightning" in ended.output


@pytest.mark.parametrize(
    ("words", "message"),
    [((), "Give either a RECIPE"), (("--status", "nowhere"), "no job was submitted for this run")],
)
def test_a_question_without_an_answer_is_text_and_exit_2(place: Place, words: tuple[str, ...], message: str) -> None:
    ended = place.command("submit", *words).wait()
    assert ended.code == BAD_INPUT
    assert message in ended.output


def test_without_slurm_submit_says_where_to_go(place: Place) -> None:
    ended = place.command(
        "submit", str(place.recipe), "--run", str(place.folder / "x"), extra={"PATH": "/nowhere"}
    ).wait()
    assert ended.code == BAD_INPUT
    assert "sbatch is not on this machine" in ended.output
    assert "--dry-run" in ended.output


def test_a_run_folder_that_a_process_trains_in_is_refused(place: Place) -> None:
    import fcntl

    run = place.folder / "held"
    run.mkdir()
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 4242 on elsewhere")
        file.flush()
        ended = dry_run(place, "--run", str(run))
    assert ended.code == BAD_INPUT
    assert "process 4242 on elsewhere" in ended.output


SLURM = """#!/bin/bash
case $(basename "$0")/$1/$2 in
    scontrol/show/hostnames) echo node1 ;;
    scontrol/show/job) echo JobState=RUNNING ;;
    scontrol/requeue/*) exit 1 ;;
    srun/*) eval "$SRUN"; exit 2 ;;
esac
"""


@pytest.mark.parametrize(
    ("srun", "code", "message"),
    [
        ('echo "in use" >"$HYBRID_TRAINER_REFUSAL"', 2, "refused, see"),
        ("", 75, "left no outcome"),
        ("""printf '{\\n "state": "failed",\\n "exit_code": 2\\n}' >"$RUN/outcome.json\"""", 2, "refused, see"),
    ],
    ids=["in use", "no outcome", "its own outcome"],
)
def test_a_job_takes_no_other_runs_outcome_and_ends_where_the_folder_is_in_use(
    tmp_path: Path, srun: str, code: int, message: str
) -> None:
    """The script as it is, with stand-ins for SLURM's commands: an outcome that was there before is not this job's."""
    run, programs = tmp_path / "run", tmp_path / "bin"
    for folder in (run, programs):
        folder.mkdir()
    for name in ("srun", "scontrol"):
        (programs / name).write_text(SLURM)
        (programs / name).chmod(0o755)
    before = json.dumps({"state": "interrupted", "exit_code": 75}, indent=1)
    (run / "outcome.json").write_text(before)
    text = script(Request(nodes=1, gpus_per_node=0), root=run, folder=tmp_path)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node1", "SRUN": srun}
    process = subprocess.run(
        ["bash", "-c", text],
        env={**os.environ, **job, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    events = [json.loads(line) for line in (run / "slurm" / "events.jsonl").read_text().splitlines()]
    reasons = " / ".join(event["reason"] for event in events)
    assert message in reasons, process.stderr
    assert process.returncode == code
    assert (run / "outcome.json").exists()
    if "outcome.json" not in srun:
        assert (run / "outcome.json").read_text() == before


@pytest.mark.parametrize(
    "given",
    [
        {"root": Path("/runs/a\ntouch MARK\n#")},
        {"folder": Path("/home/me\ntouch MARK")},
        {"python": "/venv\r/python"},
        {"settings": {"HYBRID_TRAINER_CACHE": "/x\ny"}},
        {"fit_options": ["--ledger", "a\nb"]},
        {"sweep": [["seed=1\ntouch MARK"]]},
    ],
)
def test_no_value_begins_a_line_of_its_own(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="control character"):
        script(Request(nodes=1, gpus_per_node=1), **given)


def test_a_percent_sign_of_the_run_folder_is_no_pattern_of_slurm() -> None:
    place = {"root": Path("/shared/my run 50%done"), "name": "x"}
    assert "--output=/shared/my run 50%%done/slurm/%j.out" in options(
        script(Request(nodes=1, gpus_per_node=1), **place)
    )
    sweep = options(script(Request(nodes=1, gpus_per_node=1), sweep=[["seed=1"]], **place))
    assert "--output=/shared/my run 50%%done/slurm/%A_%a.out" in sweep
    assert settings(script(Request(nodes=1, gpus_per_node=1), **place), "RUN") == ["/shared/my run 50%done"]


@pytest.mark.parametrize("option", ["--run", "--ledger"])
def test_a_line_break_in_a_folder_is_refused_before_anything_is_written(place: Place, option: str) -> None:
    ended = dry_run(place, option, "a\ntouch MARK\n#")
    assert ended.code == BAD_INPUT
    assert f"{option} holds a control character" in ended.output
    assert "Traceback" not in ended.output
