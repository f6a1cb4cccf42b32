"""The training loop and what happens after a step: evaluate, validation, save. It knows verbs, not libraries.

Who makes the steps is left open: ``train`` makes them with an engine; under Lightning they are Lightning's, and
``Steps`` is what both go through.

Everything a batch depends on is in the ledger, everything measured is in the journal, and everything else a run needs
to go on is in ``RunState``. The figures of a step are read one step late, so that a GPU always has the next step queued
before the host waits for anything.
"""

import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.base.errors import UserError
from trainer.base.heartbeat import beat
from trainer.base.records import (
    Alignment,
    Decision,
    Evaluation,
    Forgetting,
    Horizon,
    Observation,
    SourceLoss,
    SourceValue,
    StepFigures,
)
from trainer.control.controller import decide, restored_state
from trainer.evaluate.held_out import summary
from trainer.evaluate.ports import Engine, PendingFigures
from trainer.mixture import lookups
from trainer.mixture.advance import State
from trainer.mixture.ledger import BatchSize, Fact, Retire, Rollback, Segment, Shares
from trainer.mixture.plan import SNAPSHOT_EVERY_STEPS
from trainer.model.config import TrainingConfig
from trainer.tracking.figures import StepMixture
from trainer.tracking.schema import (
    CapLine,
    CheckpointLine,
    DecisionLine,
    DeficitLine,
    EvaluationLine,
    JoinLine,
    NonFiniteLine,
    RetireLine,
    RollbackLine,
    SpikeLine,
    StepLine,
)
from trainer.training import checkpoint
from trainer.training.run import Found, MeasurePlan, Outcome, Run, RunState
from trainer.training.slice_skew import drawn_slices, slices_drawn, warned_of_skew
from trainer.training.spikes import spike, with_latest

if TYPE_CHECKING:
    from trainer.data.loader import StepBatch

NONFINITE_LIMIT = 3  # steps in a row: one can be a freak batch, three are a broken run


class RanksDisagreeError(RuntimeError):
    """Ranks hold different ledgers: going on would train on different batches."""


class NonFiniteError(RuntimeError):
    """Loss or gradient was not finite several steps in a row."""


@dataclass(frozen=True, kw_only=True)
class InFlightStep:
    """A step that may still be running on the device."""

    batch: "StepBatch"
    figures: PendingFigures
    learning_rate: float
    started_s: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the sources at a reading."""

    losses: Mapping[str, SourceLoss]
    source_value: Mapping[str, SourceValue]
    alignment: Mapping[str, Alignment]
    forgetting: Mapping[str, Forgetting]


class Steps:
    """The steps of a run from ``state`` on, for whoever makes them: ``batches`` deals, ``made`` takes each back.

    Figures are read one step late unless something is due. ``outcome`` is None until the run has come to an end.
    """

    def __init__(self, run: Run, state: RunState) -> None:
        self.run, self.state = run, state
        self._unread: deque[InFlightStep] = deque()
        self._settled_s = 0.0  # when the figures of the last step were read
        self.outcome = self._finished()

    def batches(self) -> Iterator["StepBatch"]:
        """This rank's part of each global batch, until the run has come to an end; each only once the one before was
        ``made``.
        """
        while self.outcome is None:
            beat("waiting for data", self.state.step + 1)
            try:
                batch = self.run.stream.next()
            except UserError:  # a source is spent and nobody can take its share: what was trained is kept
                self.settle()
                save_checkpoint(self.run, self.state)
                finish_saving(self.run)
                raise
            _note_caps(self.run, batch)
            yield batch

    def made(self, launched: InFlightStep) -> None:
        """Take a step that was launched: its figures into the journal, then whatever is due after it."""
        batch, state = launched.batch, self.state
        self._unread.append(launched)
        self.state = replace(
            state, step=batch.step, position=state.position + 1, tokens=state.tokens + batch.target_tokens
        )
        due = _due(self.run, self.state)
        interrupted = self.settle(keep=0 if due else 1)
        if due or interrupted:
            self.settle()
            self.state, self.outcome = after_step(self.run, self.state, save=interrupted)
        if interrupted and self.outcome is None:
            self.outcome = Outcome(
                state="interrupted", step=self.state.step, reason="stopped by a signal; a checkpoint is saved"
            )
        self.outcome = self.outcome or self._finished()

    def settle(self, *, keep: int = 0) -> bool:
        """Read the figures of all but the newest ``keep`` steps; whether any rank was asked to stop."""
        interrupted = False
        while len(self._unread) > keep:
            launched = self._unread.popleft()
            # one that was launched while the step before it ran has waited for that one first
            since_s = max(launched.started_s, self._settled_s)
            self.state, stop = _settle(self.run, self.state, launched, since_s=since_s)
            self._settled_s = time.monotonic()
            interrupted = interrupted or stop
        return interrupted

    def _finished(self) -> Outcome | None:
        steps = self.run.num_steps
        if self.state.position < steps:
            return None
        return Outcome(state="finished", step=self.state.step, reason=f"all {steps} steps are done")


def train(run: Run, state: RunState, engine: Engine, training: TrainingConfig) -> tuple[RunState, Outcome]:
    """Train from ``state`` to the end of the schedule, or until the guard or a signal stops the run."""
    steps = Steps(run, state)
    for batch in steps.batches():
        steps.made(launch(run, steps.state, batch, engine, training))
    assert steps.outcome is not None
    return steps.state, steps.outcome


def launch(run: Run, state: RunState, batch: "StepBatch", engine: Engine, training: TrainingConfig) -> InFlightStep:
    """Make the step at the schedule position of ``state``, without waiting for it."""
    rate = training.rate(state.position)
    started_s = time.monotonic()
    beat("training", batch.step)
    figures = engine.train_step(batch, learning_rate=rate, stop=run.stop_requested(), ledger_digest=run.ledger.digest)
    return InFlightStep(batch=batch, figures=figures, learning_rate=rate, started_s=started_s)


def _note_caps(run: Run, batch: "StepBatch") -> None:
    """Caps act inside the stream, at any step; here they are written down."""
    for source, epochs in batch.capped.items():
        shares = run.plan.shares(batch.step)
        run.journal.write(CapLine(step=batch.step - 1, source=source, epochs=epochs, shares=shares))
    if batch.capped:
        _note_deficits(run, run.plan.state(batch.step))


def _note_deficits(run: Run, state: State) -> None:
    for change in lookups.deficit_changes(run.plan, state):
        run.journal.write(
            DeficitLine(
                step=state.step - 1,
                source=change.source,
                before_millionths=change.before,
                after_millionths=change.after,
            )
        )


def _take(run: Run, facts: Sequence[Fact]) -> None:
    """Take facts that govern the next batch, and journal which segments join or retire and what the lags are forced
    to.
    """
    run.stream.append(facts)
    for fact in facts:
        if isinstance(fact, Segment):
            step, size = fact.step - 1, fact.num_samples
            run.journal.write(JoinLine(step=step, source=fact.source, segment=fact.segment, num_samples=size))
        elif isinstance(fact, Retire):
            run.journal.write(RetireLine(step=fact.step - 1, source=fact.source, segment=fact.segment))
    _note_deficits(run, run.stream.state)


def _due(run: Run, state: RunState) -> bool:
    last = state.position >= run.num_steps
    every = (run.evaluation.every_steps, run.checkpoint.every_steps)
    return last or state.step + 1 in run.ahead or any(state.step % steps == 0 for steps in every)


def _settle(run: Run, state: RunState, launched: InFlightStep, *, since_s: float) -> tuple[RunState, bool]:
    """Read the figures of a step that runs ``since_s`` into the journal; the state, and whether any rank was asked to
    stop."""
    batch, figures = launched.batch, launched.figures.result()
    plan = run.plan
    counts = np.bincount(batch.plan.source, minlength=len(plan.sources)).tolist()
    losses = {name: loss for name, loss in zip(plan.sources, figures.losses, strict=False) if loss.tokens}
    line = StepLine.of(
        figures,
        step=batch.step,
        losses=losses,
        learning_rate=launched.learning_rate,
        tokens=batch.target_tokens,
        mixture=StepMixture(
            counts=dict(zip(plan.sources, counts, strict=True)),
            shares=plan.shares(batch.step),
            epochs=lookups.epochs(plan, batch.after),
        ),
        seconds=time.monotonic() - since_s,
    )
    run.journal.write(line)
    if batch.step % SNAPSHOT_EVERY_STEPS == 0:
        run.ledger.append(plan.snapshot(batch.after))
    if not figures.ledgers_agree:
        digests = run.engine.gather((run.ledger.digest, socket.gethostname()))
        named = ", ".join(f"rank {rank} on {host}: {digest:016x}" for rank, (digest, host) in enumerate(digests))
        raise RanksDisagreeError(f"after step {batch.step} the ranks hold different ledgers: {named}")
    if not figures.updated:
        skipped = state.skipped_in_a_row + 1
        _report_nonfinite(run, batch, figures, skipped)
        return replace(state, skipped_in_a_row=skipped), figures.stop_requested
    _report_spike(run, batch, figures, state.recent_losses)
    recent = with_latest(state.recent_losses, figures.loss)
    losses = added(state.losses, losses)
    return replace(state, skipped_in_a_row=0, recent_losses=recent, losses=losses), figures.stop_requested


def added(sums: Mapping[str, SourceLoss], more: Mapping[str, SourceLoss]) -> dict[str, SourceLoss]:
    """Losses by source, summed."""
    zero = SourceLoss(nats=0.0, tokens=0)
    pairs = {name: (sums.get(name, zero), more.get(name, zero)) for name in {**sums, **more}}
    return {name: SourceLoss(nats=a.nats + b.nats, tokens=a.tokens + b.tokens) for name, (a, b) in pairs.items()}


def _report_spike(run: Run, batch: "StepBatch", figures: StepFigures, recent: Sequence[float]) -> None:
    found = spike(figures.loss, recent)
    if found is not None:
        line = SpikeLine(
            step=batch.step,
            loss=figures.loss,
            grad_norm=figures.grad_norm,
            median=found.median,
            spread=found.spread,
            samples=_samples_of(run, batch),
        )
        run.journal.write(line)
        run.warn(
            f"step {batch.step}: loss {figures.loss:.4g} against a median of {found.median:.4g} in the steps before "
            f"(gradient norm {figures.grad_norm:.3g}); its samples: trainer audit {run.folder} --step {batch.step}"
        )


def _samples_of(run: Run, batch: "StepBatch") -> list[str]:
    names, plan = run.plan.sources, batch.plan
    return [f"{names[k]}:{g}:{i}" for k, g, i in zip(plan.source, plan.segment, plan.sample, strict=True)]


def _report_nonfinite(run: Run, batch: "StepBatch", figures: StepFigures, skipped: int) -> None:
    samples = _samples_of(run, batch)
    loss, norm = figures.loss, figures.grad_norm
    run.journal.write(NonFiniteLine(step=batch.step, loss=loss, grad_norm=norm, samples=samples))
    run.warn(
        f"step {batch.step}: loss {figures.loss:g}, gradient norm {figures.grad_norm:g}: no rank updated its weights"
    )
    if skipped >= NONFINITE_LIMIT:
        raise NonFiniteError(
            f"loss or gradient was not finite {skipped} steps in a row, up to step {batch.step}; its samples "
            f"(source:segment:sample): {', '.join(samples[:16])}{', ...' if len(samples) > 16 else ''}. "
            f"Look at them with: trainer audit {run.folder} --step {batch.step}, "
            "or start anew with a lower learning rate"
        )


def after_step(run: Run, state: RunState, *, save: bool = False) -> tuple[RunState, Outcome | None]:
    """Whatever is due after a step: take the facts that are known ahead (segments that join, a replayed ledger),
    evaluate and validation, save. All ranks call it together.
    """
    outcome = None
    last = state.position >= run.num_steps
    if run.checkpoint.asynchronous and run.engine.broadcast(run.saver.is_done()):
        finish_saving(run)  # a failure is heard of at the next reading, not at the next save
    if state.step + 1 in run.ahead:
        _take(run, run.ahead[state.step + 1])
    if state.step % run.evaluation.every_steps == 0:
        state, outcome = _evaluate_and_steer(run, state, last=last)
        last = state.position >= run.num_steps
    ends = save or last or outcome is not None
    if ends or state.step % run.checkpoint.every_steps == 0:
        save_checkpoint(run, state)
    if ends:
        finish_saving(run)
    return state, outcome


def _evaluate_and_steer(run: Run, state: RunState, *, last: bool) -> tuple[RunState, Outcome | None]:
    started_s = time.monotonic()
    beat("evaluating")
    evaluation = run.reader.read(run.engine, step=state.step, live=lookups.live_segments(run.plan, state.step + 1))
    source_value = {} if last else _measured(run, state, run.source_value)
    alignment = {} if last else _measured(run, state, run.alignment)
    forgetting = {} if last else _measured(run, state, run.forgetting)
    anchor = None if state.anchor is None else np.array(state.anchor)
    drawn = drawn_slices(run)
    line = EvaluationLine(
        step=state.step,
        figures=summary(evaluation, anchor),
        source_value=source_value,
        alignment=alignment,
        forgetting=forgetting,
        drawn_slices=slices_drawn(drawn),
        drawn_unnamed=None if drawn is None else drawn.unnamed,
        seconds=time.monotonic() - started_s,
    )
    run.journal.write(line)
    evidence = Evidence(losses=state.losses, source_value=source_value, alignment=alignment, forgetting=forgetting)
    state = replace(warned_of_skew(run, state, drawn), losses={})
    if anchor is None:
        state = replace(state, anchor=evaluation.nats.tolist())
    if run.replays or last:
        return state, None
    return _decide(run, state, evaluation, evidence)


def _measured(run: Run, state: RunState, plan: MeasurePlan[Found] | None) -> Mapping[str, Found]:
    """Evidence about the sources that are drawn, from the segments that are, where it is due."""
    if plan is None or not plan.times.due(state.step, state.position):
        return {}
    shares, live = run.plan.shares(state.step + 1), lookups.live_segments(run.plan, state.step + 1)
    return plan.measure(
        run.engine,
        step=state.step,
        sources={name: live[name] for name, share in shares.items() if share > 0},
        global_batch=run.plan.global_batch(state.step + 1),
    )


def _decide(run: Run, state: RunState, evaluation: Evaluation, evidence: Evidence) -> tuple[RunState, Outcome | None]:
    """Decide on the main rank, tell all ranks, and act."""
    decided: tuple[dict[str, Any], Decision] | None = None
    if run.engine.is_main:
        seen = Observation(
            step=state.step,
            progress=state.position / run.num_steps,
            horizon=Horizon(
                num_steps=run.num_steps,
                global_batch=run.plan.global_batch(state.step + 1),
                rates=run.rates,
                num_samples=lookups.live_sizes(run.plan, state.step + 1),
                max_epochs=run.max_epochs,
                probes_until=None if run.forgetting is None else run.forgetting.times.last / run.num_steps,
            ),
            evaluation=evaluation,
            losses=evidence.losses,
            alignment=evidence.alignment,
            forgetting=evidence.forgetting,
            source_value=evidence.source_value,
            shares=run.plan.shares(state.step + 1),
            kinds=dict(zip(run.plan.sources, run.plan.kinds, strict=True)),
            epochs=lookups.epochs(run.plan, run.stream.state),
            live=lookups.live_segments(run.plan, state.step + 1),
        )
        control_state, decision = decide(run.control, restored_state(run.control, state.control), seen)
        decided = control_state.to_json(), decision
    control, decision = run.engine.broadcast(decided)
    state = replace(state, control=control, last_healthy_step=_accepted(state, decision.evidence))
    run.journal.write(DecisionLine.of(decision, step=state.step, policy=run.control.policy.kind))
    if decision.action == "rollback":
        return _roll_back(run, state, decision), None
    if dict(decision.shares) != run.plan.shares(decision.from_step):
        _take(run, [Shares(step=decision.from_step, shares=dict(decision.shares), reason=decision.reason)])
    if decision.action == "stop":
        return state, Outcome(state="stopped-by-guard", step=state.step, reason=decision.reason)
    return state, None


def _accepted(state: RunState, evidence: Mapping[str, Any]) -> int:
    """The newest step that the guard holds for sound, after a decision; a reading it could not judge accepts none."""
    guard = evidence.get("guard", {})
    if not evidence.get("usable", True) or not guard.get("usable", True):
        return state.last_healthy_step
    return int(guard.get("last_healthy_step", state.step))


def _roll_back(run: Run, state: RunState, decision: Decision) -> RunState:
    """Weights, optimizer and schedule position of the last checkpoint; new samples at new steps."""
    finish_saving(run)
    saved = run.engine.broadcast(_rollback_target(run, state) if run.engine.is_main else None)
    if saved is None:
        run.warn(
            f"the guard asks for a rollback after step {state.step}, but no checkpoint is there yet: "
            "going on with the new shares"
        )
        _take(run, [Shares(step=decision.from_step, shares=dict(decision.shares), reason=decision.reason)])
        return state
    beat("restoring")
    run.engine.restore(saved.folder)
    before = run.plan.state(saved.step + 1)
    facts: list[Fact] = [
        Rollback(
            step=state.step + 1,
            to_step=saved.step,
            first_slot=before.slot,
            last_slot=run.stream.state.slot,
            reason=decision.reason,
        ),
        Shares(step=decision.from_step, shares=dict(decision.shares), reason=decision.reason),
    ]
    _take(run, facts)
    # Killed from here on the run resumes from there, with the ledger as it was then, and comes to this step again.
    root = run.folder / "checkpoints"
    is_main = run.engine.is_main
    checkpoint.together(run.engine.writers, lambda: checkpoint.discard_newer(root, saved.step) if is_main else None)
    run.journal.write(RollbackLine(step=state.step, to_step=saved.step, reason=decision.reason))
    return replace(state, position=int(saved.state["position"]), skipped_in_a_row=0)


def _rollback_target(run: Run, state: RunState) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint that the guard holds for sound, else the newest there is, loudly."""
    root = run.folder / "checkpoints"
    sound = checkpoint.latest(root, warn=run.warn, at_most=state.last_healthy_step)
    if sound is not None:
        return sound
    newest = checkpoint.latest(root, warn=run.warn, at_most=state.step - 1)
    if newest is not None:
        run.warn(f"no checkpoint is as old as step {state.last_healthy_step}: rolling back to step {newest.step} only")
    return newest


def save_checkpoint(run: Run, state: RunState) -> None:
    """Save model, optimizer and state; journal and ledger are on the disk before the checkpoint that refers to them.

    An asynchronous save has only begun when this returns; ``finish_saving`` waits for it.
    """
    finish_saving(run)
    started_s = time.monotonic()
    write, writers = run.engine.capture(detached=run.checkpoint.asynchronous), run.engine.writers
    offsets = checkpoint.together(
        writers, lambda: {"journal_offset": run.journal.sync(), "ledger_offset": run.ledger_offset()}
    )
    save = partial(
        checkpoint.save,
        run.folder / "checkpoints",
        state.step,
        write=write,
        state={**state.to_json(), **offsets[0]},
        keep=run.checkpoint.keep,
        last_healthy_step=state.last_healthy_step,
        ranks=writers,
    )
    run.saver.start(state.step, save, started_s=started_s, in_a_thread=run.checkpoint.asynchronous)
    if not run.checkpoint.asynchronous:
        finish_saving(run)


def finish_saving(run: Run) -> None:
    """Wait for the save that has begun, if any, and journal it. OSError on all ranks when it failed."""
    beat("saving")
    saved = run.saver.wait()
    if saved is not None:
        line = CheckpointLine(
            step=saved.step,
            folder=saved.folder.name,
            seconds=saved.seconds,
            stalled_seconds=saved.stalled_s,
            bytes=saved.num_bytes,
        )
        run.journal.write(line)


def starting_facts(global_batch: int, shares: Mapping[str, int]) -> list[Fact]:
    """Size of the global batch and shares, from the first step on."""
    return [
        BatchSize(step=1, global_batch=global_batch),
        Shares(step=1, shares=dict(shares), reason="the recipe's starting shares"),
    ]
