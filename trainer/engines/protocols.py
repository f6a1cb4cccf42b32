"""The two halves of an engine: who started the processes, and how the model lies on them.

An engine *has* a launcher and a sharding; its step, its measurements and its checkpoints are the same for all of them.
Methods marked (all) are called by every rank together.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.engines.adam_scales import AdamPart


class Launcher(Protocol):
    """The processes of the run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    @property
    def device(self) -> "torch.device":
        """Where tensors belong."""
        ...

    def close(self) -> None:
        """(all) Leave the process group."""
        ...


class Sharding(Protocol):
    """A model and its optimizer on their devices, whole on each rank or spread over them.

    Parameters that do not require a gradient are frozen: they are saved and restored, and no optimizer knows them.
    """

    model: Any  # what a forward calls: the language model in whatever is wrapped around it

    @property
    def forwards_together(self) -> bool:
        """Whether a forward needs all ranks, because none of them has the whole model."""
        ...

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups; what is set here (``lr``, ``betas``) governs the next step."""
        ...

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once."""
        ...

    @property
    def num_trained(self) -> int:
        """Those among them that are not frozen."""
        ...

    # A step

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """(all) Around forward and backward of a micro-batch; ``last`` says that the step follows."""
        ...

    def backward(self, loss: "Tensor", *, last: bool) -> None:
        """(all) Add the gradient of a micro-batch, averaged over ranks with the last one."""
        ...

    def step(self, loss: "Tensor | None" = None) -> "tuple[Tensor, Tensor]":
        """(all) Clip the gradients, step, and clear them; nothing changes where the norm or ``loss`` is not finite.

        The norm over all ranks before clipping, and whether the step was left out: scalars, the same on all ranks.
        """
        ...

    def clear_gradients(self) -> None:
        """Drop what a backward left that no step followed."""
        ...

    def unclipped(self) -> AbstractContextManager[None]:
        """Inside, a step follows the gradients as they are."""
        ...

    # Measuring

    def release(self) -> None:
        """A forward without a backward is over: drop the weights that were gathered for it."""
        ...

    def adam_parts(self) -> "list[AdamPart]":
        """What Adam keeps of the trained weights, each on one rank."""
        ...

    # State

    def state_tensors(self) -> "list[Tensor]":
        """Everything that a step changes, on this rank."""
        ...

    def publish(self) -> None:
        """(all) The state tensors have been set: make the weights that the forward uses from them."""
        ...

    def captured(self, *, detached: bool) -> "Mapping[str, Tensor]":
        """(all) Tensors to be saved from this rank, by name as in ``checkpoint_io``; copies in host memory where
        ``detached``.
        """
        ...

    def restore(self, folder: Path) -> None:
        """(all) Load what was saved, under any sharding and on any number of ranks."""
        ...

    def whole_model(self) -> "PreTrainedModel | None":
        """(all) On the main rank the language model with all its weights; None elsewhere."""
        ...
