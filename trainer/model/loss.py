"""The training loss: cross entropy per predicted token, summed, and divided once by the target tokens of the whole
global batch.

Why sums: an average of averages weighs a token of a short rank more than one of a full rank, so the loss would depend
on the number of processes. The sum over valid targets does not, and its denominator is known from the plan on every
rank before the first forward, which saves an all-reduce. Engines average gradients on their own (DDP and FSDP over
ranks, Accelerate and DeepSpeed over accumulated micro-batches as well): ``normalized`` multiplies by exactly that,
once, and no other line of the project divides a loss.
"""

# B batch, T tokens, P = T - 1 predicted tokens, V vocabulary

from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # torch's ignore_index: exactly zero loss and zero gradient


@overload
def target_tokens(num_valid: "Tensor") -> "Tensor": ...
@overload
def target_tokens(num_valid: NDArray[np.int64]) -> NDArray[np.int64]: ...
def target_tokens(num_valid: "Tensor | NDArray[np.int64]") -> "Tensor | NDArray[np.int64]":
    """Predicted tokens of samples with ``num_valid`` tokens: one less, at least 0 (the first token has no context)."""
    return (num_valid - 1).clip(0)


def token_losses(logits_BTV: "Tensor", input_ids_BT: "Tensor", num_valid_B: "Tensor") -> "Tensor":
    """Cross entropy in nats of each predicted token, fp32 [B, T-1]; entry t is the loss of token t+1 given tokens 0..t.

    Targets at ``num_valid`` and beyond are exactly 0, in value and gradient; a sample with ``num_valid`` 0 is
    weightless. The log-softmax is fp32 also under bf16 autocast: bf16 keeps 3 digits, and a loss of 10.001 and 10.02
    nats would be the same.
    """
    import torch
    from torch.nn.functional import cross_entropy

    length = input_ids_BT.shape[1]
    position_T = torch.arange(1, length + 1, device=input_ids_BT.device)
    targets_BT = torch.roll(input_ids_BT, -1, dims=1).masked_fill(position_T >= num_valid_B[:, None], IGNORED)
    # The last input predicts a token that is not here; it stays in the call, for cutting it off would copy the logits.
    targets_BT[:, -1] = IGNORED
    losses = cross_entropy(
        logits_BTV.float().flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets_BT.shape)[:, :-1]


def normalized(summed_nats: "Tensor", *, global_target_tokens: int, averaged_over: int) -> "Tensor":
    """What an engine calls backward on: this micro-batch's part of the mean loss over the global batch, undoing the
    engine's own averaging.

    ``averaged_over`` is everything the engine will divide by afterwards: the number of data-parallel ranks (1 for one
    process), times the accumulation steps where the engine scales by those as well (DeepSpeed; Accelerate when its
    ``gradient_accumulation_steps`` is above 1). Gradients summed over ranks and micro-batches are then those of
    sum(nats) / ``global_target_tokens``, which counts the whole global batch.
    """
    if global_target_tokens < 1:
        raise ValueError(f"a global batch needs at least one target token, got {global_target_tokens}")
    return summed_nats * (averaged_over / global_target_tokens)
