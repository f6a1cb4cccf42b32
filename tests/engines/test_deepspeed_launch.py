"""What a launch of DeepSpeed may say, in its file or without one: where a run trains, and nothing of what."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.steps import training
from trainer.base.errors import UserError
from trainer.engines import check_engine

REFUSED: dict[str, dict[str, Any]] = {
    "torch_autocast": {"torch_autocast": {"enabled": True, "dtype": "float16"}},
    "communication_data_type": {"communication_data_type": "fp16"},
    "data_types": {"data_types": {"grad_accum_dtype": "bf16"}},
    "prescale_gradients": {"prescale_gradients": True},
    "bf16_master_weights_and_grads": {"bf16": {"enabled": False, "bf16_master_weights_and_grads": True}},
    "zero_hpz_partition_size": {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}},
    "compute_grad_norm": {"zero_optimization": {"stage": 2, "compute_grad_norm": False}},
    "mics_shard_size": {"zero_optimization": {"stage": 3, "mics_shard_size": 2}},
    "zero_quantized_weights": {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
    "offload_optimizer.ratio": {
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}
    },
}
ALLOWED: dict[str, Any] = {
    "zero_optimization": {"stage": 3, "overlap_comm": True, "offload_optimizer": {"device": "cpu", "ratio": 1.0}},
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto", "loss_scale_window": 1000},
    "gradient_clipping": "auto",
    "steps_per_print": 100,
    "wall_clock_breakdown": False,
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    return monkeypatch


def say(launched: pytest.MonkeyPatch, folder: Path, config: dict[str, Any]) -> None:
    file = folder / "ds.json"
    file.write_text(json.dumps(config))
    launched.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))


@pytest.mark.parametrize("named", REFUSED)
def test_a_key_that_contradicts_the_recipe_or_the_checkpoints_is_refused(
    launched: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    say(launched, tmp_path, {"zero_optimization": {"stage": 2}, **REFUSED[named]})
    with pytest.raises(UserError, match=named):
        check_engine(training())


def test_what_says_where_and_when_is_allowed(launched: pytest.MonkeyPatch, tmp_path: Path) -> None:
    say(launched, tmp_path, ALLOWED)
    check_engine(training())


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("ACCELERATE_GRADIENT_CLIPPING", "0.25", "gradient_clipping"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "offload_param"),
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0", "ZeRO stage 0 "),
        ("ACCELERATE_USE_CPU", "true", "ACCELERATE_USE_CPU"),
    ],
)
def test_what_the_launch_says_without_a_file_is_refused_alike(
    launched: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    launched.setenv(variable, value)
    with pytest.raises(UserError, match=named):
        check_engine(training())


def test_a_launch_without_a_file_may_say_what_the_recipe_says(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("ACCELERATE_GRADIENT_CLIPPING", str(training().max_grad_norm))
    launched.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    launched.setenv("ACCELERATE_USE_CPU", "False")
    check_engine(training())
