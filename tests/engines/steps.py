"""What the ranks do in the tests of an engine: real steps of a tiny model on batches of a real plan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.base.records import SourceLoss
from trainer.data.loader import Stream
from trainer.engines import open_engine
from trainer.engines.engine import TrainingEngine
from trainer.mixture.ledger import BatchSize, Ledger, Segment, Shares
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.model.build import build_model
from trainer.model.config import ModelConfig, TrainingConfig

LENGTH, VOCABULARY, NUM_SAMPLES, SEED = 16, 64, 40, 11


class Samples:
    """A segment in memory; the last sample is half padding."""

    def __init__(self, seed: int, num_samples: int = NUM_SAMPLES) -> None:
        self.tokens = np.random.default_rng(seed).integers(1, VOCABULARY, (num_samples, LENGTH))
        self.valid = np.full(num_samples, LENGTH)
        self.valid[-1] = LENGTH // 2

    def gather(self, samples: Any) -> Any:
        return self.tokens[samples]

    def valid_tokens(self, samples: Any) -> Any:
        return self.valid[samples]


class Expectations:
    """A teacher's columns in memory, at random."""

    top_k = 4

    def __init__(self, num_samples: int) -> None:
        random = np.random.default_rng(4)
        order = random.permuted(np.tile(np.arange(VOCABULARY), (num_samples, LENGTH, 1)), axis=-1)
        self.ids = order[..., : self.top_k].astype(np.uint16)
        masses = random.dirichlet(np.ones(self.top_k + 1), (num_samples, LENGTH))
        self.log_probabilities = np.log(masses).astype(np.float16)

    def gather(self, samples: Any) -> Any:
        return self.ids[samples], self.log_probabilities[samples]


class TaughtSamples(Samples):
    """A segment that a teacher has read."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.teacher = Expectations(NUM_SAMPLES)


STORES = (Samples(1), Samples(2))
TAUGHT, TEACHER_WEIGHT = TaughtSamples(2), 0.75  # the tokens of the second


def plan_of(global_batch: int) -> Plan:
    facts = [
        Segment(step=1, source="real", kind="real", segment=0, num_samples=NUM_SAMPLES),
        Segment(step=1, source="made", kind="synthetic", segment=0, num_samples=NUM_SAMPLES),
        BatchSize(step=1, global_batch=global_batch),
        Shares(step=1, shares={"real": 600_000, "made": 400_000}),
    ]
    return Plan(SEED, Ledger(facts))


def training(**more: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 20, "micro_batch": 3, "learning_rate": 1e-2, "precision": "fp32", **more})


def tiny_model(*, architecture: str = "llama", tied: bool = True, pretrained: Path | None = None, **more: Any) -> Any:
    """From scratch, or from a folder."""
    keys = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "tie_word_embeddings": tied,
        **more,
    }
    origin = {"architecture": architecture, "config": keys} if pretrained is None else {"pretrained": str(pretrained)}
    config = ModelConfig.model_validate(origin)
    return build_model(config, vocabulary_size=VOCABULARY, end_of_document=0, sequence_length=LENGTH, seed=SEED)


@dataclass
class Bench:
    """An engine, its model, and the stream that feeds it."""

    engine: TrainingEngine
    model: Any
    stream: Stream

    def step(self, *, stop: bool = False, digest: int | None = None) -> Any:
        digest = self.stream.plan.ledger.digest if digest is None else digest
        return self.engine.train_step(self.stream.next(), learning_rate=1e-2, stop=stop, ledger_digest=digest).result()

    def weights(self) -> dict[str, Any]:
        return {name: value.detach().numpy().copy() for name, value in self.model.state_dict().items()}

    def first_moments(self) -> dict[str, Any]:
        """0.1 x the clipped gradients after the first step."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        inner = self.engine.sharding.optimizer
        return {names[id(parameter)]: state["exp_avg"].numpy().copy() for parameter, state in inner.state.items()}

    def optimizer_steps(self) -> set[int]:
        """How often the optimizer has stepped, by its own count."""
        return {int(state["step"]) for state in self.engine.sharding.optimizer.state.values()}


@contextmanager
def bench(
    micro_batch: int = 3,
    global_batch: int = 12,
    prepare: Callable[[Any], None] | None = None,
    model: Any = None,
    made: Samples = STORES[1],
    **more: Any,
) -> Iterator[Bench]:
    """An engine on a model, a tiny one if none is given, to which ``prepare`` has done something first."""
    model = tiny_model() if model is None else model
    if prepare is not None:
        prepare(model)
    engine = open_engine(model, training(micro_batch=micro_batch, **more), seed=SEED)
    plan = plan_of(global_batch)
    partition = RankPartition(rank=engine.rank, world_size=engine.world_size, micro_batch=micro_batch)
    stores = {("real", 0): STORES[0], ("made", 0): made}
    stream = Stream(plan, stores, state=plan.start(), partition=partition, sequence_length=LENGTH, padding=0)
    try:
        yield Bench(engine, model, stream)
    finally:
        stream.close()


def first_step(micro_batch: int, global_batch: int) -> tuple[Any, dict[str, Any]]:
    """Figures and first moments of one step."""
    with bench(micro_batch, global_batch) as on:
        figures = on.step()
        return figures, on.first_moments()


def losses_by_hand(global_batch: int) -> list[SourceLoss]:
    """Of the first step, by source: each sample through the model alone, its cross entropy by torch's own function."""
    model, plan = tiny_model(), plan_of(global_batch)
    batch, _ = plan.draw(plan.start())
    nats, tokens = [0.0, 0.0], [0, 0]
    for source, sample in zip(batch.source.tolist(), batch.sample.tolist(), strict=True):
        store = STORES[source]
        ids = torch.from_numpy(store.tokens[sample, : store.valid[sample]])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        nats[source] += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        tokens[source] += len(ids) - 1
    return [SourceLoss(loss_sum_nats=each, tokens=of) for each, of in zip(nats, tokens, strict=True)]


def poisoned_on_one_rank() -> list[tuple[Any, dict[str, Any]]]:
    """Figures and weights of three steps; in the second, one gradient of the last rank alone is not a number."""
    with bench() as on:
        results = [(on.step(), on.weights())]
        parameter = next(parameter for name, parameter in on.model.named_parameters() if "down_proj" in name)
        hook = parameter.register_hook(
            lambda gradient: gradient * float("nan" if on.engine.rank == on.engine.world_size - 1 else 1)
        )
        results.append((on.step(), on.weights()))
        hook.remove()
        results.append((on.step(), on.weights()))
        return results


def asked_and_astray() -> list[tuple[bool, bool]]:
    """(stop_requested, ledgers_agree) of steps where nobody, then one rank asks to stop, then one
    has another ledger.
    """
    with bench() as on:
        odd = on.engine.rank == on.engine.world_size - 1
        quiet, stop_requested = on.step(), on.step(stop=odd)
        astray = on.step(digest=on.stream.plan.ledger.digest ^ (1 << 63 if odd else 0))
        return [(figures.stop_requested, figures.ledgers_agree) for figures in (quiet, stop_requested, astray)]


def collectives_of_a_step() -> tuple[list[str], list[int]]:
    """All collectives that gloo ran in one step (C++ ones included), and the sizes of those that Python asked for."""
    sizes: list[int] = []
    original = torch.distributed.all_reduce

    def counted(tensor: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        sizes.append(tensor.numel())
        return original(tensor, *arguments, **more)

    with bench() as on:
        on.step()  # the first step also checks parameter shapes and rebuilds buckets
        on.step()
        torch.distributed.all_reduce = counted
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            on.step()
        torch.distributed.all_reduce = original
    return [event.name for event in profile.events() if event.name.startswith("gloo:")], sizes


def continued(folder: Any) -> tuple[list[Any], list[Any], dict[str, Any], dict[str, Any]]:
    """Two steps after a snapshot, and the same two after it is restored in another engine."""
    with bench() as on:
        on.step()
        on.step()
        on.engine.capture(detached=False)(folder)
        state = on.stream.state
        expected = [on.step(), on.step()]
        expected_weights = on.weights()
        on.engine.restore(folder)
        on.stream.state = state
        on.stream.append([])
        repeated = [on.step(), on.step()]
        return expected, repeated, expected_weights, on.weights()


def distilled(micro_batch: int, global_batch: int) -> tuple[Any, Any]:
    """Figures of a step that learns from a teacher as well, and of the next."""
    with bench(micro_batch, global_batch, made=TAUGHT, teacher_weight=TEACHER_WEIGHT) as on:
        return on.step(), on.step()


def distilled_by_hand(global_batch: int) -> tuple[float, float, float, float]:
    """Of the first step, sample by sample through the model alone: the gradient's norm, the divergence per token that a
    teacher has read, by sums over all tokens in float64, and those tokens' and all tokens' mean cross entropy.
    """
    model, plan = tiny_model().double(), plan_of(global_batch)
    batch, _ = plan.draw(plan.start())
    objective, divergence, nats, taught, tokens = torch.zeros((), dtype=torch.float64), 0.0, 0.0, 0, 0
    for source, sample in zip(batch.source.tolist(), batch.sample.tolist(), strict=True):
        store, valid = STORES[source], STORES[source].valid[sample]
        ids = torch.from_numpy(store.tokens[sample, :valid])
        q = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1)
        losses = -q.gather(-1, ids[1:, None])[:, 0]
        tokens, nats = tokens + len(losses), nats + float(losses.sum().detach())
        if source == 0:
            objective = objective + losses.sum()
            continue
        likeliest, logs = (torch.from_numpy(part[: valid - 1]) for part in TAUGHT.teacher.gather(sample))
        p = logs.double().exp() / logs.double().exp().sum(-1, keepdim=True)
        rest = 1 - q.exp().gather(-1, likeliest.long()).sum(-1, keepdim=True)
        student = torch.cat([q.gather(-1, likeliest.long()), rest.log()], -1)
        kl = (p * (p.log() - student)).sum()
        objective = objective + (1 - TEACHER_WEIGHT) * losses.sum() + TEACHER_WEIGHT * kl
        divergence, taught = divergence + float(kl.detach()), taught + len(losses)
    (objective / tokens).backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    return float(norm), divergence / taught, nats / tokens, taught / tokens
