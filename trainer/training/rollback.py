"""Rollback: back to a healthy checkpoint in weights and schedule, forward in steps and samples."""

from collections.abc import Sequence
from dataclasses import replace

from trainer.base.heartbeat import beat
from trainer.base.records import Decision
from trainer.mixture.ledger import Fact, Rollback, Shares
from trainer.tracking.schema import RollbackLine
from trainer.training import checkpoint, facts
from trainer.training.run import Run, RunState
from trainer.training.saver import finish_saving


def roll_back(run: Run, state: RunState, decision: Decision, retired: Sequence[Fact] = ()) -> RunState:
    """Restore weights, optimizer and schedule position of the last healthy checkpoint; new samples at new steps.

    Without any checkpoint only the shares of the decision and the segments that are ``retired`` are taken, with a
    warning.
    """
    finish_saving(run)
    target = run.devices.broadcast(_rollback_target(run, state) if run.devices.is_main else None)
    if target is None:
        run.io.warn(
            f"the guard asks for a rollback after step {state.step}, but there is no checkpoint yet: "
            "training continues with the new shares"
        )
        shares = Shares(step=decision.from_step, shares=dict(decision.shares), reason=decision.reason)
        facts.take(run, [*retired, shares])
        return state
    beat("restoring")
    run.devices.restore(target.folder)
    before = run.data.plan.state(target.step + 1)
    rollback: list[Fact] = [
        Rollback(
            step=state.step + 1,
            to_step=target.step,
            first_slot=before.slot,
            last_slot=run.data.stream.state.slot,
            reason=decision.reason,
        ),
        *retired,
        Shares(step=decision.from_step, shares=dict(decision.shares), reason=decision.reason),
    ]
    facts.take(run, rollback)
    # Killed from here on the run resumes from that checkpoint, with the ledger as of then, and reaches this step again.
    root = run.io.folder / "checkpoints"
    is_main = run.devices.is_main
    checkpoint.together(run.devices.writers, lambda: checkpoint.discard_newer(root, target.step) if is_main else None)
    run.io.journal.write(RollbackLine(step=state.step, to_step=target.step, reason=decision.reason))
    return replace(state, position=RunState.from_json(target.state).position, skipped_in_a_row=0)


def _rollback_target(run: Run, state: RunState) -> checkpoint.Checkpoint | None:
    """The newest complete checkpoint up to the last healthy step, else the newest before this step, with a warning."""
    root = run.io.folder / "checkpoints"
    healthy = checkpoint.latest(root, warn=run.io.warn, at_most=state.last_healthy_step)
    if healthy is not None:
        return healthy
    newest = checkpoint.latest(root, warn=run.io.warn, at_most=state.step - 1)
    if newest is not None:
        run.io.warn(f"no checkpoint is as old as step {state.last_healthy_step}: rolling back to step {newest.step}")
    return newest
