"""When checkpoints are saved, and how many are kept."""

from pydantic import Field

from trainer.base.config import Config


class CheckpointConfig(Config):
    """When to save, and how many checkpoints to keep."""

    every_steps: int = Field(default=500, gt=0, description="a checkpoint after every so many steps, and at the end")
    keep: int = Field(default=2, gt=0, description="checkpoints kept; older ones go after the newest is verified")
    asynchronous: bool = Field(
        default=False,
        description="write while training continues, from a copy in host memory (12 bytes per parameter); writing, "
        "alongside training or not, takes 0.5 GB more on each process, or twice the largest tensor",
    )
