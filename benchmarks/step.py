"""Time of a training step of the run's own loop over a bare PyTorch loop and over a plain Accelerate loop.

The same model from the same seed, the same batches, fused AdamW, clipping, rate and loss function in all three. Ours
is `loop.train` as a run calls it: stream with its background thread, engine, journal on disk; no evaluation and no
checkpoint falls into the timed steps. The peers get their batches ready made. The loops take turns in blocks of steps
in one process; each continues where it stopped. On a CPU a block counts as the median of its steps, on a GPU (where
steps are only launched) as its whole time between two synchronizations. The GPU settings are left out where there is
no GPU.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.figures import Figure, Result, alternated, figure, ratios
from benchmarks.segments import starting_facts, write_segment
from trainer.control.config import ControlConfig
from trainer.data.loader import MicroBatch, Stream
from trainer.data.store import PreparedSegment
from trainer.engines import open_engine
from trainer.evaluate.config import EvaluationConfig
from trainer.mixture.ledger import Ledger
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.model.build import build_model
from trainer.model.config import ModelConfig, TrainingConfig
from trainer.model.loss import normalized, token_losses
from trainer.model.optimizer import build_optimizer
from trainer.tracking.journal import Journal
from trainer.training.config import CheckpointConfig
from trainer.training.loop import train
from trainer.training.run import Run, RunData, RunIO, RunSettings, RunState

SHARES = {"real": 0.5, "one": 0.3, "two": 0.2}
VOCABULARY = 2048
NEVER = 10**9


class Setting:
    """A model, a batch, and how many steps make a block."""

    def __init__(
        self, name: str, model: dict[str, Any], *, batch: int, length: int, device: str, most: float, block: int
    ) -> None:
        self.name, self.model, self.batch, self.length = name, model, batch, length
        self.device, self.most, self.block = device, most, block

    def build(self) -> Any:
        """The model, from a fixed seed."""
        config = ModelConfig(architecture="llama", config={"tie_word_embeddings": True, **self.model})
        return build_model(config, vocabulary_size=VOCABULARY, end_of_document=0, sequence_length=self.length, seed=1)

    def training(self, steps: int = NEVER) -> TrainingConfig:
        """As in the quickstart; bf16 on a GPU."""
        return TrainingConfig(
            steps=steps,
            micro_batch=self.batch,
            learning_rate=1e-4,
            schedule={"kind": "constant"},
            precision="bf16" if self.device == "cuda" else "fp32",
        )


def _llama(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 43 // 16,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


SETTINGS = (
    Setting("0.2 M, 8 x 64", _llama(64, 2, 2), batch=8, length=64, device="cpu", most=1.05, block=60),
    Setting("1.05 M, 32 x 128", _llama(128, 4, 4), batch=32, length=128, device="cpu", most=1.05, block=9),
    Setting("11 M, 32 x 512", _llama(384, 6, 6), batch=32, length=512, device="cuda", most=1.02, block=50),
    Setting("124 M, 32 x 1024", _llama(768, 14, 12), batch=32, length=1024, device="cuda", most=1.02, block=20),
)


@dataclass(frozen=True)
class StepTime:
    """Seconds a step by the clock, and of processor time of all threads of the process."""

    clock_s: float
    processor_s: float


class Clock:
    """When each step of a block began. The device is waited for at the first and the last one only."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._times: list[tuple[float, float]] = []

    def tick(self, *, is_edge: bool) -> None:
        """Called where a step begins, and once after the last one."""
        if is_edge and self._device == "cuda":
            torch.cuda.synchronize()
        self._times.append((time.perf_counter(), time.process_time()))

    def block(self) -> StepTime:
        """Of the block that just ended."""
        clock, processor = zip(*self._times, strict=True)
        self._times = []
        mean = [(times[-1] - times[0]) / (len(times) - 1) for times in (clock, processor)]
        if self._device == "cuda":
            return StepTime(*mean)
        return StepTime(median(after - before for before, after in pairwise(clock)), mean[1])


class TimedStream:
    """The stream of our loop, which asks for a batch at the beginning of each step."""

    def __init__(self, stream: Stream, clock: Clock, block: int) -> None:
        self._stream, self._clock, self._block, self._number = stream, clock, block, 0

    def next(self) -> Any:
        """The next batch; the last one of a block only closes the time of the step before it."""
        place = self._number % (self._block + 1)
        self._number += 1
        self._clock.tick(is_edge=place in (0, self._block))
        return self._stream.next()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_stream(setting: Setting, segments: dict[str, PreparedSegment]) -> Stream:
    """A stream from the first step on."""
    counts = {name: segment.num_samples for name, segment in segments.items()}
    plan = Plan(0, Ledger(starting_facts(counts, SHARES, setting.batch)))
    return Stream(
        plan,
        {(name, 0): segment for name, segment in segments.items()},
        state=plan.start(),
        partition=RankPartition(rank=0, world_size=1, micro_batch=setting.batch),
        sequence_length=setting.length,
        padding=0,
        pin_memory=setting.device == "cuda",
    )


def our_loop(setting: Setting, segments: dict[str, PreparedSegment], folder: Path) -> Callable[[], StepTime]:
    """A block of `loop.train`; it ends with the checkpoint that every run ends with, outside the timed steps."""
    clock, stream = Clock(setting.device), open_stream(setting, segments)
    engine = open_engine(setting.build(), setting.training(), seed=1)
    run = Run(
        settings=RunSettings(
            seed=1,
            num_steps=setting.training().steps,
            evaluation=EvaluationConfig(every_steps=NEVER),
            control=ControlConfig(),
            checkpoint=CheckpointConfig(every_steps=NEVER, keep=1),
            rates=setting.training().rates(),
        ),
        devices=engine,
        data=RunData(
            plan=stream.plan,
            stream=TimedStream(stream, clock, setting.block),
            evaluator=None,  # no evaluation is due
        ),
        io=RunIO(
            folder=folder,
            journal=Journal(folder / "journal.jsonl"),
            sync_ledger=lambda: (0, ""),
            stop_requested=lambda: False,
            warn=print,
        ),
    )
    state = RunState()

    def block() -> StepTime:
        nonlocal state
        steps = state.position + setting.block + 1
        state, _ = train(
            replace(run, settings=replace(run.settings, num_steps=steps)), state, engine, setting.training(steps)
        )
        return clock.block()

    return block


def bare_loop(setting: Setting, batches: list[MicroBatch]) -> Callable[[], StepTime]:
    """What one writes by hand."""
    model = setting.build().to(setting.device)
    optimizer = build_optimizer(model, setting.training())
    mixed = setting.device == "cuda"

    def step(micro: MicroBatch) -> None:
        input_ids = micro.input_ids.to(setting.device, non_blocking=True)
        num_valid = micro.num_valid.to(setting.device, non_blocking=True)
        with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=mixed):
            logits = model(input_ids=input_ids).logits
        loss = _loss(setting, logits, input_ids, num_valid)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _blocks(setting, batches, step)


def accelerate_loop(setting: Setting, batches: list[MicroBatch]) -> Callable[[], StepTime]:
    """The loop of Accelerate's own examples."""
    from accelerate import Accelerator

    mixed = setting.device == "cuda"
    accelerator = Accelerator(cpu=not mixed, mixed_precision="bf16" if mixed else "no")
    model = setting.build()
    model, optimizer = accelerator.prepare(model, build_optimizer(model, setting.training()))

    def step(micro: MicroBatch) -> None:
        input_ids = micro.input_ids.to(accelerator.device, non_blocking=True)
        num_valid = micro.num_valid.to(accelerator.device, non_blocking=True)
        loss = _loss(setting, model(input_ids=input_ids).logits, input_ids, num_valid)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _blocks(setting, batches, step)


def _loss(setting: Setting, logits: Any, input_ids: Any, num_valid: Any) -> Any:
    target_tokens = setting.batch * (setting.length - 1)
    summed = token_losses(logits, input_ids, num_valid).sum()
    return normalized(summed, global_target_tokens=target_tokens, averaged_over=1)


def _blocks(setting: Setting, batches: list[MicroBatch], step: Callable[[MicroBatch], None]) -> Callable[[], StepTime]:
    clock, number = Clock(setting.device), 0

    def block() -> StepTime:
        nonlocal number
        for place in range(setting.block):
            clock.tick(is_edge=place == 0)
            step(batches[number % len(batches)])
            number += 1
        clock.tick(is_edge=True)
        return clock.block()

    return block


def run(rounds: int = 9) -> Result:
    """All settings that this machine can run."""
    torch.set_num_threads(1)
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.device == "cuda" and not torch.cuda.is_available():
            details[setting.name] = "left out: no GPU"
            continue
        times, behind = compare(setting, rounds)
        figures += times
        details[setting.name] = behind
    return Result(title="time of a training step, ours over theirs", figures=figures, details=details)


def compare(setting: Setting, rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """One setting: a block of each loop to warm up, then ``rounds`` turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        segments = {
            source: write_segment(
                folder / source, num_samples=500, sequence_length=setting.length, seed=seed, vocabulary=VOCABULARY
            )
            for seed, source in enumerate(SHARES)
        }
        stream = open_stream(setting, segments)
        batches = [stream.next().micro_batches[0] for _ in range(32)]
        stream.close()
        loops = {
            "bare PyTorch": bare_loop(setting, batches),
            "ours": our_loop(setting, segments, folder / "run"),
            "plain Accelerate": accelerate_loop(setting, batches),
        }
        for block in loops.values():
            block()
        times = alternated(loops, rounds)
    clock = {name: [turn.clock_s for turn in blocks] for name, blocks in times.items()}
    processor = {name: [turn.processor_s for turn in blocks] for name, blocks in times.items()}
    figures = []
    for peer in ("bare PyTorch", "plain Accelerate"):
        name = f"{setting.name} on {setting.device}: ours over {peer}"
        figures.append(figure(name, ratios(clock["ours"], clock[peer]), "ratio", at_most=setting.most))
        figures.append(figure(f"{name}, processor time", ratios(processor["ours"], processor[peer]), "ratio"))
    return figures, {"clock_s": clock, "processor_s": processor, "steps_a_block": setting.block}
