"""Drives whatever engine the launcher describes through ten steps and one measurement of evidence; figures as JSON.

    [launcher] -m tests.together.smoke_engine OUTPUT.json

Five steps without and five with accumulation, of one small model on batches that a plan distributes: the samples of a
step are the same on any number of processes. 7 samples a step, so that ranks are padded and weigh differently.
"""

import json
import os
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from trainer.data.loader import Stream
from trainer.engines import open_engine
from trainer.evaluate.eval_batches import HeldOutText
from trainer.evaluate.evidence.source_value import SourceValueCounts, measure_source_value
from trainer.evaluate.ports import Engine
from trainer.mixture.ledger import BatchSize, Ledger, Segment, Shares
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.model.build import build_model
from trainer.model.config import ModelConfig, TrainingConfig

SEED, STEPS, GLOBAL_BATCH = 5, 5, 7
LENGTH, VOCABULARY, END = 16, 64, 0
SOURCES = {"real": ("real", 40), "made": ("synthetic", 30)}
# The most samples in one forward: on two processes one forward a step, then two.
MICRO_BATCHES = (4, 2)
MODEL = {
    "architecture": "llama",
    "config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    },
}
TRAINING = TrainingConfig.model_validate(
    {
        "steps": 20,
        "micro_batch": MICRO_BATCHES[0],
        "learning_rate": 3e-3,
        "schedule": {"kind": "cosine", "warmup_steps": 3},
        "precision": "fp32",
        "max_grad_norm": 0.5,
    }
)


class Rows:
    """A segment in memory; the last of its samples is half padding."""

    def __init__(self, seed: int, num_samples: int) -> None:
        rng = np.random.default_rng(seed)
        starts, strides = rng.integers(1, VOCABULARY, num_samples), rng.integers(1, 4, num_samples)
        line = starts[:, None] + strides[:, None] * np.arange(LENGTH)  # arithmetic, so that there is something to learn
        self.rows = (line % (VOCABULARY - 1) + 1).astype(np.int64)
        self.valid = np.full(num_samples, LENGTH, dtype=np.int64)
        self.valid[-1] = LENGTH // 2
        self.rows[-1, LENGTH // 2 :] = END

    @property
    def num_samples(self) -> int:
        return len(self.rows)

    def gather(self, samples: Any) -> Any:
        return self.rows[samples]

    def valid_tokens(self, samples: Any) -> Any:
        return self.valid[samples]


class HeldOut:
    """Eighty held-out documents of one sample's length."""

    def __init__(self) -> None:
        rows = Rows(99, 81).rows[:80]
        self.tokens = rows.ravel().astype(np.uint16)
        self.offsets = np.arange(81, dtype=np.int64) * LENGTH
        self.num_bytes = np.full(80, 4 * LENGTH, dtype=np.int64)
        self.slice_of = np.zeros(80, dtype=np.int64)
        self.slices = ("all",)
        self.ids = [f"document {number}" for number in range(80)]


STORES = {name: Rows(number, size) for number, (name, (_, size)) in enumerate(SOURCES.items())}


def starting_ledger() -> Ledger:
    segments = [
        Segment(step=1, source=name, kind=kind, segment=0, num_samples=size)  # type: ignore[arg-type]
        for name, (kind, size) in SOURCES.items()
    ]
    shares = Shares(step=1, shares={"real": 600_000, "made": 400_000})
    return Ledger([*segments, BatchSize(step=1, global_batch=GLOBAL_BATCH), shares])


def open_stream(plan: Plan, *, first_step: int, rank: int, world_size: int, micro_batch: int) -> Stream:
    return Stream(
        plan,
        {(name, 0): store for name, store in STORES.items()},
        state=plan.state(first_step),
        partition=RankPartition(rank=rank, world_size=world_size, micro_batch=micro_batch),
        sequence_length=LENGTH,
        padding=END,
    )


def new_model() -> Any:
    return build_model(
        ModelConfig.model_validate(MODEL),
        vocabulary_size=VOCABULARY,
        end_of_document=END,
        sequence_length=LENGTH,
        seed=SEED,
    )


def drive(engine: Engine) -> dict[str, Any]:
    """Five steps, a measurement of source values, five more; what every engine must agree on."""
    ledger = starting_ledger()
    plan = Plan(SEED, ledger)
    probe = torch.from_numpy(STORES["real"].rows[:2])
    steps, logits, micro_batches, first_step = [], [engine.eval_logits(probe)], [], 1
    source_value = None
    for micro_batch in MICRO_BATCHES:
        stream = open_stream(
            plan, first_step=first_step, rank=engine.rank, world_size=engine.world_size, micro_batch=micro_batch
        )
        for _ in range(STEPS):
            batch = stream.next()
            rate = TRAINING.rate(batch.step - 1)
            pending = engine.train_step(batch, learning_rate=rate, stop=batch.step == 2, ledger_digest=ledger.digest)
            steps.append(asdict(pending.result()))
            micro_batches.append(len(batch.micro_batches))
        stream.close()
        first_step += STEPS
        logits.append(engine.eval_logits(probe))
        source_value = source_value or evidence(
            engine
        )  # between the two halves: the steps after it show that it left no trace
    return {
        "steps": [{**step, "batch_hash": str(step["batch_hash"])} for step in steps],
        "logits": [full(value).double().abs().mean().item() for value in logits],
        "change": [(full(after) - full(before)).abs().max().item() for before, after in pairwise(logits)],
        "source_value": source_value,
        "micro_batches": micro_batches,
        "num_parameters": engine.num_parameters,
        "world_size": engine.world_size,
        "reduced": engine.reduce(np.array([1.0, float(engine.rank)])).tolist(),
        "broadcast": engine.broadcast({"from": engine.rank}),
        "gathered": engine.gather(engine.rank),
    }


def evidence(engine: Engine) -> dict[str, Any]:
    """The source values: trial steps that are undone, forwards."""
    evaluation = measure_source_value(
        HeldOutText(part=HeldOut(), seed=SEED, sequence_length=LENGTH, end_of_document=END, batch_rows=4),
        {name: [store] for name, store in STORES.items()},
        SourceValueCounts(samples_per_step=4, held_out_samples=8),
        engine,
        step=STEPS,
        global_batch=GLOBAL_BATCH,
    )
    values = {name: source_value.value for name, source_value in evaluation.source_value.items()}
    return {"fresh_gain_nats": evaluation.fresh_gain_nats, **values}


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu()


def main() -> None:
    engine = open_engine(new_model(), TRAINING, seed=SEED)
    figures = {"engine": type(engine.sharding).__name__, **drive(engine)}
    if engine.is_main:
        Path(sys.argv[1]).write_text(json.dumps(figures))
    engine.close()


if __name__ == "__main__":
    main()
