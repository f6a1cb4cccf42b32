"""What is asked of a cluster: read as SLURM reads it, and refused with a remedy where it cannot be meant."""

from pathlib import Path

import pytest

from trainer.tools.slurm.request import Request, combinations, mistakes, seconds


def told(**given: object) -> list[str]:
    return [str(mistake) for mistake in mistakes(Request(**{"nodes": 2, "gpus_per_node": 8, **given}))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("30", 1_800),
        ("10:30", 630),
        ("24:00:00", 86_400),
        ("2-12", 216_000),
        ("1-00:30", 88_200),
        ("1-00:00:05", 86_405),
        ("1h", None),
        ("", None),
        ("1-", None),
        ("1:2:3:4", None),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(time: str, expected: int | None) -> None:
    assert seconds(time) == expected


def test_a_sensible_request_has_no_mistakes() -> None:
    given = {"time": "1-0", "environment": ("NCCL_DEBUG=INFO",), "options": ("--exclusive",), "sweep": ("seed=1-3",)}
    assert told(**given, at_once=2) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes_per_node": 4}, "one process drives one GPU (got 4). Leave it out, or ask for --gpus-per-node 4"),
        ({"time": "1h"}, "--time is not a time limit (got '1h'). Write it as minutes"),
        ({"time": "5"}, "--time leaves nothing to train in"),
        ({"environment": ("DEBUG",)}, "not of the form NAME=VALUE"),
        ({"environment": ("WANDB_API_KEY=x",)}, "Export WANDB_API_KEY before `trainer submit`"),
        ({"environment": ("HF_TOKEN=x",)}, "looks like a secret"),
        ({"options": ("exclusive",)}, "--sbatch takes an option of sbatch"),
        ({"options": ("--x\n#SBATCH --y",)}, "--sbatch holds a control character"),
        ({"launch_file": Path("gone.yaml")}, "--launch-file cannot be read"),
        ({"launch_file": Path("launch/accelerate/one_gpu.yaml")}, "starts one process"),
        ({"sweep": ("seed",)}, "--array is not of the form KEY=V1,V2"),
        ({"sweep": ("seed=1,,2",)}, "--array is not of the form KEY=V1,V2"),
        ({"sweep": ("seed=1,2", "seed=3")}, "--array names a key twice (got 'seed')"),
        ({"sweep": ("seed=1-2000",)}, "--array makes 2000 runs"),
        ({"at_once": 2}, "there is none"),
    ],
)
def test_a_mistake_says_what_was_given_and_what_to_do(given: dict[str, object], message: str) -> None:
    (mistake,) = told(**given)
    assert message in mistake


def test_a_deepspeed_file_that_the_job_would_not_find_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path is read from the folder the job starts in, which is the one `trainer submit` is called in."""
    launch_file = Path("launch/accelerate/zero2.yaml").resolve()
    assert told(launch_file=launch_file) == []
    monkeypatch.chdir(tmp_path)
    (mistake,) = told(launch_file=launch_file)
    assert "--launch-file names a DeepSpeed file that is not there" in mistake
    assert "got 'launch/deepspeed/zero2.json'" in mistake


def test_all_mistakes_are_reported_together() -> None:
    assert len(told(time="x", environment=("a",), options=("b",), sweep=("c",), processes_per_node=3)) == 5


def test_the_combinations_of_a_sweep_keep_lists_whole() -> None:
    assert combinations(["seed=1-2", "mixture.shares={a: 0.5, b: 0.5},{a: 1, b: 0}"]) == [
        ("seed=1", "mixture.shares={a: 0.5, b: 0.5}"),
        ("seed=1", "mixture.shares={a: 1, b: 0}"),
        ("seed=2", "mixture.shares={a: 0.5, b: 0.5}"),
        ("seed=2", "mixture.shares={a: 1, b: 0}"),
    ]
    assert combinations(["tags=['a,b', c]"]) == [("tags=['a,b', c]",)]


@pytest.mark.parametrize(
    "variable",
    [
        "APIKEY=x", "PAT=x", "GITHUB_PAT=x", "DB_PASS=x", "MYSQL_PWD=x", "AUTH=x", "SESSION_COOKIE=x", "SIGNING_KEYS=x",
        "JWT=x", "ACCESSTOKEN2=x", "Slack_Webhook=x", "DB=postgres://me:word@host/db", "X=hf_abcdefghijklmnop",
        "X=sk-abcdefghijklmnopqrst", "X=ghp_abcdefghijklmnop", "X=eyJhbGciOi.eyJzdWIiOi.x", "AWS=AKIAABCDEFGHIJKLMNOP",
    ],
)  # fmt: skip
def test_a_variable_that_looks_like_a_secret_is_not_written_into_the_script(variable: str) -> None:
    [mistake] = told(environment=(variable,))
    assert "looks like a secret" in mistake
    assert variable.partition("=")[2] not in mistake or variable.endswith("=x")


@pytest.mark.parametrize(
    "variable",
    [
        "TOKENIZERS_PARALLELISM=false",
        "PATH=/bin",
        "PYTHONPATH=/x",
        "NCCL_DEBUG=INFO",
        "MASTER=a:b",
        "URL=http://h:80/x",
    ],
)
def test_an_ordinary_variable_is_no_secret(variable: str) -> None:
    assert told(environment=(variable,)) == []


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b", "\x00", "\x85", "\u2028"])
@pytest.mark.parametrize(
    "field",
    ["memory", "time", "partition", "account", "qos", "constraint", "dependency", "container", "container_mounts",
     "environment", "options", "sweep"],
)  # fmt: skip
def test_a_control_character_in_a_value_is_refused(field: str, sign: str) -> None:
    value = f"--a=b{sign}touch MARK"
    given = (value,) if field in ("container_mounts", "environment", "options", "sweep") else value
    assert "holds a control character" in " ".join(told(**{field: given}))
