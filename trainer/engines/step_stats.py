"""The figures of a step in transit: from the ranks to each other in one all-reduce, from the device to the host.

One float64 vector, for an all-reduce costs its latency, not its size: five words, then the nats of each source, then
what else is trained on where there is any: the balancing loss of the experts, the divergence from a teacher. 64-bit
words go as two halves, whose sums are exact on 2^20 ranks. The tokens of each source need not be sent: every rank has
them from the plan.
"""

# B rows of a step on this rank, K sources

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from trainer.base.records import SourceLoss, StepFigures

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.loader import StepBatch

HALF = 1 << 32
NUM_WORDS = 5  # of the vector, before the nats
ROUTER, TEACHER = "router", "teacher"  # what is summed besides


def by_source(nats_B: "Tensor", sources_B: "Tensor", *, num_sources: int) -> "Tensor":
    """Nats [K] of the rows of each source. By selection: a sum by index is not repeatable on a GPU, a product with an
    indicator would spread a nan to all sources.
    """
    is_of_BK = sources_B[:, None] == torch.arange(num_sources, device=sources_B.device)
    return torch.where(is_of_BK, nats_B[:, None], 0.0).sum(0)


class SummedFigures:
    """(all) The figures of a step, summed over the ranks; still on the device, and nothing waits for them.

    ``nats_K`` a rank's part of the loss in float64, in as many parts as can be told apart; ``batch_hash`` its part of
    the hash of the samples, ``besides`` of further sums, scalars of the same names on all ranks.
    """

    def __init__(
        self,
        nats_K: "Tensor",
        *,
        batch_hash: int,
        stop: bool,
        ledger_digest: int,
        world_size: int,
        besides: "Mapping[str, Tensor] | None" = None,
    ) -> None:
        self.world_size, self.ledger_digest, self.num_parts = world_size, ledger_digest, len(nats_K)
        self.besides = tuple(besides or ())
        own = [batch_hash % HALF, batch_hash // HALF, float(stop), ledger_digest % HALF, ledger_digest // HALF]
        words = torch.tensor(own, dtype=torch.float64).to(nats_K.device, non_blocking=True)
        self.vector = torch.cat([words, nats_K, *(value.reshape(1) for value in (besides or {}).values())])
        if world_size > 1:
            torch.distributed.all_reduce(self.vector)

    @property
    def nats(self) -> "Tensor":
        """The loss over the global batch, a float64 scalar."""
        return self.vector[NUM_WORDS : NUM_WORDS + self.num_parts].sum()


class PendingStep:
    """Figures of a step, on their way from the device. ``norm`` and ``is_bad`` are scalars, the same on all ranks."""

    def __init__(self, batch: "StepBatch", summed: SummedFigures, norm: "Tensor", is_bad: "Tensor") -> None:
        self._target_tokens, self._source_targets = batch.target_tokens, batch.source_targets
        self._taught_tokens, self._besides = batch.taught_tokens, summed.besides
        self._world_size, self._digest = summed.world_size, summed.ledger_digest
        self._num_parts = summed.num_parts
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
        low, high, stop, digest_low, digest_high, *sums, norm, is_bad = self._figures.tolist()
        nats_K = sums[: self._num_parts]
        besides = dict(zip(self._besides, sums[self._num_parts :], strict=True))
        taught = self._taught_tokens if TEACHER in besides else None
        parts = zip(nats_K, self._source_targets, strict=True) if self._source_targets else ()
        return StepFigures(
            loss=sum(nats_K) / self._target_tokens,
            grad_norm=norm,
            updated=not is_bad,
            batch_hash=(int(low) + int(high) * HALF) % (1 << 64),
            stop_requested=stop > 0,
            ledgers_agree=digest_low == self._world_size * (self._digest % HALF)
            and digest_high == self._world_size * (self._digest // HALF),
            router_loss=besides[ROUTER] / self._target_tokens if ROUTER in besides else None,
            teacher_divergence=besides[TEACHER] / taught if taught else None,
            losses=tuple(SourceLoss(loss_sum_nats=nats, tokens=tokens) for nats, tokens in parts),
        )
