"""What a launch of DeepSpeed may say, in its file or without one: where a run trains, and nothing of what it trains."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import parse_flag_from_env

from trainer.base.errors import UserError

if TYPE_CHECKING:
    from trainer.model.config import TrainingConfig

STAGES = (1, 2, 3)
# What a launch may say: where tensors lie, what is sent when, what is logged; and what is checked below.
PLACES = {
    "activation_checkpointing",
    "aio",
    "comms_logger",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
}
CHECKED = {
    "bf16",
    "communication_data_type",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
}
# Parts of ZeRO under which weights and moments lie elsewhere than ``ZeroState`` looks, or are sent in fewer bits, or
# without the norm of the gradients that every step records.
UNSUPPORTED = {
    "compute_grad_norm": True,
    "mics_shard_size": -1,
    "zenflow": None,
    "zero_hpz_partition_size": 1,
    "zero_quantized_gradients": False,
    "zero_quantized_nontrainable_weights": False,
    "zero_quantized_weights": False,
    "zeropp_loco_param": None,
    "offload_optimizer.ratio": 1.0,
    "offload_optimizer.super_offload": False,
}


def check_deepspeed_launch(training: "TrainingConfig") -> None:
    """``UserError`` where DeepSpeed is missing or the launcher's file for it says what is the recipe's: said before the
    data is prepared and before there is a process group.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("DeepSpeed was launched but is not installed", remedy="pip install 'hybrid-trainer[deepspeed]'")
    if parse_flag_from_env("ACCELERATE_USE_CPU"):  # Accelerate would silently drop DeepSpeed
        raise UserError(
            "ZeRO was launched together with ACCELERATE_USE_CPU",
            got=os.environ["ACCELERATE_USE_CPU"],
            remedy="Leave it out: without a GPU DeepSpeed uses the CPUs by itself",
        )
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file == "none":
        owned_by_the_recipe(_config_from_environment(), training)
        return
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "the DeepSpeed file of the launch cannot be read",
            got=str(error),
            file=file,
            remedy="Start from the folder that its name is relative to",
        ) from error
    owned_by_the_recipe(config, training)


def _config_from_environment() -> dict[str, Any]:
    """What the launch says of DeepSpeed in the environment, in the form of DeepSpeed's own file."""
    zero: dict[str, Any] = {"stage": _number("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")}
    for part in ("offload_optimizer", "offload_param"):
        zero[part] = {"device": os.environ.get(f"ACCELERATE_DEEPSPEED_{part.upper()}_DEVICE", "none")}
    return {
        "zero_optimization": zero,
        "gradient_accumulation_steps": _number("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto"),
        "gradient_clipping": _number("ACCELERATE_GRADIENT_CLIPPING", "auto"),
    }


def _number(variable: str, default: str) -> float | str:
    value = os.environ.get(variable, default)
    try:
        return int(value) if value.isdigit() else float(value)
    except ValueError:
        return value


def owned_by_the_recipe(config: Mapping[str, Any], training: "TrainingConfig") -> dict[str, Any]:
    """What the recipe says of DeepSpeed's configuration; ``UserError`` where the configuration says something else."""
    _check_keys(config)
    _check_zero(config.get("zero_optimization", {}))
    owned = {
        "gradient_clipping": (training.max_grad_norm, "training.max_grad_norm"),
        "gradient_accumulation_steps": (1, "mixture.global_batch and training.micro_batch"),
        "train_micro_batch_size_per_gpu": (training.micro_batch, "training.micro_batch"),
        "train_batch_size": ("auto", "mixture.global_batch"),
    }
    for key, (value, home) in owned.items():
        if config.get(key, "auto") not in ("auto", value):
            raise UserError(
                f"the launcher sets DeepSpeed's {key}, which follows from the recipe ({home})",
                got=config[key],
                remedy="Leave it out of the launch file, or set it to 'auto'",
            )
    _check_precision(config, training)
    return {key: value for key, (value, _) in owned.items() if value != "auto"}


def _check_keys(config: Mapping[str, Any]) -> None:
    for key in sorted(set(config) - PLACES - CHECKED):
        raise UserError(
            f"the launcher sets DeepSpeed's {key}, which may change what the recipe says",
            got=config[key],
            remedy="Leave it out of the launch file: it says where to train, the recipe what",
        )
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise UserError(f"the launcher sets DeepSpeed's {section}", remedy="Leave it out: it is the recipe's")


def _check_zero(zero: Mapping[str, Any]) -> None:
    for key, usual in UNSUPPORTED.items():
        part, _, name = key.rpartition(".")
        value = (zero.get(part) or {} if part else zero).get(name, usual)
        if value != usual:
            raise UserError(f"DeepSpeed's zero_optimization.{key} is not supported", got=value, remedy="Leave it out")
    if zero.get("stage") not in STAGES:
        raise UserError(
            f"ZeRO stage {zero.get('stage')} is not supported", remedy=f"Use one of {', '.join(map(str, STAGES))}"
        )
    for part in ("offload_optimizer", "offload_param"):
        if zero.get(part, {}).get("device", "none") not in ("none", "cpu"):
            raise UserError(
                f"the launcher sets DeepSpeed's {part} to a device that checkpoints cannot be read from",
                got=zero[part]["device"],
                remedy="Use cpu or none",
            )


def _check_precision(config: Mapping[str, Any], training: "TrainingConfig") -> None:
    # Accelerate says fp32 by itself on some devices: the gradients are sent as exactly as they can be
    if config.get("communication_data_type") not in (None, "fp32"):
        raise UserError(
            "the launcher sets DeepSpeed's communication_data_type, the recipe training.precision",
            got=config["communication_data_type"],
            remedy="Leave it out of the launch file",
        )
    more = sorted(set(config.get("bf16", {})) - {"enabled", "check_grad_overflow"})
    if more:
        raise UserError(
            "the launcher sets more of DeepSpeed's bf16 than whether it is on",
            got=", ".join(more),
            remedy="Leave it out of the launch file: precision is the recipe's",
        )
    for half in ("fp16", "bf16"):
        enabled = config.get(half, {}).get("enabled", "auto")
        if enabled not in ("auto", half == "bf16" and training.precision == "bf16"):
            raise UserError(
                f"the launcher sets DeepSpeed's {half}.enabled, the recipe training.precision {training.precision}",
                got=enabled,
                remedy="Leave it out of the launch file, or set it to 'auto'",
            )
