"""The sharding FSDP2: weights, gradients and optimizer state are spread over the ranks, parameter by parameter.

Accelerate says what to wrap (its launch file) and shards with torch's ``fully_shard``; the optimizer is built on the
shards. ``Accelerator.prepare`` is not used: on CPUs it silently takes FSDP for DDP, and elsewhere it would put the
whole model on each device first. A step is that of DDP (FSDP averages over ranks as well). FSDP1 is refused: on two
gloo processes it ends with a segmentation fault, and torch gives it up.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from trainer.base.errors import UserError
from trainer.engines.adam_scales import AdamPart
from trainer.engines.protocols import Launcher
from trainer.engines.replicated import OptimizedInPlace, bare
from trainer.model.build import filled_model
from trainer.model.optimizer import build_optimizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from trainer.model.config import TrainingConfig


def prepare_fsdp(
    model: "PreTrainedModel", training: "TrainingConfig", accelerator: Accelerator
) -> tuple[Any, torch.optim.Optimizer]:
    """The model spread over the ranks, and its optimizer on the shards."""
    if not torch.distributed.is_initialized():
        raise UserError(
            "FSDP2 was launched without a process group",
            remedy="Start it with accelerate launch --num_processes 2 or more, or torchrun --nproc_per_node 1",
        )
    plugin = FullyShardedDataParallelPlugin()  # from the environment that the launcher left
    # Weights are gathered in bf16 and gradients averaged in fp32, as the recipe says: no launch file sets it.
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    plugin.mixed_precision_policy = bf16 if training.precision == "bf16" else None
    plugin.cpu_ram_efficient_loading = False  # every rank has built the same weights from the seed
    accelerator.state.fsdp_plugin = plugin
    sharded = fsdp2_prepare_model(accelerator, model)
    return sharded, build_optimizer(sharded, training)


class FullySharded(OptimizedInPlace):
    """FSDP2. ``kind`` and ``config`` are those of the model as it was: sharding changes its class."""

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        launcher: Launcher,
        *,
        max_grad_norm: float,
        kind: "type[PreTrainedModel]",
        config: "PretrainedConfig",
    ) -> None:
        super().__init__(model, optimizer, launcher, max_grad_norm=max_grad_norm)
        self._kind, self._config = kind, config

    @property
    def forwards_together(self) -> bool:
        """Weights are gathered for each forward."""
        return True

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Without averaging over ranks before the last micro-batch."""
        bare(self.model).set_requires_gradient_sync(last)  # else a backward adds up on each rank
        return nullcontext()

    def release(self) -> None:
        """Drop the gathered weights, which FSDP leaves to the backward that does not come.

        Else the next forward would see the old weights wherever shards were moved or loaded in between.
        """
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def adam_parts(self) -> list[AdamPart]:
        """This rank's shard of every trained weight."""
        return self.all_adam_parts()

    def whole_model(self) -> "PreTrainedModel | None":
        """A copy on the CPU, on the main rank."""
        is_main, weights = self.launcher.rank == 0, {}
        for name, tensor in self._state().items():
            if name.startswith("model."):  # one after the other: all together need not fit on a device
                whole: Any = tensor.detach()
                if isinstance(whole, DTensor):
                    whole = whole.full_tensor()
                if is_main:
                    weights[name.removeprefix("model.")] = whole.cpu()
        return filled_model(self._kind, self._config, weights) if is_main else None


def check_fsdp_launch() -> None:
    """``UserError`` for FSDP1, which is Accelerate's default."""
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            "FSDP version 1 is not supported", got=version, remedy="Set fsdp_version: 2 (launch/accelerate/fsdp2.yaml)"
        )
