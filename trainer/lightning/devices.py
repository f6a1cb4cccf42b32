"""What a run needs of the devices of a user's own ``pl.Trainer``, between two steps."""

# B samples of a batch

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities import GradClipAlgorithmType

from trainer.base.errors import UserError
from trainer.base.records import FloatArray
from trainer.engines.checkpoint_io import GroupWriters, open_writers
from trainer.engines.ranks import summed_over_ranks

if TYPE_CHECKING:
    from torch import Tensor

Losses = Callable[[pl.LightningModule, Any], "Tensor"]
CHECKPOINT = "lightning.ckpt"


class TrainerDevices:
    """``evaluate.ports.Devices`` on a Trainer inside ``fit``, and the samples' losses there."""

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, losses: Losses) -> None:
        self._trainer, self._module, self._losses = trainer, module, losses
        self.rolled_back_to: Path | None = None  # the checkpoint from which the next launch resumes
        self.saved_again = False  # and whether it has been
        self.writers: GroupWriters = open_writers()

    # Who and where

    @property
    def rank(self) -> int:
        """This process."""
        return int(self._trainer.global_rank)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self._trainer.world_size)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where tensors belong."""
        return self._trainer.strategy.root_device  # type: ignore[no-any-return]

    @property
    def num_parameters(self) -> int:
        """Parameters of the module."""
        return sum(parameter.numel() for parameter in self._module.parameters())

    # Agreeing

    def reduce(self, array: FloatArray) -> FloatArray:
        """The float64 array summed over all ranks."""
        return summed_over_ranks(array, self.device) if self.world_size > 1 else array

    def broadcast(self, value: Any) -> Any:
        """The main rank's value."""
        return self._trainer.strategy.broadcast(value)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    # Keeping

    def capture(self, *, detached: bool) -> Callable[[Path], None]:
        """A function that lets Lightning write what it needs to resume, each rank its part; all ranks call it."""
        if self.rolled_back_to is not None:
            return self._save_again
        # stated, or Lightning warns at every save; on loading torch restricts itself to tensors
        return lambda folder: self._trainer.save_checkpoint(folder / CHECKPOINT, weights_only=False)

    def _save_again(self, folder: Path) -> None:
        """The checkpoint that the run went back to, as it was: the current state is what the guard discarded."""
        assert self.rolled_back_to is not None
        self.saved_again = True
        if self.is_main:
            source = self.rolled_back_to / CHECKPOINT
            copied = shutil.copytree if source.is_dir() else shutil.copyfile
            copied(source, folder / CHECKPOINT)

    def restore(self, folder: Path) -> None:
        """Go back to a checkpoint, at the next launch: only then Lightning's own counters can go back too."""
        self.rolled_back_to = folder

    # Measuring

    def losses(self, batch: Any) -> "Tensor":
        """Losses [B] of a collated batch, under the Trainer's precision; with gradient where that is enabled."""
        moved = self._trainer.strategy.batch_to_device(batch)
        with self._trainer.precision_plugin.forward_context():
            losses_B = self._losses(self._module, moved)
        if losses_B.dim() != 1:
            raise UserError(
                "losses gave no loss for each sample",
                got=f"shape {tuple(losses_B.shape)}",
                remedy="Return a tensor [samples], with reduction='none' in torch's losses",
            )
        return losses_B

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradient; afterwards every part of the module is in the mode it was in."""
        modes = [(part, part.training) for part in self._module.modules()]
        self._module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for part, mode in modes:
                part.training = mode

    @contextmanager
    def trial(self, *, rate_scale: float) -> Iterator[Callable[[], None]]:
        """Keep weights, buffers and optimizers: a call of the value, and the exit, restore them bit for bit. Steps
        inside are made at ``rate_scale`` times the current learning rate.
        """
        optimizers = [getattr(optimizer, "optimizer", optimizer) for optimizer in self._trainer.optimizers]
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        tensors = [*(p.detach() for p in self._module.parameters()), *self._module.buffers()]
        kept = [tensor.clone() for tensor in tensors]
        states = [{p: copy.deepcopy(state) for p, state in optimizer.state.items()} for optimizer in optimizers]

        def undo() -> None:
            for tensor, old in zip(tensors, kept, strict=True):
                tensor.copy_(old)
            for optimizer, state in zip(optimizers, states, strict=True):
                optimizer.zero_grad(set_to_none=True)  # Lightning leaves the gradients of the last step
                optimizer.state.clear()
                optimizer.state.update({p: copy.deepcopy(old) for p, old in state.items()})

        try:
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= rate_scale
            yield undo
        finally:
            undo()
            for optimizer, before in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, before, strict=True):
                    group["lr"] = rate

    def trial_step(self, batch: Any, weights_B: FloatArray) -> None:
        """One step of all optimizers on the mean loss, each sample by its weight, which sum to 1 over all ranks."""
        sharded = isinstance(self._trainer.strategy, ModelParallelStrategy)
        weights = torch.from_numpy(weights_B).to(self.device)
        loss = (self.losses(batch) * weights).sum() * (self.world_size if sharded else 1)  # FSDP averages over ranks
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in self._module.parameters() if p.requires_grad]
        if self.world_size > 1 and not sharded:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.distributed.all_reduce(parameter.grad)
        limit = self._trainer.gradient_clip_val
        if limit and self._trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE:
            torch.nn.utils.clip_grad_value_(parameters, limit)
        elif limit:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
        for optimizer in self._trainer.optimizers:
            optimizer = getattr(optimizer, "optimizer", optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
