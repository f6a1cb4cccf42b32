"""Engines: who runs a step on which devices. An engine has a launcher and a sharding (``protocols``).

What is launched is the launcher's business (``accelerate launch`` leaves it in the environment), so the choice of the
sharding is read from there, and in this place only.
"""

import logging
import os
from typing import TYPE_CHECKING, Literal

from trainer.base.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from trainer.engines.engine import TrainingEngine
    from trainer.engines.evaluation import EvaluationEngine
    from trainer.engines.protocols import Launcher, Sharding
    from trainer.model.config import TrainingConfig

# Importing accelerate imports deepspeed where it is installed, which then warns every CPU run that there is no GPU.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())

ShardingKind = Literal["none", "deepspeed", "fsdp"]


def launched_sharding() -> ShardingKind:
    """What the launcher asks to spread over the ranks in addition to the batch."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return "deepspeed"
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "fsdp"
    return "none"


def check_engine(training: "TrainingConfig") -> None:
    """``UserError`` for a launch that could not train the recipe, before anything is prepared."""
    from trainer.engines.launch import check_launch, check_settings

    check_launch()
    check_settings(training)
    match launched_sharding():
        case "deepspeed":
            from trainer.engines.deepspeed.launch_checks import check_deepspeed_launch

            check_deepspeed_launch(training)
        case "fsdp":
            from trainer.engines.fsdp import check_fsdp_launch

            check_fsdp_launch()
        case "none":
            pass


def open_engine(model: "PreTrainedModel", training: "TrainingConfig", *, seed: int) -> "TrainingEngine":
    """(all) The engine that the launch describes, with the model on its devices."""
    from trainer.engines.accelerate import AccelerateLauncher
    from trainer.engines.engine import TrainingEngine
    from trainer.engines.launch import open_accelerator
    from trainer.model.build import form_of

    kind = launched_sharding()
    if kind == "deepspeed":
        from trainer.engines.deepspeed.sharding import quieten_deepspeed

        quieten_deepspeed()
    accelerator = open_accelerator(training)
    if training.compile:
        model.compile()
    launcher, form = AccelerateLauncher(accelerator), form_of(model)
    sharding = _sharded(kind, model, training, accelerator, launcher)
    return TrainingEngine(launcher, sharding, training, seed=seed, form=form)


def _sharded(
    kind: ShardingKind,
    model: "PreTrainedModel",
    training: "TrainingConfig",
    accelerator: "Accelerator",
    launcher: "Launcher",
) -> "Sharding":
    of_the_model = {"kind": type(model), "config": model.config}  # as it is now: sharding changes the class
    match kind:
        case "deepspeed":
            from trainer.engines.deepspeed.sharding import ZeroSharding, prepare_zero

            wrapped, exact = prepare_zero(model, training, accelerator)
            return ZeroSharding(wrapped, launcher, exact=exact, **of_the_model)
        case "fsdp":
            from trainer.engines.fsdp import FullySharded, prepare_fsdp

            sharded, optimizer = prepare_fsdp(model, training, accelerator)
            return FullySharded(sharded, optimizer, launcher, max_grad_norm=training.max_grad_norm, **of_the_model)
        case "none":
            from trainer.engines.replicated import Replicated, prepare_replicated

            placed, optimizer = prepare_replicated(model, training, accelerator)
            return Replicated(placed, optimizer, launcher, max_grad_norm=training.max_grad_norm)


def open_evaluation_engine(model: "PreTrainedModel", training: "TrainingConfig") -> "EvaluationEngine":
    """(all) The model on the devices of the launch, whole on each rank and without an optimizer, under the recipe's
    precision: a recipe of any engine is evaluated so. ``UserError`` for a launch that asks for sharding.
    """
    from trainer.engines.evaluation import EvaluationEngine
    from trainer.engines.launch import check_launch

    check_launch()
    if launched_sharding() != "none":
        raise UserError(
            "an evaluation holds the whole model on each device, but the launch asks for sharding",
            got=launched_sharding(),
            remedy="Run trainer evaluate without a launcher, or with launch/accelerate/ddp.yaml",
        )
    return EvaluationEngine(model, training)
