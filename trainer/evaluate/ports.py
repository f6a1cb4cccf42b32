"""What measurements and the training loop need of devices and of a model on them: protocols, whoever implements them.

Methods marked (all) are called by every rank together. The engines implement these protocols, and so does the Trainer
of a user's own Lightning module as far as ``Devices``; rooms that only use an engine need not know which one it is.
"""

# B rows, T tokens, V vocabulary

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainer.base.records import FloatArray, StepFigures

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.data.loader import StepBatch


class Ranks(Protocol):
    """The processes of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...


class Writers(Ranks, Protocol):
    """The ranks over a channel of their own, so that saving in a thread cannot meet a collective of training."""

    def gather(self, value: Any) -> list[Any]:
        """(all) Every rank's value, by rank."""
        ...


class ForwardPort(Ranks, Protocol):
    """What a measurement of losses needs of an engine."""

    @property
    def device(self) -> "torch.device":
        """Where ids must lie."""
        ...

    def eval_logits(self, input_ids_BT: "Tensor") -> "Tensor":
        """(all) Logits [B, T, V] of int64 ids on ``device``: evaluation mode, no gradient, the run's autocast. All
        ranks call it equally often.
        """
        ...

    def reduce(self, array: FloatArray) -> FloatArray:
        """(all) The float64 array summed over all ranks, the same on each."""
        ...


class SourceValuePort(ForwardPort, Protocol):
    """What the measurement of source values needs of an engine beyond forwards, between two steps."""

    def trial(self, *, rate_scale: float) -> AbstractContextManager[Callable[[], None]]:
        """(all) Keep weights and optimizer: a call of the value, and the exit, restore them bit for bit. Steps inside
        are made at ``rate_scale`` times the current learning rate.
        """
        ...

    def trial_step(self, input_ids_BT: "Tensor", num_valid_B: "Tensor", *, target_tokens: int, seed: int) -> None:
        """(all) One optimizer step on the rows of all ranks; these are this rank's (int64)."""
        ...


class GradientReader(Protocol):
    """What gives gradients while an engine is set up for it."""

    def __call__(
        self, input_ids_BT: "Tensor", num_valid_B: "Tensor", *, target_tokens: int, seed: int
    ) -> "Sequence[Tensor]":
        """(all) This rank's part of the gradient of the mean loss on the rows of all ranks, in the units in which the
        optimizer sees it; each weight is in one rank's part. Zero where it was not finite.
        """
        ...


class GradientPort(Ranks, Protocol):
    """What gradient alignment needs of an engine, between two steps."""

    @property
    def device(self) -> "torch.device":
        """Where ids must lie."""
        ...

    def reduce(self, array: FloatArray) -> FloatArray:
        """(all) The float64 array summed over all ranks, the same on each."""
        ...

    def scaled_gradients(self) -> AbstractContextManager[GradientReader]:
        """(all) Keep weights and optimizer, which are restored bit for bit at the exit; inside, gradients can be
        read.
        """
        ...


class PendingFigures(Protocol):
    """Figures of a step that may still be running on the device."""

    def result(self) -> StepFigures:
        """Wait for the step and return its figures."""
        ...


class Devices(Ranks, Protocol):
    """What a run needs of the devices between two steps."""

    @property
    def device(self) -> "torch.device":
        """Where tensors belong."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        ...

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, trained or frozen."""
        ...

    def reduce(self, array: FloatArray) -> FloatArray:
        """(all) The float64 array summed over all ranks, the same on each."""
        ...

    def broadcast(self, value: Any) -> Any:
        """(all) The main rank's value."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """(all) Every rank's value, by rank."""
        ...

    @property
    def writers(self) -> Writers:
        """The ranks, over a channel that only saving uses."""
        ...

    def capture(self, *, detached: bool) -> Callable[[Path], None]:
        """(all) Collect model and optimizer; the function returned writes this rank's part into a folder, and all ranks
        call it: immediately, or, where ``detached``, in a thread while training continues.
        """
        ...

    def restore(self, folder: Path) -> None:
        """(all) Load what ``capture`` wrote."""
        ...


class Engine(Devices, SourceValuePort, GradientPort, Protocol):
    """Devices with a language model on them that can be trained."""

    def train_step(self, batch: "StepBatch", *, learning_rate: float, stop: bool, ledger_digest: int) -> PendingFigures:
        """(all) One optimizer step on this rank's part of the global batch, launched."""
        ...

    def save_model(self, folder: Path) -> None:
        """(all) Write the model in the form that transformers loads."""
        ...

    def continuations(self, prompts: Sequence[Sequence[int]], *, num_tokens: int, seed: int) -> list[list[int]]:
        """(all) Sampled continuations of each prompt, for a person to look at; empty off the main rank."""
        ...
