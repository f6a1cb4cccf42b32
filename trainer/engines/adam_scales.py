"""How Adam scales gradients, on this rank's part of the weights, for gradients that are measured and not followed.

A step moves a weight by rate x g / (sqrt(v) + epsilon). Taken from both gradients of a product alike, each is scaled by
the root of that, so that <g, g'> is what the loss of one gains by a step of rate 1 along the other.

v is what it would be after one more step on an average weight: beta2 v + (1 - beta2) mean(v). The weights of a token
that training has not met for long have v near 0, and one chance occurrence on both sides would outweigh all others;
in a step Adam bounds it by what the gradient itself adds to v, which is not linear in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.base.records import FloatArray


@dataclass(frozen=True, kw_only=True)
class AdamPart:
    """What Adam keeps of weights that lie on this rank, as plain tensors, and by which rule."""

    step: Tensor
    first: Tensor
    second: Tensor
    beta2: float
    epsilon: float

    @classmethod
    def of(cls, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> "AdamPart":
        """From an entry of the optimizer's state and its parameter group."""
        return cls(
            step=_local(state["step"]),
            first=_local(state["exp_avg"]),
            second=_local(state["exp_avg_sq"]),
            beta2=group["betas"][1],
            epsilon=group["eps"],
        )

    @property
    def corrected(self) -> Tensor:
        """The second moment, its beginning at 0 corrected for; 0 before the first step."""
        return self.second / (1 - self.beta2**self.step).clamp(min=1 - self.beta2).to(self.second.device)


def scales(
    parts: Sequence[AdamPart], *, num_weights: int, reduce: Callable[[FloatArray], FloatArray], device: torch.device
) -> list[Tensor]:
    """(all) Factors of the gradients of this rank's parts, of the same shapes; ``num_weights`` on all ranks."""
    sums = [part.corrected.sum(dtype=torch.float64).to(device) for part in parts]
    own = torch.stack(sums).sum().item() if sums else 0.0
    mean = float(reduce(np.array([own]))[0]) / num_weights
    return [((part.beta2 * part.corrected + (1 - part.beta2) * mean).sqrt() + part.epsilon).rsqrt() for part in parts]


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
