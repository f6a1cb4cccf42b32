"""What is due after a step: take scheduled facts, evaluate on held-out documents, decide, save."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.base.heartbeat import beat
from trainer.evaluate.held_out import summary
from trainer.mixture import lookups
from trainer.tracking.schema import EvaluationLine
from trainer.training import facts
from trainer.training.decide import decide_shares
from trainer.training.run import Outcome, Run, RunState
from trainer.training.saver import finish_saving, save_checkpoint
from trainer.training.slice_skew import drawn_slices, slices_drawn, warned_of_skew


def is_due(run: Run, state: RunState) -> bool:
    """Whether anything is due after the step of ``state``."""
    last = state.position >= run.settings.num_steps
    every = (run.settings.evaluation.every_steps, run.settings.checkpoint.every_steps)
    if run.data.rounds is not None and run.data.rounds.is_due(state.step):
        return True
    return last or state.step + 1 in run.data.scheduled_facts or any(state.step % steps == 0 for steps in every)


def after_step(run: Run, state: RunState, *, save: bool = False) -> tuple[RunState, Outcome | None]:
    """Do whatever is due after a step; all ranks call it together.

    Take the scheduled facts (segments that join, a replayed ledger), evaluate and decide, let rounds of synthesis join
    or begin, save.
    """
    outcome = None
    last = state.position >= run.settings.num_steps
    if run.settings.checkpoint.asynchronous and run.devices.broadcast(run.io.saver.is_done()):
        finish_saving(run)  # a failure is raised at the next evaluation, not at the next save
    if state.step + 1 in run.data.scheduled_facts:
        facts.take(run, run.data.scheduled_facts[state.step + 1])
    if state.step % run.settings.evaluation.every_steps == 0:
        state, outcome = _evaluate(run, state, last=last)
        last = state.position >= run.settings.num_steps
    rounds, evaluated = run.data.rounds, state.step % run.settings.evaluation.every_steps == 0
    if rounds is not None and outcome is None and (evaluated or rounds.is_due(state.step)):
        rounds.after_step(run, state, last=last)
    ends = save or last or outcome is not None
    if ends or state.step % run.settings.checkpoint.every_steps == 0:
        save_checkpoint(run, state)
    if ends:
        finish_saving(run)
    return state, outcome


def _evaluate(run: Run, state: RunState, *, last: bool) -> tuple[RunState, Outcome | None]:
    """Evaluate on held-out documents, measure the sources, journal both, and decide; nothing is measured at the end."""
    started_s = time.monotonic()
    beat("evaluating")
    evaluation = run.data.evaluator.evaluate(
        run.devices, step=state.step, live=lookups.live_segments(run.data.plan, state.step + 1)
    )
    evidence = {} if last else _measure(run, state)
    anchor = None if state.anchor is None else np.array(state.anchor)
    drawn = drawn_slices(run)
    line = EvaluationLine.of(
        summary(evaluation, anchor),
        evidence,
        step=state.step,
        drawn_slices=slices_drawn(drawn),
        drawn_unnamed=None if drawn is None else drawn.unnamed,
        seconds=time.monotonic() - started_s,
    )
    run.io.journal.write(line)
    losses = state.losses
    state = replace(warned_of_skew(run, state, drawn), losses={})
    if anchor is None:
        state = replace(state, anchor=evaluation.loss_sum_nats.tolist())
    if run.settings.replays or last:
        return state, None
    return decide_shares(run, state, evaluation, losses=losses, evidence=evidence)


def _measure(run: Run, state: RunState) -> dict[str, Mapping[str, Any]]:
    """The measurements that are due, by kind, of the sources and segments that are drawn from."""
    due = {
        kind: measurement
        for kind, measurement in run.data.measurements.items()
        if measurement.times.due(state.step, state.position)
    }
    if not due:
        return {}
    shares, live = run.data.plan.shares(state.step + 1), lookups.live_segments(run.data.plan, state.step + 1)
    sources = {name: live[name] for name, share in shares.items() if share}
    global_batch = run.data.plan.global_batch(state.step + 1)
    return {
        kind: measurement(run.devices, step=state.step, sources=sources, global_batch=global_batch)
        for kind, measurement in due.items()
    }
