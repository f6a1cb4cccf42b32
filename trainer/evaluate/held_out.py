"""Losses of held-out real documents: which are evaluated, what an evaluation costs, and its figures.

The subset is chosen once, by hash and in proportion to the slices, so that two evaluations differ by the model alone:
between documents the loss varies by 0.6 nats per token, between two checkpoints by 0.003, and only a paired comparison
sees the second. Its size follows from token counts, never from a clock, so that every machine and every number of
processes evaluates the same documents.
"""

# D documents of an evaluation

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.base.errors import UserError
from trainer.base.hashing import derived_hash, derived_rng
from trainer.base.records import Evaluation, FloatArray, IntArray
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.eval_batches import (
    HELD_OUT_ROWS,
    VALIDATION_STREAM,
    EvalRows,
    EvalSamples,
    HeldOutText,
    Part,
    SegmentRows,
    cut_windows,
    gather_samples,
    ratio_standard_error,
    reduced_nats,
    row_targets,
)
from trainer.evaluate.ports import ForwardPort
from trainer.evaluate.samples import live_segments
from trainer.tracking.figures import HeldOutFigures, SliceLoss, WorstSlice

FORWARD_COST = 1 / 3  # of a trained token: forward 2 flops per weight and token, forward and backward 6
FEWEST_DOCUMENTS = 8  # below that a standard error means nothing: evaluated even when the budget is smaller
FEWEST_OF_A_SLICE = 4  # so that a minority is evaluated at all
TAIL_SHARE = 0.1  # the tail: the documents of highest loss


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything that stays the same from evaluation to evaluation: ``documents`` [D] of the text's part (ascending),
    and the sources of which the loss of ``source_samples`` fixed samples is taken too.
    """

    text: HeldOutText
    documents: IntArray
    sources: Mapping[str, Sequence[SegmentRows]] = field(default_factory=dict)
    source_samples: int = 0

    def evaluate(self, port: ForwardPort, *, step: int, live: Mapping[str, Sequence[int]]) -> Evaluation:
        """One evaluation; every rank calls it and gets the same one, bit for bit. Of each source those segments count
        that ``live`` names by their numbers.
        """
        text, part = self.text, self.text.part
        live_sources = live_segments(self.sources, {name: live[name] for name in self.sources})
        samples = fixed_samples(live_sources, num_samples=self.source_samples, seed=text.seed)
        windows = cut_windows(
            part,
            self.documents,
            sequence_length=text.sequence_length,
            end_of_document=text.end_of_document,
            begins=text.begins,
        )
        parts: dict[str, EvalRows] = {HELD_OUT_ROWS: windows, **samples}
        row_nats = reduced_nats(parts, port, batch_rows=text.batch_rows)
        nats, tokens = np.zeros(len(self.documents)), np.zeros(len(self.documents), dtype=np.int64)
        place = np.searchsorted(self.documents, windows.documents)
        np.add.at(nats, place, row_nats[HELD_OUT_ROWS])
        np.add.at(tokens, place, row_targets(windows))
        return Evaluation(
            step=step,
            loss_sum_nats=nats,
            tokens=tokens,
            num_bytes=np.asarray(part.num_bytes[self.documents], dtype=np.int64),
            slice_of=np.asarray(part.slice_of[self.documents], dtype=np.int64),
            slices=tuple(part.slices),
            source_nats_per_token={
                name: float(row_nats[name].sum() / row_targets(rows).sum()) for name, rows in samples.items()
            },
        )


def evaluator_of_all(text: HeldOutText) -> Evaluator:
    """An evaluator of every document of a part and of no source: what final figures are made of."""
    return Evaluator(text=text, documents=all_documents(text.part))


def plan_validation(
    part: Part,
    config: EvaluationConfig,
    *,
    interval_tokens: int,
    seed: int,
    num_sources: int = 0,
    sequence_length: int = 0,
) -> IntArray:
    """Ascending indices of the documents to evaluate, fixed for the run: hashed order inside each slice, slices in
    proportion.

    With ``validation_documents`` null as many as keep (document tokens + sources x source_samples x sequence_length) x
    1/3 within max_compute_share x ``interval_tokens`` (the tokens trained between two evaluations), but at least 8.
    """
    order = _nested_order(part, seed)
    if config.validation_documents is not None:
        if config.validation_documents > len(order):
            raise UserError(
                "evaluation.validation_documents is more than the held-out validation part has",
                got=config.validation_documents,
                remedy=f"It has {len(order)}",
            )
        return np.sort(order[: config.validation_documents])
    probe_tokens = num_sources * config.source_samples * sequence_length
    budget_tokens = config.max_compute_share * interval_tokens / FORWARD_COST - probe_tokens
    lengths = part.offsets[order + 1] - part.offsets[order]
    affordable = int(np.searchsorted(np.cumsum(lengths), budget_tokens, side="right"))
    return np.sort(order[: max(affordable, FEWEST_DOCUMENTS)])


def all_documents(part: Part) -> IntArray:
    """Every document that has a token, ascending: those of the final figures."""
    return np.flatnonzero(np.diff(part.offsets) > 0).astype(np.int64)


def evaluation_cost_tokens(
    part: Part, documents: IntArray, *, num_sources: int, source_samples: int, sequence_length: int
) -> float:
    """Cost of an evaluation in trained-token equivalents: a third of the tokens that go through a forward (padding not
    counted).
    """
    tokens = (
        int((part.offsets[documents + 1] - part.offsets[documents]).sum())
        + num_sources * source_samples * sequence_length
    )
    return tokens * FORWARD_COST


def fixed_samples(
    sources: Mapping[str, Sequence[SegmentRows]], *, num_samples: int, seed: int
) -> dict[str, EvalSamples]:
    """The same few training samples of each source at every evaluation (fewer where a source has fewer).

    ``sources`` are the live segments: where one joins or retires the samples are chosen anew from those that are drawn
    now. So the loss of a source is on what it gives now, and two evaluations are on the same samples unless a segment
    joined between them.
    """
    chosen = {}
    for name, segments in sources.items():
        total = sum(segment.num_samples for segment in segments)
        if total and num_samples:
            picks = derived_rng(seed, "source-loss", name).choice(total, size=min(num_samples, total), replace=False)
            chosen[name] = gather_samples(segments, np.sort(picks).astype(np.int64))
    return chosen


def tail_documents(anchor_nats: FloatArray, tokens: IntArray) -> IntArray:
    """Indices of the tenth of the documents with the highest nats per token under the anchor, ascending; at least one.

    Chosen under an anchor and kept, because a set chosen under the evaluation that it judges gets better by itself
    (regression to the mean). The same holds for the anchor: hand in the mean of one half of the anchor evaluations and
    compare with the other half.
    """
    count = max(1, round(TAIL_SHARE * len(tokens)))
    worst = np.argsort(-(anchor_nats / tokens), kind="stable")[:count]
    return np.sort(worst)


def summary(evaluation: Evaluation, anchor_nats: FloatArray | None = None) -> HeldOutFigures:
    """The figures of an evaluation: mean loss with its standard error (clusters are documents), bits per byte, tail
    loss, slices, worst slice.

    The tail loss is over ``tail_documents(anchor_nats)`` and None without an anchor. A slice without documents is left
    out; the worst slice is the one with the most bits per byte. Nothing is given per byte where the tokenizer loses
    text.
    """
    slices: dict[str, SliceLoss] = {}
    bits: dict[str, float] = {}  # empty where bytes do not count
    has_bytes = bool(evaluation.num_bytes.any())
    for index, name in enumerate(evaluation.slices):
        inside = evaluation.slice_of == index
        if inside.any():
            if has_bytes:
                nats, num_bytes = evaluation.loss_sum_nats[inside].sum(), evaluation.num_bytes[inside].sum()
                bits[name] = float(nats / np.log(2) / num_bytes)
            slices[name] = SliceLoss(
                nats_per_token=float(evaluation.loss_sum_nats[inside].sum() / evaluation.tokens[inside].sum()),
                bits_per_byte=bits.get(name),
                documents=int(inside.sum()),
                tokens=int(evaluation.tokens[inside].sum()),
            )
    worst = max(bits, key=lambda name: bits[name], default=None)
    tail = None if anchor_nats is None else tail_documents(anchor_nats, evaluation.tokens)
    tail_loss = None if tail is None else float(evaluation.loss_sum_nats[tail].sum() / evaluation.tokens[tail].sum())
    error = ratio_standard_error(evaluation.loss_sum_nats, evaluation.tokens)
    return HeldOutFigures(
        nats_per_token=evaluation.nats_per_token,
        standard_error=error if np.isfinite(error) else None,
        bits_per_byte=evaluation.bits_per_byte if has_bytes else None,
        documents=len(evaluation.loss_sum_nats),
        tokens=int(evaluation.tokens.sum()),
        tail_nats_per_token=tail_loss,
        slices=slices,
        worst_slice=None if worst is None else WorstSlice(name=worst, bits_per_byte=bits[worst]),
        source_nats_per_token=dict(evaluation.source_nats_per_token),
    )


def _nested_order(part: Part, seed: int) -> IntArray:
    """Documents with tokens, such that every prefix is balanced: first a few of each slice in turn, then slices in
    proportion.
    """
    documents = all_documents(part)
    ticket = np.array(
        [derived_hash(seed, VALIDATION_STREAM, part.ids[document]) for document in documents], dtype=np.uint64
    )
    slice_of = np.asarray(part.slice_of)[documents]
    key = np.empty(len(documents))
    for index in np.unique(slice_of):
        inside = np.flatnonzero(slice_of == index)
        ranked = inside[np.argsort(ticket[inside], kind="stable")]
        turn = np.arange(len(ranked))
        key[ranked] = np.where(turn < FEWEST_OF_A_SLICE, turn - FEWEST_OF_A_SLICE, (turn + 0.5) / len(ranked))
    return documents[np.lexsort((ticket, key))]
