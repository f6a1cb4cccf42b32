"""The figures of a step on their way: from the ranks to each other in one all-reduce, from the device to the host.

One float64 vector, for an all-reduce costs its latency, not its size; 64-bit words go as two halves, whose sums are
exact on 2^20 ranks.
"""

from typing import TYPE_CHECKING

import torch

from trainer.records import StepFigures

if TYPE_CHECKING:
    from torch import Tensor

HALF = 1 << 32


class SummedFigures:
    """(all) What each rank says of a step, summed over the ranks; still on the device, and nothing waits for it.

    ``nats`` a rank's part of the loss, a float64 scalar; ``fed`` its part of the hash of the samples.
    """

    def __init__(self, nats: "Tensor", *, fed: int, stop: bool, ledger_digest: int, world_size: int) -> None:
        self.world_size, self.ledger_digest = world_size, ledger_digest
        own = [fed % HALF, fed // HALF, float(stop), ledger_digest % HALF, ledger_digest // HALF]
        words = torch.tensor(own, dtype=torch.float64).to(nats.device, non_blocking=True)
        self.vector = torch.cat([words, nats[None]])
        if world_size > 1:
            torch.distributed.all_reduce(self.vector)

    @property
    def nats(self) -> "Tensor":
        """The loss over the global batch, a float64 scalar."""
        return self.vector[-1]


class PendingStep:
    """Figures of a step, on their way from the device. ``norm`` and ``is_bad`` are scalars, the same on all ranks."""

    def __init__(self, summed: SummedFigures, norm: "Tensor", is_bad: "Tensor", *, target_tokens: int) -> None:
        self._target_tokens, self._world_size, self._digest = target_tokens, summed.world_size, summed.ledger_digest
        self._arrived: torch.cuda.Event | None = None
        figures = torch.cat([summed.vector, torch.stack([norm.double(), is_bad.double()])])
        self._figures = figures
        if figures.device.type == "cuda":
            self._figures = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            self._figures.copy_(figures, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def result(self) -> StepFigures:
        """Wait for the step and return its figures."""
        if self._arrived is not None:
            self._arrived.synchronize()
        low, high, stop, digest_low, digest_high, nats, norm, is_bad = self._figures.tolist()
        return StepFigures(
            loss=nats / self._target_tokens,
            grad_norm=norm,
            updated=not is_bad,
            fed=(int(low) + int(high) * HALF) % (1 << 64),
            stop_asked=stop > 0,
            ledgers_agree=digest_low == self._world_size * (self._digest % HALF)
            and digest_high == self._world_size * (self._digest // HALF),
        )
