"""The callback that evaluates, steers, guards and checkpoints a user's own ``LightningModule``.

    mixture = MixtureData(sources, shares=..., global_batch=64)
    steering = Steering(mixture, held_out=held_out, losses=losses, folder="runs/mine", control={...})
    trainer = pl.Trainer(max_steps=1000, callbacks=[steering], logger=...)
    trainer.fit(module, mixture, ckpt_path=steering.ckpt_path)

What comes after a step is ``loop.after_step``, as in every run: the run folder is the same, and so are the commands
that read it. The step itself is Lightning's, with the module's own ``training_step``; a step whose gradients are not
finite is left out on all ranks. Asked again, the script goes on from the newest checkpoint. After a rollback the run
ends, and goes on from there when it is asked again: Lightning's counters can only go back at its start.
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
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from torch.distributed.tensor import DTensor
from typing_extensions import override

from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.base.records import SourceValue
from trainer.control.config import ControlConfig
from trainer.control.controller import gradient_alignment_from, reads_losses, source_value_from
from trainer.engines.step_stats import PendingStep, SummedFigures
from trainer.evaluate.config import EvaluationConfig, SourceValueConfig
from trainer.evaluate.evidence.source_value import sized
from trainer.evaluate.held_out import summary
from trainer.evaluate.schedule import times
from trainer.lightning.datamodule import Batches, MixtureData, NoBatches, Samples, SampleStream, configured
from trainer.lightning.devices import CHECKPOINT, Losses, TrainerDevices
from trainer.lightning.evidence import SampleReader, SampleSourceValue
from trainer.mixture.plan import Plan
from trainer.report.html import write_report
from trainer.runs.folder import BAD_INPUT, EXIT_CODES, FAILED, locked, write_outcome
from trainer.runs.resume import newest_checkpoint, open_ledger, starting_state
from trainer.runs.start_and_finish import environment_of, write_finish
from trainer.tracking.figures import SourceFacts
from trainer.tracking.journal import Journal, JournalWriter, SilentJournal
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import StartLine, StepLine, TestLine
from trainer.training import checkpoint
from trainer.training.config import CheckpointConfig
from trainer.training.loop import InFlightStep, Steps, save_checkpoint
from trainer.training.run import MeasurePlan, Outcome, Run

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Steering(pl.Callback):
    """Steers ``mixture`` by the loss on ``held_out`` samples, every ``every_steps`` optimizer steps.

    ``losses(module, batch)`` gives a loss for each sample of a collated batch, a tensor [B]; it is also what rehearsed
    steps are made on where the policy asks for evidence. ``slices`` names the slice of each held-out sample. ``test``
    samples are read once, at the end; nobody steers by them. ``control``, ``source_value`` and ``checkpoints`` are the
    sections of a recipe with these names. How the run ended is in ``outcome``.
    """

    def __init__(  # noqa: PLR0913 - each is a thing of the user's
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
        self.evaluation = configured(EvaluationConfig, {"every_steps": every_steps})
        self.source_value, self.checkpoints = (
            _config(SourceValueConfig, source_value),
            _config(CheckpointConfig, checkpoints),
        )
        self._losses, self._slices, self._batch = losses, slices, batch
        self._stack = ExitStack()
        self._stop_requested = False
        if self.checkpoints.asynchronous:
            raise UserError("Lightning saves while training waits", remedy="Leave checkpoints.asynchronous out")
        if reads_losses(self.control) or gradient_alignment_from(self.control) is not None:
            raise UserError(
                "the policy needs losses or gradients of single sources, which a module of your own does not show",
                got=self.control.policy.kind,
                remedy="Choose one that goes by worth or by a schedule, or train by a recipe with engine: lightning",
            )
        if slices is not None and len(slices) != len(held_out):
            raise UserError(
                "slices must name the slice of each held-out sample",
                got=f"{len(slices)} names for {len(held_out)} samples",
            )

    @property
    def ckpt_path(self) -> Path | None:
        """What to hand to ``Trainer.fit``: the newest whole checkpoint of the run folder, None before the first."""
        saved = checkpoint.latest(self.folder / "checkpoints", warn=warn)
        return None if saved is None else saved.folder / CHECKPOINT

    # Lightning's hooks

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the Trainer's settings and the mixture's agree, and tell the mixture how to begin."""
        if stage == "fit":
            _check(trainer, pl_module, self.mixture)
            self.mixture.begin = lambda: self._begin(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over: a step is ended and saved. Lightning gives them back when it is done."""
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
        steps.made(
            InFlightStep(
                batch=step, figures=self._figures(), learning_rate=self._learning_rate, started_s=self._started_s
            )
        )
        self._forget_step()
        went_back_to = self._devices.rolled_back_to
        if went_back_to is not None:
            if not self._devices.saved_again:  # a save was due after the step, too
                save_checkpoint(steps.run, steps.state)
            reason = f"went back to {went_back_to.name}; the next launch goes on from there"
            steps.outcome = Outcome(state="interrupted", step=steps.state.step, reason=reason)
        if steps.outcome is not None:  # else whoever asked for a stop before is heard
            trainer.should_stop = True

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish the run while the strategy still stands."""
        steps = self._steps
        if steps.outcome is None:  # another callback, or Trainer(max_time=...)
            steps.settle()
            if not self._num_batches:
                save_checkpoint(steps.run, steps.state)
            steps.outcome = Outcome(state="interrupted", step=steps.state.step, reason="stopped by the Trainer")
        self._finish(steps.outcome)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tell in ``outcome.json`` how the run failed."""
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
        """Let go of the run folder."""
        self._stack.close()

    # The run

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> NoBatches:
        """Put the run together, from the beginning or from its newest checkpoint; every rank calls it."""
        devices = self._devices = TrainerDevices(trainer, module, self._losses)
        if devices.is_main:
            self._stack.enter_context(locked(self.folder))
        saved = newest_checkpoint(self.folder, devices, warn)
        step, position = (0, 0) if saved is None else (saved.step, int(saved.state["position"]))
        if trainer.global_step != position:
            raise UserError(
                f"the run in {self.folder} is at step {position} of its schedule, the Trainer at another",
                got=trainer.global_step,
                remedy="Call fit(..., ckpt_path=steering.ckpt_path), or start anew in another folder",
            )
        if position >= trainer.max_steps:  # Lightning, too, will find nothing to do
            self.outcome = Outcome(state="finished", step=step, reason=f"all {trainer.max_steps} steps are done")
            return NoBatches()
        accumulation = trainer.accumulate_grad_batches
        ledger = open_ledger(
            self.folder,
            devices,
            saved,
            segments={1: self.mixture.segments()},
            mixture=self.mixture.mixture,
            micro_batch=self.mixture.mixture.global_batch // (devices.world_size * accumulation),
        )
        state = starting_state(self.control, self.mixture.mixture, ledger, saved)
        plan = Plan(self.mixture.seed, ledger)
        run = Run(
            seed=self.mixture.seed,
            num_steps=trainer.max_steps,
            rates=(),  # the module's own schedulers know
            max_epochs={},
            evaluation=self.evaluation,
            control=self.control,
            checkpoint=self.checkpoints,
            folder=self.folder,
            engine=devices,
            stream=SampleStream(plan, plan.state(state.step + 1)),
            plan=plan,
            ledger=ledger,
            journal=self._journal(trainer, devices),
            reader=self._reader(self.held_out, self._slices),
            slice_tokens={},
            source_value=self._source_value_plan(trainer.max_steps),
            alignment=None,  # gradients are the Trainer's
            forgetting=None,  # says nothing without the learning rates ahead
            ahead={},  # each source is one segment
            replays=False,
            stop_requested=lambda: self._stop_requested,
            ledger_offset=ledger.sync,
            warn=warn if devices.is_main else lambda _text: None,
        )
        self._steps = Steps(run, state)
        self._batches = Batches(self.mixture, self._steps, accumulation=accumulation)
        self._forget_step()
        self._began_s = time.monotonic()
        self._write_start(run, saved)
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

    def _reader(self, samples: Samples, slices: Sequence[str] | None) -> SampleReader:
        return SampleReader(samples=samples, collate=self.mixture.collate, batch=self._batch, slice_of=slices)

    def _source_value_plan(self, steps: int) -> MeasurePlan[SourceValue] | None:
        """When evidence on the sources is measured; None when nobody asks for it."""
        config, every = self.source_value, self.evaluation.every_steps
        when = times(
            config.enabled,
            source_value_from(self.control),
            until=config.until,
            num_steps=steps,
            every_steps=config.every_evaluations * every,
        )
        if when is None:
            return None
        counts = sized(
            config,
            num_sources=len(self.mixture.sources),
            sequence_length=1,  # a sample counts as a token
            interval_tokens=self.mixture.mixture.global_batch * steps // when.count,
        )
        measure = SampleSourceValue(
            held_out=self.held_out,
            sources=self.mixture.sources,
            counts=counts,
            collate=self.mixture.collate,
            batch=self._batch,
            seed=self.mixture.seed,
        )
        return MeasurePlan(measure=measure, times=when)

    def _write_start(self, run: Run, saved: checkpoint.Checkpoint | None) -> None:
        if run.engine.is_main:
            (self.folder / "outcome.json").unlink(missing_ok=True)
        line = StartLine(
            step=saved.step if saved else 0,
            recipe_name=self.folder.resolve().name,
            world_size=run.engine.world_size,
            parameters=run.engine.num_parameters,
            resumed_from=saved.folder.name if saved else None,
            sources={
                name: SourceFacts(kind=source.kind, license=source.license, num_samples=len(source.samples))
                for name, source in self.mixture.sources.items()
            },
            validation_documents=len(self.held_out),
            environment=environment_of(run.engine),
        )
        run.journal.write(line)

    def _figures(self) -> PendingStep:
        """Figures of the step just made, on their way from the device."""
        devices, step = self._devices, self._batches.step
        assert step is not None
        summed = SummedFigures(
            self._loss.reshape(1) * (step.target_tokens / devices.world_size),  # every rank has as many samples
            batch_hash=self._batches.batch_hash,
            stop=self._stop_requested,
            ledger_digest=self._steps.run.ledger.digest,
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
            evaluation = self._reader(self.test, None).read(self._devices, step=state.step, live={})
            run.journal.write(TestLine(step=state.step, figures=summary(evaluation)))
        write_finish(run, state, outcome, seconds=time.monotonic() - self._began_s)
        self.outcome = outcome
        self._stack.close()
        if self._devices.is_main:
            write_outcome(
                self.folder,
                state=outcome.state,
                step=outcome.step,
                reason=outcome.reason,
                exit_code=EXIT_CODES[outcome.state],
            )
            write_report([self.folder], self.folder / "report.html")

    def _note_signal(self, number: int, frame: object) -> None:
        self._stop_requested = True


def _config(config: Any, given: Any) -> Any:
    return given if isinstance(given, config) else configured(config, given or {})


def _check(trainer: pl.Trainer, module: pl.LightningModule, mixture: MixtureData) -> None:
    """``UserError`` where the Trainer's settings would make another run of it than the mixture's."""
    size, parts = mixture.mixture.global_batch, trainer.world_size * trainer.accumulate_grad_batches
    if trainer.datamodule is not mixture:
        raise UserError("the Trainer has other data than Steering's mixture", remedy="Call fit(module, mixture, ...)")
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy):
        # they keep flat parts of the gradients: neither their norm nor what is not finite is seen from the optimizer
        raise UserError(
            "Steering cannot see the gradients under this strategy",
            got=type(trainer.strategy).__name__,
            remedy="Use DDP or ModelParallelStrategy (FSDP2); for DeepSpeed a recipe with engine: lightning",
        )
    if trainer.max_steps < 1:
        raise UserError("the Trainer does not say how many steps the run has", remedy="Set Trainer(max_steps=...)")
    if size % parts:
        raise UserError(
            f"global_batch {size} cannot be dealt out evenly to {trainer.world_size} processes, each accumulating "
            f"{trainer.accumulate_grad_batches} batches",
            remedy=f"Choose a multiple of {parts}, or change Trainer(accumulate_grad_batches=...)",
        )
    if not module.automatic_optimization:
        raise UserError(
            "a module with manual optimization makes steps that Steering does not see",
            remedy="Use automatic optimization",
        )
    unset: dict[str, tuple[Any, ...]] = {
        "limit_train_batches": (1.0,),
        "overfit_batches": (0,),
        "min_steps": (None,),
        "min_epochs": (None, 0),
        # with both ends Lightning counts the batches, and so begins the run, before it has loaded the checkpoint
        "max_epochs": (-1,),
    }
    for name, values in unset.items():
        if getattr(trainer, name) not in values:
            raise UserError(
                f"Trainer({name}=...) and Steering contradict each other",
                got=getattr(trainer, name),
                remedy="Leave it out",
            )
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler) and len(set(callback.scheduling.values())) > 1:
            raise UserError(
                "a GradientAccumulationScheduler would change the batches of a step",
                got=callback.scheduling,
                remedy="Leave it out, and set Trainer(accumulate_grad_batches=...)",
            )
