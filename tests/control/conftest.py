"""Observations for the tests of control: real ones, made of numbers instead of a model."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from trainer.base.records import (
    SHARE_ONE,
    Evaluation,
    GradientAlignment,
    Horizon,
    Kind,
    Observation,
    SourceLoss,
    SourceValue,
)

DOCUMENT_NATS = np.random.default_rng(7).normal(4.0, 0.6, 40)  # the spread between documents, nats per token
DOCUMENT_TOKENS = np.random.default_rng(8).integers(20, 200, 40)


def _evaluation(step: int, shift: float, rng: np.random.Generator | None) -> Evaluation:
    noise = rng.normal(0.0, 0.06, 40) if rng is not None else 0.0
    nats = (DOCUMENT_NATS + shift + noise) * DOCUMENT_TOKENS
    return Evaluation(
        step=step,
        loss_sum_nats=nats,
        tokens=DOCUMENT_TOKENS,
        num_bytes=DOCUMENT_TOKENS * 4,
        slice_of=np.zeros(40, dtype=np.int64),
        slices=("all",),
    )


@pytest.fixture(scope="session")
def observe() -> Callable[..., Observation]:
    """``observe(step, shares, ...)``: ``loss`` shifts the held-out loss, ``source_value`` is {source: value or
    SourceValue}, ``source_losses`` the mean training losses over ``tokens`` each.
    """

    def build(
        step: int,
        shares: Mapping[str, int],
        *,
        kinds: Mapping[str, Kind] | None = None,
        source_value: Mapping[str, float | SourceValue] | None = None,
        loss: float = 0.0,
        steps: int = 400,
        rng: np.random.Generator | None = None,
        evaluation: Evaluation | None = None,
        source_losses: Mapping[str, float] | None = None,
        gradient_alignment: Mapping[str, GradientAlignment] | None = None,
        num_samples: Mapping[str, int] | None = None,
        rate: float = 1e-3,
        tokens: int = 1_000,
    ) -> Observation:
        assert sum(shares.values()) == SHARE_ONE
        measured = {
            name: value
            if isinstance(value, SourceValue)
            else SourceValue(value=value, standard_error=0.08, num_samples=64)
            for name, value in (source_value or {}).items()
        }
        first, *_ = shares
        return Observation(
            step=step,
            progress=min(1.0, step / steps),
            horizon=Horizon(
                num_steps=steps,
                global_batch=32,
                rates=[rate] * 100,
                num_samples=num_samples or dict.fromkeys(shares, 1_000),
            ),
            losses={
                name: SourceLoss(loss_sum_nats=mean * tokens, tokens=tokens)
                for name, mean in (source_losses or {}).items()
            },
            evaluation=evaluation if evaluation is not None else _evaluation(step, loss, rng),
            evidence={"source_value": measured, "gradient_alignment": gradient_alignment or {}},
            shares=dict(shares),
            kinds=kinds or {name: "real" if name == first else "synthetic" for name in shares},
            epochs=dict.fromkeys(shares, 1.0),
        )

    return build
