"""Facts that the parts hand each other: frozen values without behavior, so that no part needs to import another to be
understood.

Everything here is plain data (numpy at most). Quantities wear their unit; shares are integers in millionths, because
shares that are added up over a million steps must not drift by a rounding error.
"""

# D held-out documents in document order

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SHARE_ONE = 1_000_000  # a share of one, in millionths
SHARE_STEP = 1_000  # decisions are rounded to thousandths: the same on every machine, short enough to read

Kind = Literal["real", "synthetic"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on held-out real documents.

    ``loss_sum_nats[D]`` total loss of each document, ``tokens[D]`` its predicted tokens, ``num_bytes[D]`` its UTF-8
    bytes, ``slice_of[D]`` an index into ``slices``. ``source_nats_per_token`` is the loss on a fixed sample of each
    training source, chosen anew where a segment of it joined.
    """

    step: int
    loss_sum_nats: FloatArray
    tokens: IntArray
    num_bytes: IntArray
    slice_of: IntArray
    slices: tuple[str, ...]
    source_nats_per_token: Mapping[str, float] = field(default_factory=dict)

    @property
    def nats_per_token(self) -> float:
        """Token-weighted mean loss, nats per token."""
        return float(self.loss_sum_nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per UTF-8 byte: comparable across tokenizers."""
        return float(self.loss_sum_nats.sum() / np.log(2) / self.num_bytes.sum())


@dataclass(frozen=True, kw_only=True)
class SourceValue:
    """What a token of a source is worth now, in units of a fresh real token (1 = as good, 0 = useless, below 0 =
    harmful).

    ``fresh_gain`` is that unit: nats per held-out token that one step on fresh real text gains at the present learning
    rate; None where not known.
    """

    value: float
    standard_error: float
    num_samples: int
    fresh_gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Which part of what a few steps taught goes at each step after them, at the present learning rate: 0 where nothing
    is forgotten, below 0 where it still grows.
    """

    value: float
    standard_error: float
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class SourceLoss:
    """Training loss on one source since the evaluation before: a sum in nats, over so many predicted tokens."""

    loss_sum_nats: float
    tokens: int

    @property
    def nats_per_token(self) -> float:
        """Mean loss, nats per token; NaN where nothing was drawn."""
        return self.loss_sum_nats / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True, kw_only=True)
class GradientAlignment:
    """How the gradient on a source points along that on held-out real data, both as the optimizer scales them.

    ``inner_product`` <g_held-out, g_source>: nats per held-out token that a step on the source gains per unit of
    learning rate, with its standard error, which is for comparing sources; ``variance`` the trace of the covariance of
    the gradient of one sample of the source, in the same units: what an alignment alone does not see.
    """

    inner_product: float
    standard_error: float
    variance: float
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """What is known of a run ahead of it, for policies that plan what they spend."""

    num_steps: int  # of the schedule
    global_batch: int  # samples, now in force
    rates: Sequence[float]  # learning rate at evenly spaced schedule positions, the middle of each part of the run
    num_samples: Mapping[str, int]  # that each source can give now, all different
    max_epochs: Mapping[str, float] = field(default_factory=dict)  # of sources that are capped
    # of sources, in fresh real tokens, before anything is measured: of those whose text says so
    prior_values: Mapping[str, SourceValue] = field(default_factory=dict)
    probes_until: float | None = None  # progress of the last probe of what is forgotten; None: there are none

    def rate_at(self, progress: float) -> float:
        """The learning rate of the schedule at ``progress``; 0 where none is known."""
        return float(self.rates[min(int(progress * len(self.rates)), len(self.rates) - 1)]) if len(self.rates) else 0.0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that policy and guard may look at when a decision is due after ``step``."""

    step: int
    progress: float  # schedule position / steps, in [0, 1]
    horizon: Horizon
    evaluation: Evaluation
    losses: Mapping[str, SourceLoss]  # sources drawn since the evaluation before
    shares: Mapping[str, int]  # millionths, now in force; sums to SHARE_ONE
    kinds: Mapping[str, Kind]
    epochs: Mapping[str, float]  # drawn so far, in epochs of the source
    # estimates by kind of measurement, then by source: the built-in kinds have the accessors below
    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    live: Mapping[str, Sequence[int]] = field(default_factory=dict)  # segments of each source that are drawn from

    @property
    def source_value(self) -> Mapping[str, SourceValue]:
        """Source values; empty where they were not measured."""
        return self.evidence.get("source_value", {})

    @property
    def gradient_alignment(self) -> Mapping[str, GradientAlignment]:
        """Gradient alignments; empty where they were not measured."""
        return self.evidence.get("gradient_alignment", {})

    @property
    def forgetting(self) -> Mapping[str, Forgetting]:
        """Forgetting of what a source taught; empty where it was not probed."""
        return self.evidence.get("forgetting", {})


Action = Literal["keep", "move", "warn", "cut", "rollback", "stop"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a policy would do: new shares in millionths (the old ones to keep them), and why."""

    shares: Mapping[str, int]
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the guard decides on an evaluation: ``ok``, ``warn`` (freeze the shares), ``cut`` the source, ``rollback``
    (and quarantine the source, where there is one) or ``stop``.
    """

    action: Literal["ok", "warn", "cut", "rollback", "stop"]
    reason: str
    source: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What came of policy and guard: shares in force from ``from_step`` on, why, on what evidence (JSON-able)."""

    from_step: int
    action: Action
    shares: Mapping[str, int]
    reason: str
    policy: str  # kind of the policy that proposed
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What is known of a step when its work is done. ``batch_hash`` is the sum mod 2^64 over all ranks."""

    loss: float  # nats per token over the global batch
    grad_norm: float
    updated: bool  # False: a loss or gradient was not finite, and no rank changed its weights
    batch_hash: int
    stop_requested: bool  # on any rank
    ledgers_agree: bool
    router_loss: float | None = None  # balancing loss of the experts; None where the model has none
    teacher_divergence: float | None = None  # nats per token that a teacher has read; None where there is none
    losses: tuple[SourceLoss, ...]  # over the global batch, in the plan's order; empty where nobody can tell them apart
