"""Where the gradient on each source points: along that on held-out real text, or not; and how noisy it is.

A step of rate eta on source k lowers the held-out loss by eta <g_R, P g_k> to first order, in nats per token, where P
is how the optimizer scales gradients; that is the alignment of DoGE (2310.15393) and DGA (2410.02498), for Adam instead
of plain descent. What a batch of B samples loses to noise goes with tr(P Sigma_k) / B, Sigma_k the covariance of the
gradient of one sample: the term that PiKE (2502.06244) adds, without which a rule cannot see that a clean source is
more valuable than a noisy one of the same mean.

Gradients are taken part by part: the samples of a source are cut into ``SOURCE_PARTS`` disjoint parts, the held-out
ones into ``HELD_OUT_PARTS``. Products of different parts are unbiased for the product of the means, their scatter over
the parts is the standard error, and |g_j - mean|^2 over the parts of a source is its variance. A norm squared of a mean
would count its own noise as alignment; no product here has the same samples on both sides.

Alignment sees the next step only (see ``source_value`` for what that misses), at a fraction of the cost of trial steps.
"""

# I parts of the held-out samples, J parts of a source's

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from trainer.base.errors import UserError
from trainer.base.hashing import derived_rng
from trainer.base.heartbeat import beat
from trainer.base.records import FloatArray, GradientAlignment
from trainer.evaluate.config import FEWEST_ALIGNMENT_SAMPLES, GradientAlignmentConfig
from trainer.evaluate.eval_batches import EvalSamples, HeldOutText, SegmentRows
from trainer.evaluate.evidence.measurement import GRADIENT_ALIGNMENT, MeasuredRun
from trainer.evaluate.ports import GradientPort
from trainer.evaluate.samples import drawn, live_segments, packed, partitioned, shuffled_documents
from trainer.evaluate.schedule import Times, times

if TYPE_CHECKING:
    from torch import Tensor

# The gradients of the held-out parts are all kept, those of the sources one after the other: one part more
# costs memory there (a number for each weight of this rank), and nothing here.
HELD_OUT_PARTS, SOURCE_PARTS = 4, 8
MOST_SAMPLES = 128  # of each source, and of held-out text


def planned(run: MeasuredRun) -> tuple[Times, int] | None:
    """When gradients are measured and on how many samples of each source; None where they are not needed."""
    config = run.evaluation.gradient_alignment
    when = times(
        config.enabled,
        run.needed_from.get(GRADIENT_ALIGNMENT),
        until=1.0,
        num_steps=run.num_steps,
        every_steps=config.every_evaluations * run.evaluation.every_steps,
    )
    if when is None:
        return None
    num_samples = sized(
        config,
        num_sources=run.num_sources,
        sequence_length=run.sequence_length,
        interval_tokens=run.global_batch * run.sequence_length * when.every_steps,
    )
    return when, num_samples


@dataclass(frozen=True, kw_only=True)
class TokenAlignment:
    """The measurement of gradient alignment on token samples; a call is one measurement."""

    text: HeldOutText
    sources: Mapping[str, Sequence[SegmentRows]]
    num_samples: int
    times: Times

    @classmethod
    def plan(
        cls,
        config: GradientAlignmentConfig,
        run: MeasuredRun,
        *,
        text: HeldOutText,
        sources: Mapping[str, Sequence[SegmentRows]],
    ) -> Self | None:
        """The measurement that the run needs, if any."""
        if (sizes := planned(run)) is None:
            return None
        held_out_parts(text, sizes[1], step=0)  # too little text is an error now, not at the first measurement
        return cls(text=text, sources=sources, num_samples=sizes[1], times=sizes[0])

    @property
    def cost_tokens(self) -> float:
        """Cost of one measurement in trained tokens."""
        return cost_tokens(self.num_samples, num_sources=len(self.sources), sequence_length=self.text.sequence_length)

    def __call__(
        self, port: GradientPort, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, GradientAlignment]:
        """The alignment of each of ``sources``, given with their live segments, after ``step``, whatever the batch; see
        ``measure_alignment``.
        """
        samples = {
            name: drawn(segments, self.num_samples, derived_rng(self.text.seed, "alignment", name, step))
            for name, segments in live_segments(self.sources, sources).items()
            if sum(segment.num_samples for segment in segments) > 1
        }
        held_out = held_out_parts(self.text, self.num_samples, step=step)
        return measure_alignment(held_out, samples, port, step=step, seed=self.text.seed)


def sized(config: GradientAlignmentConfig, *, num_sources: int, sequence_length: int, interval_tokens: int) -> int:
    """Samples of each source and of held-out text that fit the budget of one measurement.

    They cost at most ``max_compute_share`` of the ``interval_tokens`` trained between two measurements. A number that
    the recipe states stays; below ``FEWEST_ALIGNMENT_SAMPLES`` nothing can be measured, whatever the budget.
    """
    affordable = math.floor(config.max_compute_share * interval_tokens / sequence_length / (num_sources + 1))
    return config.samples or min(max(affordable, FEWEST_ALIGNMENT_SAMPLES), MOST_SAMPLES)


def cost_tokens(num_samples: int, *, num_sources: int, sequence_length: int) -> int:
    """Cost of one measurement in trained tokens: each sample goes forward and backward once."""
    return num_samples * (num_sources + 1) * sequence_length


def held_out_parts(text: HeldOutText, num_samples: int, *, step: int) -> list[EvalSamples]:
    """Disjoint parts of held-out text [I], packed as training packs it, drawn again each time. ``UserError`` when the
    validation part cannot fill them: call it once before the run.
    """
    rng = derived_rng(text.seed, "alignment", "held-out", step)
    documents, ends = shuffled_documents(text, rng)
    needed = (num_samples + 1) * text.sequence_length  # 1: the last document may lie anywhere
    if not len(ends) or int(ends[-1]) < needed:
        raise UserError(
            "the validation part is too small for the alignment of sources",
            got=f"{int(ends[-1]) if len(ends) else 0} tokens, {needed} are needed",
            remedy="Hold out more documents, set a lower evaluation.gradient_alignment.samples, or use another policy",
        )
    return _parts(packed(text, documents, num_samples, rng), HELD_OUT_PARTS)


def measure_alignment(
    held_out: Sequence[EvalSamples], sources: Mapping[str, EvalSamples], port: GradientPort, *, step: int, seed: int
) -> dict[str, GradientAlignment]:
    """The alignment of each source, from its samples and parts of held-out ones. Every rank calls it and gets the same.

    Empty when a gradient was not finite: a mean over the others would leave out what is odd.
    """
    parts = {name: _parts(rows, SOURCE_PARTS) for name, rows in sources.items()}
    with port.scaled_gradients() as reader:

        def gradient(rows: EvalSamples) -> "Sequence[Tensor]":
            beat()
            ids_BT, num_valid_B, target_tokens = partitioned(rows, port)
            # the same dropout for all: what it does to a gradient must not differ between sources
            drop = int(derived_rng(seed, "alignment", "dropout", step).integers(2**62))
            ids_BT, num_valid_B = ids_BT.to(port.device), num_valid_B.to(port.device)
            return reader(ids_BT, num_valid_B, target_tokens=target_tokens, seed=drop)

        kept = [[tensor.clone() for tensor in gradient(rows)] for rows in held_out]
        local = [_norms(kept, port), *(_products(kept, map(gradient, of), port) for of in parts.values())]
    sums = port.reduce(np.concatenate([array.ravel() for array in local]))
    norms_I, *tables = np.split(sums, np.cumsum([array.size for array in local])[:-1])
    sizes = {name: np.array([len(rows.num_valid) for rows in of]) for name, of in parts.items()}
    shaped = {name: table.reshape(-1, len(sizes[name]) + 1) for name, table in zip(parts, tables, strict=True)}
    return estimated(norms_I, shaped, sizes)


def estimated(
    norms_I: FloatArray, tables: Mapping[str, FloatArray], sizes: Mapping[str, Sequence[int] | FloatArray]
) -> dict[str, GradientAlignment]:
    """Alignments from the products of the parts.

    ``norms_I`` <R_i, R_i> of the held-out parts. A table [I + 1, J + 1] of a source holds <R_i, k_j>, in its last row
    <k_j, k_j> and in its last column the same of sum_j k_j. ``sizes[J]`` are the samples of its parts.

    The standard error is for comparing sources, as that of a source value is: what the noise of the held-out parts does
    to all sources alike is left out.
    """
    norms = [norms_I, *(table[-1] for table in tables.values())]
    if not all(np.isfinite(norm).all() and (norm > 0).all() for norm in norms):
        return {}
    by_held_out = {name: table[:-1, :-1].mean(axis=1) for name, table in tables.items()}  # [I]
    common_I = np.mean(list(by_held_out.values()), axis=0)
    alignments = {}
    for name, table in tables.items():
        products_IJ, num_parts = table[:-1, :-1], table.shape[1] - 1
        spread = (table[-1, :-1].sum() - table[-1, -1] / num_parts) / (num_parts - 1)  # of the parts around their mean
        alignments[name] = GradientAlignment(
            inner_product=float(products_IJ.mean()),
            standard_error=_standard_error(products_IJ, by_held_out[name] - common_I),
            variance=float(spread / np.mean(1 / np.asarray(sizes[name]))),  # a mean of n samples has an n-th of it
            num_samples=int(np.sum(sizes[name])),
        )
    return alignments


def _standard_error(products_IJ: FloatArray, distinct_I: FloatArray) -> float:
    """Of the mean product of a source, as a mean over two crossed sets of parts: what the parts of the source do, and
    what those of the held-out samples do to it alone (``distinct_I``). Both hold what the two do together, the
    residual of the table: it counts once (analysis of variance of a crossed random model).
    """
    num_held_out, num_parts = products_IJ.shape
    rows_I, columns_J = products_IJ.mean(axis=1, keepdims=True), products_IJ.mean(axis=0, keepdims=True)
    residual = ((products_IJ - rows_I - columns_J + products_IJ.mean()) ** 2).sum()
    together = residual / ((num_held_out - 1) * (num_parts - 1) * num_held_out * num_parts)
    alone = max(0.0, distinct_I.var(ddof=1) / num_held_out - together)
    return math.sqrt(columns_J.var(ddof=1) / num_parts + alone)


def _parts(rows: EvalSamples, num_parts: int) -> list[EvalSamples]:
    """Disjoint parts of about equal size; fewer where there are fewer rows."""
    count = len(rows.num_valid)
    return [rows.take(part) for part in np.array_split(np.arange(count), min(num_parts, count))]


def _norms(kept: "Sequence[Sequence[Tensor]]", port: GradientPort) -> FloatArray:
    """This rank's part of <R_i, R_i>, [I]."""
    import torch

    return torch.stack([_inner(part, part, port) for part in kept]).cpu().numpy()


def _products(kept: "Sequence[Sequence[Tensor]]", gradients: "map[Sequence[Tensor]]", port: GradientPort) -> FloatArray:
    """This rank's part of a source's table; see ``estimated``. Only the sum of its gradients is kept."""
    import torch

    columns, total = [], list["Tensor"]()
    for gradient in gradients:
        columns.append(torch.stack([_inner(part, gradient, port) for part in [*kept, gradient]]))
        total = [a + b for a, b in zip(total, gradient, strict=True)] if total else [part.clone() for part in gradient]
    columns.append(torch.stack([_inner(part, total, port) for part in [*kept, total]]))
    return torch.stack(columns, dim=1).cpu().numpy()  # the only wait for the device


def _inner(left: "Sequence[Tensor]", right: "Sequence[Tensor]", port: GradientPort) -> "Tensor":
    """This rank's part of the inner product, a float64 scalar; 0 where it holds no weight."""
    import torch

    products = [(a * b).sum(dtype=torch.float64) for a, b in zip(left, right, strict=True)]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64, device=port.device)
