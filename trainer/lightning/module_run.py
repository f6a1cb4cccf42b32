"""The run of a user's own module: its settings and data, given to the one assembly of runs."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl

from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.control.config import ControlConfig
from trainer.control.controller import source_value_from
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.evidence.measurement import SOURCE_VALUE, MeasuredRun, Measurement
from trainer.evaluate.evidence.source_value import planned
from trainer.lightning.datamodule import MixtureData, Samples, SampleStream
from trainer.lightning.devices import TrainerDevices
from trainer.lightning.evidence import SampleEvaluator, SampleSourceValue
from trainer.mixture.ledger import Ledger
from trainer.mixture.plan import Plan
from trainer.runs.build import build_run
from trainer.runs.folder import locked
from trainer.runs.resume import newest_checkpoint, resume, saved_state
from trainer.runs.start_and_finish import write_start
from trainer.tracking.figures import SourceFacts
from trainer.tracking.journal import Journal, JournalWriter, SilentJournal
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import StepLine
from trainer.training.config import CheckpointConfig
from trainer.training.run import Outcome, Run, RunData, RunSettings, RunState


@dataclass(frozen=True, kw_only=True)
class ModuleRun:
    """What a user's own module is trained on and evaluated with, ``batch`` samples at a time."""

    mixture: MixtureData
    held_out: Samples
    slices: Sequence[str] | None
    batch: int
    folder: Path
    control: ControlConfig
    evaluation: EvaluationConfig
    checkpoints: CheckpointConfig

    def begin(
        self, trainer: pl.Trainer, devices: TrainerDevices, *, stop_requested: Callable[[], bool], stack: ExitStack
    ) -> tuple[Run, RunState] | Outcome:
        """(all) The run, from the beginning or from its newest checkpoint; its outcome where no step is left.

        What is opened is closed with ``stack``.
        """
        if devices.is_main:
            stack.enter_context(locked(self.folder))
        saved = newest_checkpoint(self.folder, devices, warn, keep=self.checkpoints.keep)
        step, position = (0, 0) if saved is None else (saved.step, saved_state(saved).position)
        if trainer.global_step != position:
            raise UserError(
                f"the run in {self.folder} is at step {position} of its schedule, the Trainer at another",
                got=trainer.global_step,
                remedy="Call fit(..., ckpt_path=steering.ckpt_path), or start a new run in another folder",
            )
        if position >= trainer.max_steps:  # Lightning, too, will find nothing to do
            return Outcome(state="finished", step=step, reason=f"all {trainer.max_steps} steps are done")
        mixture = self.mixture.mixture
        resumed = resume(
            self.folder,
            devices,
            saved,
            control=self.control,
            mixture=mixture,
            micro_batch=mixture.global_batch // (devices.world_size * trainer.accumulate_grad_batches),
            segments={1: self.mixture.segments()},
        )
        run = build_run(
            self._settings(trainer.max_steps),
            devices,
            self._data(resumed.ledger, next_step=resumed.state.step + 1, num_steps=trainer.max_steps),
            ledger=resumed.ledger,
            journal=self._journal(trainer, devices, stack),
            folder=self.folder,
            stop_requested=stop_requested,
        )
        if devices.is_main:
            (self.folder / "outcome.json").unlink(missing_ok=True)
        write_start(run, saved, recipe_name=self.folder.resolve().name, sources=self._source_facts())
        return run, resumed.state

    def _settings(self, num_steps: int) -> RunSettings:
        return RunSettings(
            seed=self.mixture.seed,
            num_steps=num_steps,
            evaluation=self.evaluation,
            control=self.control,
            checkpoint=self.checkpoints,
        )

    def _data(self, ledger: Ledger, *, next_step: int, num_steps: int) -> RunData:
        """The batches from ``next_step`` on, and what they are evaluated and measured with."""
        plan = Plan(self.mixture.seed, ledger)
        return RunData(
            plan=plan,
            stream=SampleStream(plan, plan.state(next_step)),
            evaluator=self.evaluator(self.held_out, self.slices),
            measurements=self._measurements(num_steps),
        )

    def _journal(self, trainer: pl.Trainer, devices: TrainerDevices, stack: ExitStack) -> JournalWriter:
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
        stack.callback(journal.close)
        return journal

    def evaluator(self, samples: Samples, slices: Sequence[str] | None) -> SampleEvaluator:
        """Evaluates every one of the samples; ``slices`` names the slice of each."""
        return SampleEvaluator(samples=samples, collate=self.mixture.collate, batch=self.batch, slice_of=slices)

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
            batch=self.batch,
            seed=self.mixture.seed,
        )
        return {SOURCE_VALUE: measurement}

    def _source_facts(self) -> dict[str, SourceFacts]:
        """What the start line says of the sources."""
        return {
            name: SourceFacts(kind=source.kind, license=source.license, num_samples=len(source.samples))
            for name, source in self.mixture.sources.items()
        }
