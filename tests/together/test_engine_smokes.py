"""The same verbs drive one process, DDP, ZeRO-1 to -3 and FSDP2, and the numbers agree."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.together.launches import ACCELERATE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180.0
RELATIVE = 1e-4  # fp32 sums in another order
GROUP = [
    *(ACCELERATE, "launch", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]
SMOKE = ["-m", "tests.together.smoke_engine"]
LAUNCHES: dict[str, tuple[list[str], dict[str, str]]] = {
    "plain": ([sys.executable, *SMOKE], {}),
    "ddp": ([*GROUP, "--multi_gpu", *SMOKE], {"ACCELERATE_USE_CPU": "true"}),
    **{f"zero{stage}": ([*GROUP, "--use_deepspeed", "--zero_stage", str(stage), *SMOKE], {}) for stage in (1, 2, 3)},
    "fsdp2": (
        [
            *(*GROUP, "--use_fsdp", "--fsdp_version", "2", "--fsdp_cpu_ram_efficient_loading", "false"),
            *("--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
            *("--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer", *SMOKE),
        ],
        {"ACCELERATE_USE_CPU": "true"},
    ),
}
ZEROS = ("zero1", "zero2", "zero3")
ENGINES = {"ddp": "Replicated", "fsdp2": "FullySharded", **dict.fromkeys(ZEROS, "ZeroSharding")}
NEEDS = dict.fromkeys(ZEROS, "deepspeed")


def run_smoke(words: list[str], output: Path, *arguments: str, **variables: str) -> Any:
    """The figures that a smoke leaves; its last words when it fails."""
    given = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    process = subprocess.Popen(
        [*words, str(output), *arguments],
        cwd=ROOT,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # not kill: the launcher has processes of its own to end
        printed, _ = process.communicate(timeout=60)
        raise AssertionError(f"not done after {PATIENCE_S:g} s:\n{printed[-6000:]}") from None
    assert process.returncode == 0, printed[-6000:]
    return json.loads(output.read_text())


def require(package: str | None) -> None:
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"NOT TESTED: {package} is not installed (pip install -e '.[all,dev]')")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """``figures(launch)``: ten steps and a measurement under that launch, run once."""
    folder, figures_of = tmp_path_factory.mktemp("smokes"), dict[str, dict[str, Any]]()

    def run(name: str) -> dict[str, Any]:
        require(NEEDS.get(name))
        if name not in figures_of:
            words, variables = LAUNCHES[name]
            figures_of[name] = run_smoke(words, folder / f"{name}.json", **variables)
        return figures_of[name]

    return run


@pytest.mark.parametrize("launch", ENGINES)
def test_two_processes_train_as_one_does_with_and_without_accumulation(
    figures: Callable[[str], dict[str, Any]], launch: str
) -> None:
    plain, launched = figures("plain"), figures(launch)
    assert launched["engine"] == ENGINES[launch]
    assert (launched["world_size"], launched["num_parameters"]) == (2, plain["num_parameters"])
    assert launched["micro_batches"] == [1] * 5 + [2] * 5
    for key in ("batch_hash", "updated", "stop_requested", "ledgers_agree"):
        assert [step[key] for step in launched["steps"]] == [step[key] for step in plain["steps"]]
    for key in ("loss", "grad_norm"):
        expected = [step[key] for step in plain["steps"]]
        assert [step[key] for step in launched["steps"]] == pytest.approx(expected, rel=RELATIVE)
    assert launched["logits"] == pytest.approx(plain["logits"], rel=RELATIVE)
    assert min(launched["change"]) > 0.1  # the weights moved in both halves: logits of about 0.2


@pytest.mark.parametrize("launch", ENGINES)
def test_evidence_is_the_same_on_two_processes_however_the_weights_are_spread(
    figures: Callable[[str], dict[str, Any]], launch: str
) -> None:
    plain, launched = figures("plain")["source_value"], figures(launch)["source_value"]
    assert set(plain) == {"fresh_gain_nats", "real", "made"}
    assert launched == pytest.approx(plain, rel=1e-3)  # differences of losses: fewer digits are left


@pytest.mark.parametrize("launch", ENGINES)
def test_ranks_agree_on_one_word(figures: Callable[[str], dict[str, Any]], launch: str) -> None:
    launched = figures(launch)
    assert (launched["reduced"], launched["broadcast"], launched["gathered"]) == ([2.0, 1.0], {"from": 0}, [0, 1])
