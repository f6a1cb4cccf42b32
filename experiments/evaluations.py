"""Evaluations made of a number: what a world that knows only its mean held-out loss hands to control."""

import numpy as np

from trainer.base.records import Evaluation

DOCUMENTS, TOKENS = 40, 100
LEVEL = 4.0  # nats per token of a perfect model: losses are positive
_SPREAD = np.random.default_rng(7).normal(0.0, 0.6, DOCUMENTS)  # between documents, as on text
_SPREAD -= _SPREAD.mean()


def evaluation(step: int, loss: float) -> Evaluation:
    """an evaluation whose mean is ``loss`` above the level, in nats per token."""
    tokens = np.full(DOCUMENTS, TOKENS)
    return Evaluation(
        step=step,
        loss_sum_nats=(LEVEL + _SPREAD + loss) * tokens,
        tokens=tokens,
        num_bytes=tokens * 4,
        slice_of=np.zeros(DOCUMENTS, dtype=np.int64),
        slices=("all",),
    )
