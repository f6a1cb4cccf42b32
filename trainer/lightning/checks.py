"""What of a Trainer, a module and the callback's settings would make another run than the mixture's: refused first."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy

from trainer.base.errors import UserError
from trainer.control.config import ControlConfig
from trainer.control.controller import gradient_alignment_from, reads_losses
from trainer.lightning.datamodule import MixtureData
from trainer.training.config import CheckpointConfig


def check_settings(control: ControlConfig, checkpoints: CheckpointConfig) -> None:
    """``UserError`` where the settings need what a module of the user's own does not give."""
    if checkpoints.asynchronous:
        raise UserError("Lightning saves while training waits", remedy="Leave checkpoints.asynchronous out")
    if reads_losses(control) or gradient_alignment_from(control) is not None:
        raise UserError(
            "the policy needs losses or gradients of single sources, which a module of your own does not show",
            got=control.policy.kind,
            remedy="Choose one that needs source values or a schedule, or train by a recipe with engine: lightning",
        )


def check_trainer(trainer: pl.Trainer, module: pl.LightningModule, mixture: MixtureData) -> None:
    """``UserError`` where the Trainer's settings would make another run than the mixture's."""
    size, parts = mixture.mixture.global_batch, trainer.world_size * trainer.accumulate_grad_batches
    if trainer.datamodule is not mixture:
        raise UserError("the Trainer has other data than Steering's mixture", remedy="Call fit(module, mixture, ...)")
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy):
        # they keep flat parts of the gradients: neither their norm nor what is not finite is seen from the optimizer
        raise UserError(
            "Steering cannot see the gradients under this strategy",
            got=type(trainer.strategy).__name__,
            remedy="Use DDP or ModelParallelStrategy (FSDP2); for DeepSpeed a recipe with engine: lightning",
        )
    if trainer.max_steps < 1:
        raise UserError("the Trainer does not say how many steps the run has", remedy="Set Trainer(max_steps=...)")
    if size % parts:
        raise UserError(
            f"global_batch {size} cannot be divided evenly among {trainer.world_size} processes, each accumulating "
            f"{trainer.accumulate_grad_batches} batches",
            remedy=f"Choose a multiple of {parts}, or change Trainer(accumulate_grad_batches=...)",
        )
    if not module.automatic_optimization:
        raise UserError(
            "a module with manual optimization makes steps that Steering does not see",
            remedy="Use automatic optimization",
        )
    unset: dict[str, tuple[Any, ...]] = {
        "limit_train_batches": (1.0,),
        "overfit_batches": (0,),
        "min_steps": (None,),
        "min_epochs": (None, 0),
        # with both ends Lightning counts the batches, and so begins the run, before it has loaded the checkpoint
        "max_epochs": (-1,),
    }
    for name, values in unset.items():
        if getattr(trainer, name) not in values:
            raise UserError(
                f"Trainer({name}=...) and Steering contradict each other",
                got=getattr(trainer, name),
                remedy="Leave it out",
            )
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler) and len(set(callback.scheduling.values())) > 1:
            raise UserError(
                "a GradientAccumulationScheduler would change the batches of a step",
                got=callback.scheduling,
                remedy="Leave it out, and set Trainer(accumulate_grad_batches=...)",
            )
