"""The engine on a ``pl.Trainer`` whose strategy is set up: Lightning launches, and a sharding has what it wrapped.

The step is that of every engine, so that a recipe gives the same losses. Lightning contributes what surrounds it:
process group, devices, wrapping, precision, the loop.
"""

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DeepSpeedStrategy, ModelParallelStrategy

from trainer.engines.accelerate import wait_for_threads
from trainer.engines.deepspeed.sharding import ZeroSharding
from trainer.engines.engine import TrainingEngine
from trainer.engines.fsdp import FullySharded
from trainer.engines.protocols import Sharding
from trainer.engines.replicated import Replicated
from trainer.model.build import form_of
from trainer.model.config import TrainingConfig


class LightningLauncher:
    """The processes of a module's Trainer, which is inside ``fit``."""

    def __init__(self, module: LightningModule) -> None:
        self._trainer = module.trainer

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self._trainer.global_rank)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self._trainer.world_size)

    @property
    def device(self) -> torch.device:
        """Where tensors belong."""
        return self._trainer.strategy.root_device  # type: ignore[no-any-return]

    def close(self) -> None:
        """(all) Leave the process group, if there is one."""
        if torch.distributed.is_initialized():
            wait_for_threads()
            torch.distributed.destroy_process_group()


def engine_on(module: LightningModule, training: TrainingConfig, *, seed: int) -> TrainingEngine:
    """The engine for the strategy of the module's Trainer.

    ``module`` holds the language model as ``trained_model``, its class as ``kind`` and, for ZeRO, the weights that the
    strategy rounded as ``exact_weights``.
    """
    launcher = LightningLauncher(module)
    sharding = _sharding_of(module, launcher, training)
    return TrainingEngine(launcher, sharding, training, seed=seed, form=form_of(module.trained_model))


def _sharding_of(module: LightningModule, launcher: LightningLauncher, training: TrainingConfig) -> Sharding:
    strategy = module.trainer.strategy
    of_the_model = {"kind": module.kind, "config": module.trained_model.config}
    if isinstance(strategy, DeepSpeedStrategy):
        exact, module.exact_weights = module.exact_weights, {}
        return ZeroSharding(strategy.model, launcher, exact=exact, **of_the_model)
    (optimizer,) = strategy.optimizers
    if isinstance(strategy, ModelParallelStrategy):
        return FullySharded(strategy.model, optimizer, launcher, max_grad_norm=training.max_grad_norm, **of_the_model)
    return Replicated(strategy.model, optimizer, launcher, max_grad_norm=training.max_grad_norm)
