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
from torch.distributed.tensor import DTensor
from typing_extensions import override

from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.control.config import ControlConfig
from trainer.control.controller import source_value_from
from trainer.engines.step_stats import PendingStep, SummedFigures
from trainer.evaluate.config import EvaluationConfig, SourceValueConfig
from trainer.evaluate.evidence.measurement import SOURCE_VALUE, MeasuredRun, Measurement
from trainer.evaluate.evidence.source_value import planned
from trainer.lightning.checks import check_settings, check_trainer
from trainer.lightning.datamodule import Batches, MixtureData, NoBatches, Samples, SampleStream, configured
from trainer.lightning.devices import CHECKPOINT, Losses, TrainerDevices
from trainer.lightning.evidence import SampleEvaluator, SampleSourceValue
from trainer.mixture.plan import Plan
from trainer.runs.build import build_run
from trainer.runs.folder import BAD_INPUT, FAILED, locked, write_outcome
from trainer.runs.resume import newest_checkpoint, resume
from trainer.runs.start_and_finish import write_ending, write_finish, write_start, write_test
from trainer.tracking.figures import SourceFacts
from trainer.tracking.journal import Journal, JournalWriter, SilentJournal
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import StepLine
from trainer.training import checkpoint
from trainer.training.config import CheckpointConfig
from trainer.training.loop import InFlightStep, Steps
from trainer.training.run import Outcome, RunData, RunSettings
from trainer.training.saver import save_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


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
        self.mixture, self.held_out, self.test = mixture, held_out, test
        self.folder = Path(folder)
        self.outcome: Outcome | None = None
        self.control = _config(ControlConfig, control)
        evaluation = configured(EvaluationConfig, {"every_steps": every_steps})
        self.evaluation = evaluation.model_copy(update={"source_value": _config(SourceValueConfig, source_value)})
        self.checkpoints = _config(CheckpointConfig, checkpoints)
        self._losses, self._slices, self._batch = losses, slices, batch
        self._stack = ExitStack()
        self._stop_requested = False
        check_settings(self.control, self.checkpoints)
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
        """Check that the Trainer's settings and the mixture's agree, and tell the mixture how to begin."""
        if stage == "fit":
            check_trainer(trainer, pl_module, self.mixture)
            self.mixture.begin = lambda: self._begin(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals: the step is completed and saved. Lightning restores its handlers at the end."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note_signal)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note the gradient's norm, the same on all ranks; where it is not finite, drop the gradients on all ranks."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self._norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self._learning_rate = float(optimizer.param_groups[0]["lr"])
        if not torch.isfinite(self._norm):
            for parameter in parameters:
                parameter.grad = None

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
        self._loss += outputs["loss"].detach().double()  # Lightning has divided by the batches that are accumulated
        self._num_batches += 1
        if self._num_batches < trainer.accumulate_grad_batches:
            return
        steps, step = self._steps, self._batches.step
        assert step is not None
        steps.complete(
            InFlightStep(
                batch=step, figures=self._figures(), learning_rate=self._learning_rate, started_s=self._started_s
            )
        )
        self._forget_step()
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
            if not self._num_batches:
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
        """Build the run, from the beginning or from its newest checkpoint; every rank calls it."""
        devices = self._devices = TrainerDevices(trainer, module, self._losses)
        if devices.is_main:
            self._stack.enter_context(locked(self.folder))
        saved = newest_checkpoint(self.folder, devices, warn)
        step, position = (0, 0) if saved is None else (saved.step, int(saved.state["position"]))
        if trainer.global_step != position:
            raise UserError(
                f"the run in {self.folder} is at step {position} of its schedule, the Trainer at another",
                got=trainer.global_step,
                remedy="Call fit(..., ckpt_path=steering.ckpt_path), or start a new run in another folder",
            )
        if position >= trainer.max_steps:  # Lightning, too, will find nothing to do
            self.outcome = Outcome(state="finished", step=step, reason=f"all {trainer.max_steps} steps are done")
            return NoBatches()
        accumulation = trainer.accumulate_grad_batches
        resumed = resume(
            self.folder,
            devices,
            saved,
            control=self.control,
            mixture=self.mixture.mixture,
            micro_batch=self.mixture.mixture.global_batch // (devices.world_size * accumulation),
            segments={1: self.mixture.segments()},
        )
        plan = Plan(self.mixture.seed, resumed.ledger)
        run = build_run(
            RunSettings(
                seed=self.mixture.seed,
                num_steps=trainer.max_steps,
                evaluation=self.evaluation,
                control=self.control,
                checkpoint=self.checkpoints,
            ),
            devices,
            RunData(
                plan=plan,
                stream=SampleStream(plan, plan.state(resumed.state.step + 1)),
                evaluator=self._evaluator(self.held_out, self._slices),
                measurements=self._measurements(trainer.max_steps),
            ),
            ledger=resumed.ledger,
            journal=self._journal(trainer, devices),
            folder=self.folder,
            stop_requested=lambda: self._stop_requested,
        )
        self._steps = Steps(run, resumed.state)
        self._batches = Batches(self.mixture, self._steps, accumulation=accumulation)
        self._forget_step()
        self._started_run_s = time.monotonic()
        if devices.is_main:
            (self.folder / "outcome.json").unlink(missing_ok=True)
        write_start(run, saved, recipe_name=self.folder.resolve().name, sources=self._source_facts())
        return self._batches

    def _journal(self, trainer: pl.Trainer, devices: TrainerDevices) -> JournalWriter:
        """The run's own journal on the main rank, with the user's loggers as views of it."""
        if not devices.is_main:
            return SilentJournal()

        def mirror(line: JournalLine) -> None:
            if isinstance(line, StepLine) and line.step % trainer.log_every_n_steps:
                return
            figures = {f"mixture/{metric}": value for metric, value in line.metrics().items()}
            for logger in trainer.loggers if figures else ():
                logger.log_metrics(figures, step=trainer.global_step)

        journal = Journal(self.folder / "journal.jsonl", [mirror])
        self._stack.callback(journal.close)
        return journal

    def _evaluator(self, samples: Samples, slices: Sequence[str] | None) -> SampleEvaluator:
        return SampleEvaluator(samples=samples, collate=self.mixture.collate, batch=self._batch, slice_of=slices)

    def _measurements(self, num_steps: int) -> dict[str, Measurement]:
        """Source values where the policy needs them. Gradients are the Trainer's, and forgetting says nothing without
        the learning rates ahead, which only the module's own schedulers know.
        """
        needed_from = source_value_from(self.control)
        run = MeasuredRun(
            evaluation=self.evaluation,
            kinds={name: source.kind for name, source in self.mixture.sources.items()},
            needed_from={} if needed_from is None else {SOURCE_VALUE: needed_from},
            num_steps=num_steps,
            global_batch=self.mixture.mixture.global_batch,
            sequence_length=1,  # a sample counts as a token
        )
        if (sizes := planned(run)) is None:
            return {}
        measurement = SampleSourceValue(
            held_out=self.held_out,
            sources=self.mixture.sources,
            times=sizes[0],
            counts=sizes[1],
            collate=self.mixture.collate,
            batch=self._batch,
            seed=self.mixture.seed,
        )
        return {SOURCE_VALUE: measurement}

    def _source_facts(self) -> dict[str, SourceFacts]:
        """What the start line says of the sources."""
        return {
            name: SourceFacts(kind=source.kind, license=source.license, num_samples=len(source.samples))
            for name, source in self.mixture.sources.items()
        }

    def _figures(self) -> PendingStep:
        """Figures of the step just made, on their way from the device."""
        devices, step = self._devices, self._batches.step
        assert step is not None
        summed = SummedFigures(
            self._loss.reshape(1) * (step.target_tokens / devices.world_size),  # every rank has as many samples
            batch_hash=self._batches.batch_hash,
            stop=self._stop_requested,
            ledger_digest=self._steps.run.data.plan.ledger.digest,
            world_size=devices.world_size,
        )
        return PendingStep(step, summed, self._norm, ~torch.isfinite(self._norm))

    def _forget_step(self) -> None:
        device = self._devices.device
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._norm = torch.zeros((), device=device)
        self._num_batches, self._learning_rate = 0, 0.0
        self._started_s = time.monotonic()

    def _finish(self, outcome: Outcome) -> None:
        run, state = self._steps.run, self._steps.state
        if outcome.state == "finished" and self.test is not None:
            write_test(run, self._evaluator(self.test, None), state)
        write_finish(run, state, outcome, seconds=time.monotonic() - self._started_run_s)
        self.outcome = outcome
        self._stack.close()
        if self._devices.is_main:
            write_ending(self.folder, outcome)

    def _note_signal(self, number: int, frame: object) -> None:
        self._stop_requested = True


def _config(config: Any, given: Any) -> Any:
    return given if isinstance(given, config) else configured(config, given or {})
