"""The engine over FSDP2: weights, gradients and optimizer state are spread over the ranks, parameter by parameter.

Accelerate says what to wrap (its launch file) and shards with torch's ``fully_shard``; the optimizer is built on the
shards. ``Accelerator.prepare`` is passed by: on CPUs it takes FSDP for DDP without a word, and elsewhere it would put
the whole model on each device first. A step is that of DDP (FSDP averages over ranks as well). FSDP1 is refused: on two
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
from typing_extensions import override

from trainer.base.errors import UserError
from trainer.engines.accelerate import AccelerateEngine, bare
from trainer.engines.adam_scales import AdamPart
from trainer.engines.launch import open_accelerator
from trainer.model.build import filled_model
from trainer.model.optimizer import build_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.model.config import TrainingConfig


class ShardedEngine(AccelerateEngine):
    """FSDP2. See ``parts.Engine`` for the verbs."""

    def __init__(
        self,
        model: "PreTrainedModel",
        training: "TrainingConfig",
        *,
        seed: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self._kind, self._config = type(model), model.config  # of the model as it was: sharding changes its class
        super().__init__(model, training, seed=seed, accelerator=accelerator or open_accelerator(training))

    @override
    def _prepare(self, model: "PreTrainedModel") -> tuple[Any, Any]:
        if not torch.distributed.is_initialized():
            raise UserError(
                "FSDP2 was launched without a process group",
                remedy="Start it with accelerate launch --num_processes 2 or more, or torchrun --nproc_per_node 1",
            )
        plugin = FullyShardedDataParallelPlugin()  # from the environment that the launcher left
        # Weights are gathered in bf16 and gradients averaged in fp32, as the recipe says: no launch file sets it.
        bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        plugin.mixed_precision_policy = bf16 if self._training.precision == "bf16" else None
        plugin.cpu_ram_efficient_loading = False  # every rank has built the same weights from the seed
        self._accelerator.state.fsdp_plugin = plugin
        sharded = fsdp2_prepare_model(self._accelerator, model)
        return sharded, build_optimizer(sharded, self._training)

    @override
    def _accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        bare(self._model).set_requires_gradient_sync(last)  # else a backward adds up on each rank
        return nullcontext()

    @override
    def _adam_parts(self) -> list[AdamPart]:
        return self._all_adam_parts()

    @override
    def eval_logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """As everywhere; then the gathered weights are dropped, which FSDP leaves to the backward that does not come.

        Else the next forward would see the old weights wherever shards were moved or loaded in between.
        """
        logits = super().eval_logits(input_ids_BT)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return logits

    @override
    def _whole_model(self) -> "PreTrainedModel | None":
        weights = {}
        for name, tensor in self._training_state().items():
            if name.startswith("model."):  # one after the other: all at once need not fit on a device
                whole: Any = tensor.detach()
                if isinstance(whole, DTensor):
                    whole = whole.full_tensor()
                if self.is_main:
                    weights[name.removeprefix("model.")] = whole.cpu()
        return filled_model(self._kind, self._config, weights) if self.is_main else None


def check_fsdp_launch() -> None:
    """``UserError`` for FSDP1, which is Accelerate's default."""
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            "FSDP version 1 is not supported", got=version, remedy="Set fsdp_version: 2 (launch/accelerate/fsdp2.yaml)"
        )
