"""The sharding "none": every rank holds the whole model and its optimizer; gradients are averaged by DDP."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from trainer.engines.adam_scales import AdamPart
from trainer.engines.checkpoint_io import adam_state, on_the_host, read, training_state
from trainer.engines.protocols import Launcher
from trainer.model.config import TrainingConfig
from trainer.model.optimizer import build_optimizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def prepare_replicated(
    model: "PreTrainedModel", training: TrainingConfig, accelerator: Accelerator
) -> tuple[Any, torch.optim.Optimizer]:
    """The model on its device, in DDP where there are several ranks, and its optimizer."""
    model.to(accelerator.device)
    optimizer = build_optimizer(model, training)
    return accelerator.prepare(model), optimizer


class OptimizedInPlace:
    """What shardings share whose weights are parameters of the model, with a torch optimizer that steps them.

    ``max_grad_norm`` is the norm that gradients are scaled down to.
    """

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, launcher: Launcher, *, max_grad_norm: float
    ) -> None:
        self.model, self.optimizer, self.launcher = model, optimizer, launcher
        self._max_grad_norm = max_grad_norm

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self.optimizer.param_groups

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def num_trained(self) -> int:
        """Those among them that are not frozen."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def backward(self, loss: "Tensor", *, last: bool) -> None:
        """Add the gradient of a micro-batch."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, loss: "Tensor | None" = None) -> "tuple[Tensor, Tensor]":
        """Clip, step and clear the gradients; (norm before clipping, whether nothing changed)."""
        norm = self._clip().detach()
        is_bad = ~torch.isfinite(norm if loss is None else norm + loss)
        if self.launcher.device.type == "cuda":  # the fused kernel skips on the device itself: the host need not wait
            self.optimizer.found_inf, self.optimizer.grad_scale = is_bad.float(), None  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not is_bad:
            self.optimizer.step()
        self.clear_gradients()
        return norm, is_bad

    def _clip(self) -> "Tensor":
        """Scale the gradients down; the norm over all ranks before it, a plain scalar."""
        norm: Any = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        whole: Tensor = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return whole

    def clear_gradients(self) -> None:
        """Drop all gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def unclipped(self) -> Iterator[None]:
        """Inside, gradients are not scaled down."""
        before, self._max_grad_norm = self._max_grad_norm, torch.inf
        try:
            yield
        finally:
            self._max_grad_norm = before

    def all_adam_parts(self) -> list[AdamPart]:
        """Of every trained weight, as far as it lies on this rank."""
        groups = self.param_groups
        return [
            AdamPart.of(adam_state(self.optimizer, weight), group) for group in groups for weight in group["params"]
        ]

    def state_tensors(self) -> list["Tensor"]:
        """Trained weights, what Adam keeps of them, and persistent buffers; frozen weights no step changes."""
        frozen = {id(parameter) for parameter in self.model.parameters() if not parameter.requires_grad}
        return [tensor.detach() for tensor in self._state().values() if id(tensor) not in frozen]

    def publish(self) -> None:
        """The forward uses the very tensors that were set."""

    def captured(self, *, detached: bool) -> "Mapping[str, Tensor]":
        """The tensors that training changes, or copies of them in host memory; frozen weights too."""
        state = self._state()
        return on_the_host(state) if detached else state

    def restore(self, folder: Path) -> None:
        """Load what was saved."""
        read(folder, self._state())

    def _state(self) -> dict[str, "Tensor"]:
        return training_state(bare(self.model), self.optimizer)


class Replicated(OptimizedInPlace):
    """One process, or DDP."""

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, launcher: Launcher, *, max_grad_norm: float
    ) -> None:
        super().__init__(model, optimizer, launcher, max_grad_norm=max_grad_norm)
        if isinstance(model, DistributedDataParallel):
            # Rotary frequencies are equal by construction; DDP would send them before every forward, evaluations too.
            model.broadcast_buffers = False

    @property
    def forwards_together(self) -> bool:
        """Every rank has the whole model."""
        return False

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Without averaging over ranks before the last micro-batch."""
        synced = last or not isinstance(self.model, DistributedDataParallel)
        context: AbstractContextManager[Any] = nullcontext() if synced else self.model.no_sync()
        return context

    def release(self) -> None:
        """Nothing was gathered."""

    def adam_parts(self) -> list[AdamPart]:
        """Every trained weight on one rank: all ranks hold all, so they take turns."""
        return self.all_adam_parts()[self.launcher.rank :: self.launcher.world_size]

    def whole_model(self) -> "PreTrainedModel | None":
        """The model itself, on the main rank."""
        model: PreTrainedModel | None = bare(self.model) if self.launcher.rank == 0 else None
        return model


def bare(model: Any) -> Any:
    """The language model below DDP, and below Lightning's module. Accelerate's own ``unwrap_model`` imports DeepSpeed
    where it is installed: 2 s, and words on stdout.
    """
    wrapped = getattr(model, "module", model)
    return getattr(wrapped, "trained_model", wrapped)
