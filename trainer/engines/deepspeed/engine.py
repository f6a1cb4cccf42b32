"""The engine over DeepSpeed ZeRO-1, -2 and -3 under Accelerate: optimizer state, gradients, weights spread over ranks.

DeepSpeed is told nothing about accumulation: it would divide the loss by its own count, which the plan may change in a
run. Its boundary is set by hand instead, so that what is left to undo is its average over the ranks, as under DDP. The
step is taken here and not by ``accelerator.backward``, which would step before anybody has looked at the figures.
"""

import importlib
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from typing_extensions import override

from trainer.base.errors import UserError
from trainer.engines.accelerate import AccelerateEngine, bare
from trainer.engines.adam_scales import AdamPart
from trainer.engines.checkpoint_io import write
from trainer.engines.deepspeed.zero_state import ZeroState
from trainer.engines.launch import open_accelerator
from trainer.engines.step_stats import PendingStep
from trainer.model.build import filled_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.data.loader import StepBatch
    from trainer.model.config import TrainingConfig

STAGES = (1, 2, 3)
# What a launch may say: where things lie, what is sent when, what is told of it; and what is checked below.
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
# Parts of ZeRO under which weights and moments lie elsewhere than ``ZeroState`` looks, or are sent in fewer bits.
UNSUPPORTED = {
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


class DeepSpeedEngine(AccelerateEngine):
    """ZeRO-1, -2 and -3. See ``parts.Engine`` for the verbs."""

    def __init__(
        self,
        model: "PreTrainedModel",
        training: "TrainingConfig",
        *,
        seed: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        if not torch.cuda.is_available():
            _leave_out_shared_memory_op()
        # torch says to DeepSpeed, in every run, that two collectives will be renamed
        warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
        accelerator = accelerator or open_accelerator(training)
        _configure(accelerator.state.deepspeed_plugin.deepspeed_config, training)
        self._kind, self._config = type(model), model.config
        exact = exact_weights(model, training)
        super().__init__(model, training, seed=seed, accelerator=accelerator)
        self._state = ZeroState(self._model, bare(self._model))
        if exact:
            self._state.begin_with(exact)

    @property
    @override
    def num_parameters(self) -> int:
        return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self._model.parameters())

    @override
    def _accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()  # the boundary says it

    @override
    def _backward(self, loss: "Tensor", *, last: bool) -> None:
        self._model.set_gradient_accumulation_boundary(last)
        self._model.backward(loss)

    @override
    def _update(self, batch: "StepBatch", nats_K: "Tensor", *, stop: bool, ledger_digest: int) -> PendingStep:
        """DeepSpeed clips and steps; it skips by itself, on all ranks, where the norm over all ranks is not finite.

        The loss it does not look at, and one that is infinite can have a gradient that is not.
        """
        summed = self._summed(batch, nats_K, stop=stop, ledger_digest=ledger_digest)
        with nullcontext() if bool(summed.nats.isfinite()) else self._state.gradients_unsound():
            self._model.step()
        tail = [float(self._model.get_global_grad_norm()), float(bool(self._model.optimizer.overflow))]
        norm, skipped = torch.tensor(tail, dtype=torch.float64).to(self.device)
        return PendingStep(batch, summed, norm, skipped)

    @override
    def _finish_trial_step(self) -> None:
        self._model.step()

    @override
    @contextmanager
    def _without_clipping(self) -> Iterator[None]:
        optimizer = self._model.optimizer
        limit, optimizer.clip_grad = optimizer.clip_grad, 0.0
        try:
            yield
        finally:
            optimizer.clip_grad = limit

    @override
    def _adam_parts(self) -> list[AdamPart]:
        return self._state.adam_parts()

    @override
    def _state_tensors(self) -> list["Tensor"]:
        return self._state.tensors()

    @override
    def _state_is_back(self) -> None:
        self._state.publish()

    @override
    def capture(self, *, detached: bool) -> Callable[[Path], None]:
        """As everywhere; what is written is a copy in any case, of which each rank has whole weights."""
        dealt = self._state.dealt()
        return lambda folder: write(folder, dealt, self.writers)

    @override
    def restore(self, folder: Path) -> None:
        self._state.fill(folder)

    @override
    def _whole_model(self) -> "PreTrainedModel | None":
        weights = self._state.whole_weights()
        return filled_model(self._kind, self._config, weights) if self.is_main else None


def exact_weights(model: torch.nn.Module, training: "TrainingConfig") -> dict[str, "Tensor"]:
    """What the masters have to begin with, by name, where DeepSpeed would not: under bf16 it rounds the model first and
    makes its fp32 masters of what is left.
    """
    rounds = training.precision == "bf16"
    return {name: weight.detach().clone() for name, weight in model.named_parameters()} if rounds else {}


def check_deepspeed_launch(training: "TrainingConfig") -> None:
    """``UserError`` where DeepSpeed is missing or the launcher's file for it says what is the recipe's: said before the
    data is prepared and before there is a process group.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("DeepSpeed was launched but is not installed", remedy="pip install 'hybrid-trainer[deepspeed]'")
    if parse_flag_from_env("ACCELERATE_USE_CPU"):  # Accelerate would drop DeepSpeed without a word
        raise UserError(
            "ZeRO was launched together with ACCELERATE_USE_CPU",
            got=os.environ["ACCELERATE_USE_CPU"],
            remedy="Leave it out: without a GPU DeepSpeed takes to the CPUs by itself",
        )
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file == "none":
        _owned_by_the_recipe(_said_without_a_file(), training)
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
    _owned_by_the_recipe(config, training)


def _said_without_a_file() -> dict[str, Any]:
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
    said = os.environ.get(variable, default)
    try:
        return int(said) if said.isdigit() else float(said)
    except ValueError:
        return said


def _configure(config: dict[str, Any], training: "TrainingConfig") -> None:
    """Put what the recipe owns into DeepSpeed's configuration; ``UserError`` where the launcher says something else."""
    config |= _owned_by_the_recipe(config, training)
    config["zero_allow_untested_optimizer"] = True
    config["zero_force_ds_cpu_optimizer"] = False
    if training.precision == "bf16":
        config["bf16"] = {**config.get("bf16", {}), "enabled": True, "check_grad_overflow": True}


def _owned_by_the_recipe(config: Mapping[str, Any], training: "TrainingConfig") -> dict[str, Any]:
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
            f"the launcher sets DeepSpeed's {key}, which is not known to leave the recipe as it is",
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


def _leave_out_shared_memory_op() -> None:
    """DeepSpeed compiles a C++ all-reduce for CPUs at its first start (30 to 60 s, a compiler needed); a process that
    is killed meanwhile leaves a lock behind on which every later run hangs. Gloo does without it.
    """
    # ``import deepspeed.comm.torch as name`` would bind torch itself: the module hides behind an attribute.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
