"""The figures of an optimizer step that Lightning makes of one or several batches."""

import time

import torch
from torch.distributed.tensor import DTensor

from trainer.data.loader import StepBatch
from trainer.engines.step_stats import PendingStep, SummedFigures
from trainer.evaluate.ports import Devices
from trainer.training.loop import InFlightStep


class AccumulatedStep:
    """What is known of a step while its batches go through the module."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._loss = torch.zeros((), dtype=torch.float64, device=devices.device)
        self._norm = torch.zeros((), device=devices.device)
        self._learning_rate = 0.0
        self._started_s = time.monotonic()
        self.num_batches = 0

    def add_loss(self, loss: torch.Tensor) -> None:
        """One more batch is through; Lightning has divided its loss by the number of accumulated batches."""
        self._loss += loss.detach().double()
        self.num_batches += 1

    def note_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the gradient norm, the same on all ranks; where it is not finite, drop the gradients on all ranks."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self._norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self._learning_rate = float(optimizer.param_groups[0]["lr"])
        if not torch.isfinite(self._norm):
            for parameter in parameters:
                parameter.grad = None

    def launched(self, batch: StepBatch, *, batch_hash: int, stop: bool, ledger_digest: int) -> InFlightStep:
        """The step as the run takes it, its figures on their way from the device."""
        world_size = self._devices.world_size
        summed = SummedFigures(
            self._loss.reshape(1) * (batch.target_tokens / world_size),  # every rank has as many samples
            batch_hash=batch_hash,
            stop=stop,
            ledger_digest=ledger_digest,
            world_size=world_size,
        )
        figures = PendingStep(batch, summed, self._norm, ~torch.isfinite(self._norm))
        return InFlightStep(batch=batch, figures=figures, learning_rate=self._learning_rate, started_s=self._started_s)
