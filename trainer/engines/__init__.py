"""Engines: who runs a step on which devices. Each is an adapter of the verbs that ``parts.Engine`` names.

What is launched is the launcher's business (``accelerate launch`` leaves it in the environment), so the choice of the
engine is read from there and stands in one place.
"""

import logging
import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.engines.accelerate import AccelerateEngine
    from trainer.model.config import TrainingConfig

# Importing accelerate imports deepspeed where it is installed, which then warns every CPU run that there is no GPU.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())

Sharding = Literal["none", "deepspeed", "fsdp"]


def launched_sharding() -> Sharding:
    """What the launcher asks to spread over the ranks, beside the batch."""
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
            from trainer.engines.deepspeed.engine import check_deepspeed_launch

            check_deepspeed_launch(training)
        case "fsdp":
            from trainer.engines.fsdp import check_fsdp_launch

            check_fsdp_launch()
        case "none":
            pass


def open_engine(model: "PreTrainedModel", training: "TrainingConfig", *, seed: int) -> "AccelerateEngine":
    """The engine that the launcher describes, with the model on its devices. Every rank calls it."""
    match launched_sharding():
        case "deepspeed":
            from trainer.engines.deepspeed.engine import DeepSpeedEngine

            return DeepSpeedEngine(model, training, seed=seed)
        case "fsdp":
            from trainer.engines.fsdp import ShardedEngine

            return ShardedEngine(model, training, seed=seed)
        case "none":
            from trainer.engines.accelerate import AccelerateEngine

            return AccelerateEngine(model, training, seed=seed)
