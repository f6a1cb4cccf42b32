"""The engine over FSDP2: weights, gradients and optimizer state are spread over the ranks, parameter by parameter.

Accelerate shards and gathers; a step is that of DDP (FSDP averages over ranks as well). Only what looks at single
parameters differs: a rank holds its part of each. FSDP1 is refused: on two gloo processes it ends with a segmentation
fault, and torch gives it up.
"""

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from typing_extensions import override

from trainer.engines.accelerate import AccelerateEngine, open_accelerator
from trainer.records import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.model.optimizer import TrainingConfig


class ShardedEngine(AccelerateEngine):
    """FSDP2. See ``loop.Engine`` for the verbs."""

    def __init__(
        self,
        model: "PreTrainedModel",
        training: "TrainingConfig",
        *,
        seed: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        accelerator = accelerator or open_accelerator(training)
        if not accelerator.is_fsdp2:
            raise UserError(
                "FSDP was launched, but Accelerate would not shard with FSDP2",
                got=f"{accelerator.distributed_type} on {accelerator.device.type}",
                remedy="Set fsdp_version: 2 in the launch file; Accelerate needs CUDA devices for it",
            )
        super().__init__(model, training, seed=seed, accelerator=accelerator)

    @override
    def _clip(self) -> torch.Tensor:
        norm = super()._clip()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

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
