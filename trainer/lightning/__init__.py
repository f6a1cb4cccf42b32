"""Lightning: the engine `lightning` of a recipe, and the mixture for people with a ``LightningModule`` of their own.

What is imported from here is for them: a ``LightningDataModule`` over named sources, and one callback that evaluates,
steers, guards and checkpoints.
"""

from trainer.lightning.callback import Steering
from trainer.lightning.datamodule import MixtureData, Samples, Source

__all__ = ["MixtureData", "Samples", "Source", "Steering"]
