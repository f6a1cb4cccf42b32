"""The callback that evaluates, decides on shares, guards and saves a run of a user's own ``LightningModule``.

    mixture = MixtureData(sources, shares=..., global_batch=64)
    steering = Steering(mixture, held_out=held_out, losses=losses, folder="runs/mine", control={...})
    trainer = pl.Trainer(max_steps=1000, callbacks=[steering], logger=...)
    trainer.fit(module, mixture, ckpt_path=steering.ckpt_path)

What follows a step is ``training.after_step``, as in every run: the run folder is the same, and so are the commands
that read it. The step itself is Lightning's, with the module's own ``training_step``; a step whose gradients are not
finite is left out on all ranks. Run again, the script resumes from the newest checkpoint. After a rollback the run
ends, and resumes from there when it is run again: Lightning's counters can only go back at its start.
"""

import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from typing_extensions import override

from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.control.config import ControlConfig
from trainer.evaluate.config import EvaluationConfig, SourceValueConfig
from trainer.lightning.accumulated_step import AccumulatedStep
from trainer.lightning.checks import check_settings, check_trainer
from trainer.lightning.datamodule import Batches, MixtureData, NoBatches, Samples, configured
from trainer.lightning.devices import CHECKPOINT, Losses, TrainerDevices
from trainer.lightning.module_run import ModuleRun
from trainer.runs.folder import BAD_INPUT, FAILED, write_outcome
from trainer.runs.start_and_finish import write_ending, write_finish, write_test
from trainer.training import checkpoint
from trainer.training.config import CheckpointConfig
from trainer.training.loop import Steps
from trainer.training.run import Outcome
from trainer.training.saver import save_checkpoint

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)


class Steering(pl.Callback):
    """Steers ``mixture`` by the loss on ``held_out`` samples, every ``every_steps`` optimizer steps.

    ``losses(module, batch)`` gives a loss for each sample of a collated batch, a tensor [B]; trial steps use it too
    where the policy needs source values. ``slices`` names the slice of each held-out sample. ``test`` samples are
    evaluated once, at the end: no decision depends on them. ``control``, ``source_value`` and ``checkpoints`` are the
    sections of a recipe with these names. How the run ended is in ``outcome``.
    """

    def __init__(  # noqa: PLR0913 - each belongs to the user
        self,
        mixture: MixtureData,
        *,
        held_out: Samples,
        losses: Losses,
        folder: Path | str,
        control: ControlConfig | Mapping[str, Any] | None = None,
        every_steps: int = 50,
        source_value: SourceValueConfig | Mapping[str, Any] | None = None,
        checkpoints: CheckpointConfig | Mapping[str, Any] | None = None,
        slices: Sequence[str] | None = None,
        test: Samples | None = None,
        batch: int = 256,
    ) -> None:
        self.mixture, self.test = mixture, test
        self.folder = Path(folder)
        self.outcome: Outcome | None = None
        evaluation = configured(EvaluationConfig, {"every_steps": every_steps})
        self._module_run = ModuleRun(
            mixture=mixture,
            held_out=held_out,
            slices=slices,
            batch=batch,
            folder=self.folder,
            control=_config(ControlConfig, control),
            evaluation=evaluation.model_copy(update={"source_value": _config(SourceValueConfig, source_value)}),
            checkpoints=_config(CheckpointConfig, checkpoints),
        )
        self._losses = losses
        self._stack = ExitStack()
        self._stop_requested = False
        self._step: AccumulatedStep  # the one that is being made
        check_settings(self._module_run.control, self._module_run.checkpoints)
        if slices is not None and len(slices) != len(held_out):
            raise UserError(
                "slices must name the slice of each held-out sample",
                got=f"{len(slices)} names for {len(held_out)} samples",
            )

    @property
    def ckpt_path(self) -> Path | None:
        """What to hand to ``Trainer.fit``: the newest complete checkpoint of the run folder, None before the first."""
        saved = checkpoint.latest(self.folder / "checkpoints", warn=warn)
        return None if saved is None else saved.folder / CHECKPOINT

    # Lightning's hooks

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the Trainer's settings and the mixture's agree, and give the mixture its way to begin."""
        if stage == "fit":
            check_trainer(trainer, pl_module, self.mixture)
            self.mixture.begin = lambda: self._begin(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals: the step is completed and saved. Lightning restores its handlers at the end."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._note_signal)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the gradient norm; where it is not finite, drop the gradients on all ranks."""
        self._step.note_gradients(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the step when its last batch is through, and whatever is due after it."""
        if "loss" not in outputs:
            raise UserError(
                "training_step returned no loss",
                got=f"batch {batch_idx}",
                remedy="Return one for every batch: a step whose gradients are not finite is left out without that",
            )
        self._step.add_loss(outputs["loss"])
        if self._step.num_batches < trainer.accumulate_grad_batches:
            return
        steps, batches = self._steps, self._batches
        assert batches.step is not None
        digest = steps.run.data.plan.ledger.digest
        steps.complete(
            self._step.launched(
                batches.step, batch_hash=batches.batch_hash, stop=self._stop_requested, ledger_digest=digest
            )
        )
        self._step = AccumulatedStep(self._devices)
        went_back_to = self._devices.rolled_back_to
        if went_back_to is not None:
            if not self._devices.saved_again:  # a save was due after the step, too
                save_checkpoint(steps.run, steps.state)
            reason = f"went back to {went_back_to.name}; the next launch resumes from there"
            steps.outcome = Outcome(state="interrupted", step=steps.state.step, reason=reason)
        if steps.outcome is not None:  # else a stop requested elsewhere stays
            trainer.should_stop = True

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the run while the strategy is still set up."""
        steps = self._steps
        if steps.outcome is None:  # another callback, or Trainer(max_time=...)
            steps.drain()
            if not self._step.num_batches:
                save_checkpoint(steps.run, steps.state)
            steps.outcome = Outcome(state="interrupted", step=steps.state.step, reason="stopped by the Trainer")
        self._finish(steps.outcome)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write how the run failed to ``outcome.json``."""
        if self.outcome is None and hasattr(self, "_steps"):
            bad_input = isinstance(exception, UserError)
            self.outcome = Outcome(state="failed", step=self._steps.state.step, reason=str(exception))
            write_outcome(
                self.folder,
                state="failed",
                step=self._steps.state.step,
                reason=str(exception),
                exit_code=BAD_INPUT if bad_input else FAILED,
                trace=None if bad_input else "".join(traceback.format_exception(exception)),
            )
        self._stack.close()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the run folder."""
        self._stack.close()

    # The run

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> NoBatches:
        """Start or resume the run; every rank calls it."""
        self._devices = TrainerDevices(trainer, module, self._losses)
        begun = self._module_run.begin(
            trainer, self._devices, stop_requested=lambda: self._stop_requested, stack=self._stack
        )
        if isinstance(begun, Outcome):
            self.outcome = begun
            return NoBatches()
        self._steps = Steps(*begun)
        self._batches = Batches(self.mixture, self._steps, accumulation=trainer.accumulate_grad_batches)
        self._step = AccumulatedStep(self._devices)
        self._started_s = time.monotonic()
        return self._batches

    def _finish(self, outcome: Outcome) -> None:
        run, state = self._steps.run, self._steps.state
        if outcome.state == "finished" and self.test is not None:
            write_test(run, self._module_run.evaluator(self.test, None), state)
        write_finish(run, state, outcome, seconds=time.monotonic() - self._started_s)
        self.outcome = outcome
        self._stack.close()
        if self._devices.is_main:
            write_ending(self.folder, outcome)

    def _note_signal(self, number: int, frame: object) -> None:
        if self._stop_requested and number == signal.SIGINT:  # a second Ctrl-C ends as Lightning ends
            raise KeyboardInterrupt
        self._stop_requested = True


def _config(config: Any, settings: Any) -> Any:
    return settings if isinstance(settings, config) else configured(config, settings or {})
