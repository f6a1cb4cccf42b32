"""A model on the launcher's processes, to be measured and not trained: no optimizer, no gradients."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.engines.accelerate import AccelerateLauncher
from trainer.engines.checkpoint_io import model_state, read
from trainer.engines.launch import open_accelerator
from trainer.engines.ranks import LaunchedRanks
from trainer.engines.replicated import bare
from trainer.model.config import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class EvaluationEngine(LaunchedRanks):
    """The whole model on each rank, which share the rows: ``evaluate.ports.ForwardPort`` and nothing more."""

    def __init__(self, model: "PreTrainedModel", training: TrainingConfig) -> None:
        accelerator = open_accelerator(training)
        super().__init__(AccelerateLauncher(accelerator))
        self._model: Any = accelerator.prepare_model(model, evaluation_mode=True)  # autocast, and no DDP around it
        self._model.eval()

    def restore(self, folder: Path) -> None:
        """Load the weights of a checkpoint, whatever engine wrote it; what its optimizer kept is not read."""
        read(folder, model_state(bare(self._model)))

    def eval_logits(self, input_ids_BT: "Tensor") -> "Tensor":
        """Logits [B, T, V] without gradient, under the run's autocast."""
        with torch.no_grad():
            logits: Tensor = self._model(input_ids=input_ids_BT).logits
        return logits
