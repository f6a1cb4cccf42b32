"""Five steps under ``pl.Trainer`` that steer themselves through ``loop.after_step``; without a launcher, the same by
``loop.train``. Figures as JSON.

    [torchrun] -m tests.together.smoke_lightning OUTPUT.json FOLDER

Lightning owns the loop over batches, the gradients and the optimizer step; the stream deals, ``loop.after_step``
evaluates, decides and saves. The port below is all that stands between.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model

from tests.together.smoke_engine import (
    END,
    LENGTH,
    MICRO_BATCHES,
    SEED,
    SOURCES,
    STEPS,
    TRAINING,
    HeldOut,
    new_model,
    open_stream,
    starting_ledger,
)
from trainer.checkpoint import CheckpointConfig
from trainer.control.steer import ControlConfig, initial_state
from trainer.data.stream import StepBatch, Stream
from trainer.engines import open_engine
from trainer.engines.accelerate import QUIET_S
from trainer.evaluate.heldout import EvaluationConfig, Reader, all_documents
from trainer.loop import Engine, Run, RunState, after_step, train
from trainer.mixture.plan import Plan
from trainer.model.objective import normalised, summed_loss
from trainer.model.optimizer import build_optimizer

SHORT = TRAINING.model_copy(
    update={"steps": STEPS, "schedule": TRAINING.schedule.model_copy(update={"warmup_steps": 1})}
)
CONTROL = ControlConfig.model_validate(
    {"policy": {"kind": "schedule", "points": [{"at": 0.4, "shares": {"real": 0.2, "made": 0.8}}]}}
)


class Memory:
    """A journal that is looked at instead of read."""

    offset = 0

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, kind: str, step: int, /, **fields: Any) -> None:
        self.lines.append({"kind": kind, "step": step, **fields})

    def sync(self) -> int:
        return 0

    def close(self) -> None:
        pass


def assemble(engine: Engine, micro_batch: int, folder: Path) -> tuple[Run, RunState]:
    """A run that is read every second step and moves its shares after the first reading."""
    ledger = starting_ledger()
    plan = Plan(SEED, ledger)
    held_out = HeldOut()
    reader = Reader(
        part=held_out,
        documents=all_documents(held_out),
        samples={},
        sequence_length=LENGTH,
        end_of_document=END,
        document_batch=8,
    )
    run = Run(
        seed=SEED,
        num_steps=SHORT.steps,
        evaluation=EvaluationConfig(every_steps=2),
        control=CONTROL,
        checkpoint=CheckpointConfig(every_steps=STEPS, keep=1),
        folder=folder,
        engine=engine,
        stream=open_stream(plan, first_step=1, rank=engine.rank, world_size=engine.world_size, micro_batch=micro_batch),
        plan=plan,
        ledger=ledger,
        journal=Memory(),
        reader=reader,
        worth=None,
        replay=None,
        stop_asked=lambda: False,
        ledger_offset=lambda: 0,
        warn=print,
    )
    kinds = {name: kind for name, (kind, _) in SOURCES.items()}
    return run, RunState(control=initial_state(CONTROL, plan.shares(1), kinds))  # type: ignore[arg-type]


def found(run: Run) -> dict[str, Any]:
    """What both loops must agree on."""
    assert isinstance(run.journal, Memory)
    lines = run.journal.lines
    return {
        "decisions": [(line["step"], line["action"], line["shares"]) for line in lines if line["kind"] == "decision"],
        "readings": [line["nats_per_token"] for line in lines if line["kind"] == "reading"],
        "steps": [{"loss": line["loss"], "fed": str(line["fed"])} for line in lines if line["kind"] == "step"],
        "saved": [path.name for path in sorted((run.folder / "checkpoints").glob("step-*"))],
    }


class Port:
    """``loop.Engine`` over a ``pl.Trainer``, but for the step, which is Lightning's."""

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer, self._module = trainer, module

    @property
    def rank(self) -> int:
        return int(self._trainer.global_rank)

    @property
    def world_size(self) -> int:
        return int(self._trainer.world_size)

    @property
    def is_main(self) -> bool:
        return bool(self._trainer.is_global_zero)

    @property
    def device(self) -> torch.device:
        return torch.device(self._module.device)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._module.model.parameters())

    def train_step(self, batch: StepBatch, *, learning_rate: float, stop: bool, ledger_digest: int) -> Any:
        raise AssertionError("the step is Lightning's")

    def eval_logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        self._module.eval()
        with torch.no_grad():
            logits: torch.Tensor = self._module.model(input_ids=input_ids_BT).logits
        self._module.train()
        return logits

    def reduce(self, array: Any) -> Any:
        tensor = torch.from_numpy(np.array(array))
        torch.distributed.all_reduce(tensor)
        return tensor.numpy()

    def broadcast(self, value: Any) -> Any:
        return self._trainer.strategy.broadcast(value)

    def gather(self, value: Any) -> list[Any]:
        values = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def rehearsal(self, *, rate_scale: float) -> Any:
        raise AssertionError("nobody asked for evidence")

    def rehearse(self, input_ids_BT: torch.Tensor, num_valid_B: torch.Tensor, *, target_tokens: int, seed: int) -> None:
        raise AssertionError("nobody asked for evidence")

    def snapshot(self) -> Callable[[Path], None]:
        model, (optimizer,) = self._module.model, self._trainer.optimizers
        state = optimizer.state_dict()

        def write(folder: Path) -> None:
            save_model(model, str(folder / "model.safetensors"))
            torch.save(state, folder / "optimizer.pt")

        return write

    def restore(self, folder: Path) -> None:
        raise AssertionError("no rollback here")

    def save_model(self, folder: Path) -> None:
        self._module.model.save_pretrained(str(folder))

    def continuations(self, prompts: Sequence[Sequence[int]], *, num_tokens: int, seed: int) -> list[list[int]]:
        raise AssertionError("not asked for")


class MicroBatches(torch.utils.data.IterableDataset[Any]):
    """The stream, micro-batch by micro-batch. It has a length: without one Lightning fetches a batch ahead, and a
    decision would come one batch late.
    """

    def __init__(self, stream: Stream, accumulation: int) -> None:
        self._stream, self._accumulation = stream, accumulation
        self.step: StepBatch | None = None

    def __len__(self) -> int:
        return STEPS * self._accumulation

    def __iter__(self) -> Iterator[Any]:
        for _ in range(STEPS):
            self.step = self._stream.next()
            assert len(self.step.micro_batches) == self._accumulation
            for micro in self.step.micro_batches:
                yield micro.input_ids, micro.num_valid


def under_lightning(micro_batch: int, accumulation: int, folder: Path) -> dict[str, Any]:
    import pytorch_lightning as pl
    from pytorch_lightning.strategies import DDPStrategy

    class Module(pl.LightningModule):
        """Our objective and optimizer; DDP averages over ranks and Lightning over the accumulated micro-batches."""

        def __init__(self) -> None:
            super().__init__()
            self.model = new_model()
            self.nats = 0.0

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            input_ids, num_valid = batch
            summed = summed_loss(self.model(input_ids=input_ids).logits, input_ids, num_valid)
            self.nats += float(summed.detach().double())
            assert batches.step is not None
            averaged_over = self.trainer.world_size * accumulation
            return normalised(summed, global_target_tokens=batches.step.target_tokens, averaged_over=averaged_over)

        def configure_optimizers(self) -> Any:
            return build_optimizer(self.model, SHORT)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = SHORT.rate(steering.state.position)

    class Steering(pl.Callback):
        def __init__(self, run: Run, state: RunState) -> None:
            self.run, self.state = run, state

        def on_train_batch_end(self, trainer: Any, module: Any, _outputs: Any, _batch: Any, index: int) -> None:
            if (index + 1) % accumulation:
                return
            batch = batches.step
            assert batch is not None
            loss = float(self.run.engine.reduce(np.array([module.nats]))[0]) / batch.target_tokens
            fed = sum(self.run.engine.gather(batch.fed)) % (1 << 64)
            self.run.journal.write("step", batch.step, loss=loss, fed=fed)
            module.nats = 0.0
            self.state = replace(self.state, step=batch.step, position=self.state.position + 1)
            self.state, outcome = after_step(self.run, self.state)
            trainer.should_stop = outcome is not None

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_steps=STEPS,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=SHORT.clip_norm,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    run, state = assemble(Port(trainer, module), micro_batch, folder)
    batches, steering = MicroBatches(run.stream, accumulation), Steering(run, state)
    trainer.callbacks.append(steering)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    run.stream.close()
    return found(run)


def by_our_loop(micro_batch: int, folder: Path) -> dict[str, Any]:
    engine = open_engine(new_model(), SHORT, seed=SEED)
    run, state = assemble(engine, micro_batch, folder)
    train(run, state, engine, SHORT)
    run.stream.close()
    return found(run)


def main() -> None:
    output, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if torch.distributed.is_torchelastic_launched():
        figures = [
            under_lightning(micro_batch, accumulation, folder / str(accumulation))
            for accumulation, micro_batch in enumerate(MICRO_BATCHES, start=1)
        ]
    else:
        figures = [by_our_loop(MICRO_BATCHES[0], folder)]
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        output.write_text(json.dumps(figures))
    time.sleep(QUIET_S)  # as AccelerateEngine.close does, before the process group is torn down


if __name__ == "__main__":
    main()
