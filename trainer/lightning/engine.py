"""The engines' verbs on a ``pl.Trainer`` whose strategy is set up: the same step, on what Lightning wrapped.

The step is ours under every launcher, so that a recipe gives the same losses: gradients are those of the mean over the
global batch, clipped over all ranks, and left out where they are not finite. Lightning contributes what surrounds it:
process group, devices, wrapping, precision, the loop.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DeepSpeedStrategy, ModelParallelStrategy
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from trainer.engines.accelerate import QUIET_S, AccelerateEngine
from trainer.engines.checkpoint_io import open_writers
from trainer.engines.deepspeed.engine import DeepSpeedEngine
from trainer.engines.deepspeed.zero_state import ZeroState
from trainer.engines.fsdp import ShardedEngine
from trainer.engines.launch import collective_timeout
from trainer.model.config import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor


class LightningEngine(AccelerateEngine):
    """One process or DDP. See ``parts.Engine`` for the verbs; what Accelerate does there, the strategy does here.

    ``module`` holds the language model as ``trained_model``, its class as ``kind`` and, for ZeRO, the weights that the
    strategy rounded as ``exact_weights``; its Trainer is inside ``fit``.
    """

    def __init__(self, module: LightningModule, training: TrainingConfig, *, seed: int) -> None:
        self._module, self._strategy = module, module.trainer.strategy
        self._seed, self._training = seed, training
        self._model = self._strategy.model
        (self._optimizer,) = self._strategy.optimizers
        if isinstance(self._model, DistributedDataParallel):
            self._model.broadcast_buffers = False  # as under Accelerate
        self._model.train()
        self._kind, self._config = module.kind, module.trained_model.config
        self.writers = open_writers(collective_timeout(training))

    @property
    @override
    def rank(self) -> int:
        return int(self._module.trainer.global_rank)

    @property
    @override
    def world_size(self) -> int:
        return int(self._module.trainer.world_size)

    @property
    @override
    def device(self) -> torch.device:
        return self._strategy.root_device  # type: ignore[no-any-return]

    @override
    def _accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return nullcontext()

    @override
    def _backward(self, loss: "Tensor", *, last: bool) -> None:
        self._module.manual_backward(loss)

    @override
    def close(self) -> None:
        """Leave the process group, if there is one; see ``AccelerateEngine.close`` for the pause."""
        if torch.distributed.is_initialized():
            time.sleep(QUIET_S)
            torch.distributed.destroy_process_group()


class LightningShardedEngine(LightningEngine, ShardedEngine):
    """FSDP2, which Lightning calls ModelParallel."""

    @override
    def _accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        return ShardedEngine._accumulating(self, last=last)


class LightningZeroEngine(LightningEngine, DeepSpeedEngine):
    """DeepSpeed ZeRO. Its engine does backward, clipping and step by itself."""

    def __init__(self, module: LightningModule, training: TrainingConfig, *, seed: int) -> None:
        super().__init__(module, training, seed=seed)
        self._state = ZeroState(self._model, module.trained_model)
        if module.exact_weights:
            self._state.begin_with(module.exact_weights)
            module.exact_weights = {}

    @override
    def _accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        return DeepSpeedEngine._accumulating(self, last=last)

    @override
    def _backward(self, loss: "Tensor", *, last: bool) -> None:
        DeepSpeedEngine._backward(self, loss, last=last)


def engine_on(module: LightningModule, training: TrainingConfig, *, seed: int) -> LightningEngine:
    """The engine for the strategy of the module's Trainer."""
    strategy = module.trainer.strategy
    if isinstance(strategy, DeepSpeedStrategy):
        return LightningZeroEngine(module, training, seed=seed)
    if isinstance(strategy, ModelParallelStrategy):
        return LightningShardedEngine(module, training, seed=seed)
    return LightningEngine(module, training, seed=seed)
