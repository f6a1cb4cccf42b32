"""What is recorded of a step: its figures in the journal, spikes and steps that were not finite with their samples."""

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trainer.base.records import SourceLoss, StepFigures
from trainer.mixture import lookups
from trainer.mixture.plan import SNAPSHOT_EVERY_STEPS
from trainer.tracking.figures import StepMixture
from trainer.tracking.schema import NonFiniteLine, SpikeLine, StepLine
from trainer.training.run import Run, RunState
from trainer.training.spikes import spike, with_latest

if TYPE_CHECKING:
    from trainer.data.loader import StepBatch

NONFINITE_LIMIT = 3  # steps in a row: one can be a freak batch, three are a broken run


class RanksDisagreeError(RuntimeError):
    """Ranks hold different ledgers: further steps would train on different batches."""


class NonFiniteError(RuntimeError):
    """Loss or gradient was not finite several steps in a row."""


def record_step(
    run: Run, state: RunState, batch: "StepBatch", figures: StepFigures, *, learning_rate: float, since_s: float
) -> RunState:
    """Journal the figures of a step that has run ``since_s`` (monotonic); the state after it.

    ``RanksDisagreeError`` where the ranks hold different ledgers, ``NonFiniteError`` after ``NONFINITE_LIMIT`` steps
    without an update.
    """
    plan = run.data.plan
    counts = np.bincount(batch.plan.source, minlength=len(plan.sources)).tolist()
    losses = {name: loss for name, loss in zip(plan.sources, figures.losses, strict=False) if loss.tokens}
    line = StepLine.of(
        figures,
        step=batch.step,
        losses=losses,
        learning_rate=learning_rate,
        tokens=batch.target_tokens,
        mixture=StepMixture(
            counts=dict(zip(plan.sources, counts, strict=True)),
            shares=plan.shares(batch.step),
            epochs=lookups.epochs(plan, batch.after),
        ),
        seconds=time.monotonic() - since_s,
    )
    run.io.journal.write(line)
    if batch.step % SNAPSHOT_EVERY_STEPS == 0:
        run.data.plan.ledger.append(plan.snapshot(batch.after))
    if not figures.ledgers_agree:
        raise _ranks_disagree(run, batch.step)
    if not figures.updated:
        skipped = state.skipped_in_a_row + 1
        _report_nonfinite(run, batch, figures, skipped)
        return replace(state, skipped_in_a_row=skipped)
    _report_spike(run, batch, figures, state.recent_losses)
    recent = with_latest(state.recent_losses, figures.loss)
    losses = added(state.losses, losses)
    return replace(state, skipped_in_a_row=0, recent_losses=recent, losses=losses)


def _ranks_disagree(run: Run, step: int) -> RanksDisagreeError:
    digests = run.devices.gather((run.data.plan.ledger.digest, socket.gethostname()))
    ledgers = ", ".join(f"rank {rank} on {host}: {digest:016x}" for rank, (digest, host) in enumerate(digests))
    return RanksDisagreeError(f"after step {step} the ranks hold different ledgers: {ledgers}")


def added(sums: Mapping[str, SourceLoss], more: Mapping[str, SourceLoss]) -> dict[str, SourceLoss]:
    """Losses by source, summed."""
    zero = SourceLoss(loss_sum_nats=0.0, tokens=0)
    pairs = {name: (sums.get(name, zero), more.get(name, zero)) for name in {**sums, **more}}
    return {
        name: SourceLoss(loss_sum_nats=a.loss_sum_nats + b.loss_sum_nats, tokens=a.tokens + b.tokens)
        for name, (a, b) in pairs.items()
    }


def _report_spike(run: Run, batch: "StepBatch", figures: StepFigures, recent: Sequence[float]) -> None:
    outlier = spike(figures.loss, recent)
    if outlier is not None:
        line = SpikeLine(
            step=batch.step,
            loss=figures.loss,
            grad_norm=figures.grad_norm,
            median=outlier.median,
            spread=outlier.spread,
            samples=_samples_of(run, batch),
        )
        run.io.journal.write(line)
        run.io.warn(
            f"step {batch.step}: loss {figures.loss:.4g} against a median of {outlier.median:.4g} in the steps before "
            f"(gradient norm {figures.grad_norm:.3g}); its samples: trainer audit {run.io.folder} --step {batch.step}"
        )


def _samples_of(run: Run, batch: "StepBatch") -> list[str]:
    names, plan = run.data.plan.sources, batch.plan
    return [f"{names[k]}:{g}:{i}" for k, g, i in zip(plan.source, plan.segment, plan.sample, strict=True)]


def _report_nonfinite(run: Run, batch: "StepBatch", figures: StepFigures, skipped: int) -> None:
    samples = _samples_of(run, batch)
    loss, norm = figures.loss, figures.grad_norm
    run.io.journal.write(NonFiniteLine(step=batch.step, loss=loss, grad_norm=norm, samples=samples))
    run.io.warn(
        f"step {batch.step}: loss {figures.loss:g}, gradient norm {figures.grad_norm:g}: no rank updated its weights"
    )
    if skipped >= NONFINITE_LIMIT:
        raise NonFiniteError(
            f"loss or gradient was not finite {skipped} steps in a row, up to step {batch.step}; its samples "
            f"(source:segment:sample): {', '.join(samples[:16])}{', ...' if len(samples) > 16 else ''}. "
            f"Look at them with: trainer audit {run.io.folder} --step {batch.step}, "
            "or start a new run with a lower learning rate"
        )
