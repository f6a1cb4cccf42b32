"""The mixture for a user's own ``LightningModule``: samples of any kind, drawn by the plan.

A source is anything with a length and an index; what a sample is, only the module and ``collate`` know. The plan, the
ledger and the promises that go with them are those of every run.
"""

# G samples of the global batch, R ranks, A accumulated batches

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pydantic import ValidationError
from torch.utils.data import default_collate
from typing_extensions import override

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.records import Kind
from trainer.data.loader import StepBatch
from trainer.engines.seeds import seed_dropout, step_seed
from trainer.mixture.advance import State
from trainer.mixture.config import MixtureConfig
from trainer.mixture.draw import Batch
from trainer.mixture.ledger import Fact, Segment
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.training.loop import Steps

AnyConfig = TypeVar("AnyConfig", bound=Config)


class Samples(Protocol):
    """A data set that can be indexed: N samples, the same one for the same number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, number: int, /) -> Any:
        """One of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A named data set of the mixture."""

    samples: Samples
    kind: Kind
    license: str = "unknown"


class MixtureData(pl.LightningDataModule):
    """Batches of a mixture of ``sources`` in exact ``shares``; to be used with the callback ``Steering``.

    ``global_batch`` counts the samples of one optimizer step over all ranks and accumulated batches, which share it
    out evenly. ``collate`` makes a batch of a list of samples.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        shares: Mapping[str, float],
        global_batch: int,
        seed: int = 17,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        super().__init__()
        self.sources, self.seed, self.collate = dict(sources), seed, collate
        self.mixture = configured(MixtureConfig, {"global_batch": global_batch, "shares": dict(shares)})
        self.begin: Callable[[], NoBatches] | None = None  # the callback's: it knows the run
        if set(shares) != set(sources):
            raise UserError(
                "shares and sources name different sources",
                got=sorted(set(shares) ^ set(sources)),
                remedy="Give every source a share; 0 leaves it out",
            )
        for name, source in self.sources.items():
            if not len(source.samples):
                raise UserError(f"source {name} has no samples", remedy="Leave it out")

    def segments(self) -> list[Segment]:
        """The sources as facts of the ledger; without fingerprints, for a data set may augment what it gives."""
        return [
            Segment(step=1, source=name, kind=source.kind, segment=0, num_samples=len(source.samples))
            for name, source in self.sources.items()
        ]

    def rows(self, batch: Batch, places: Iterable[int], names: Sequence[str]) -> list[Any]:
        """The samples at some places of a global batch; ``names`` of the sources in the plan's order."""
        return [self.sources[names[batch.source[place]]].samples[int(batch.sample[place])] for place in places]

    @override
    def train_dataloader(self) -> "NoBatches":
        """This rank's batches, from where the run stands."""
        if self.begin is None:
            raise UserError(
                "MixtureData has no callback",
                remedy="Give the Trainer the callback: Trainer(callbacks=[Steering(mixture, ...)])",
            )
        return self.begin()


def configured(config: type[AnyConfig], values: Mapping[str, Any]) -> AnyConfig:
    """The configuration with these values; ``UserError`` that names each wrong one."""
    try:
        return config.model_validate(dict(values))
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, mistake['loc'])) or config.__name__}: {mistake['msg']}" for mistake in error.errors()
        )
        raise UserError(f"{config.__name__} is not valid: {mistakes}") from None


class SampleStream:
    """Global batches in the order of the plan. Nothing is fetched ahead: samples are indexed in their step."""

    def __init__(self, plan: Plan, state: State) -> None:
        self.plan, self.state = plan, state

    def next(self) -> StepBatch:
        """The next step's batch; its samples are still to be fetched."""
        batch, after = self.plan.draw(self.state)
        self.state = after
        return StepBatch(
            step=batch.step,
            plan=batch,
            micro_batches=(),
            row_sources=torch.zeros(0, dtype=torch.int64),
            target_tokens=len(batch.source),
            source_targets=(),
            batch_hash=0,
            after=after,
        )

    def append(self, facts: Iterable[Fact]) -> None:
        """Take facts into the ledger."""
        for fact in facts:
            self.plan.ledger.append(fact)

    def close(self) -> None:
        """Nothing to stop."""


class NoBatches:
    """The loader that Lightning gets where a run has ended.

    Its state is empty: where it stands follows from the state of the run.
    """

    def __len__(self) -> int:
        return 1  # Lightning warns of 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


class Batches(NoBatches):
    """The loader that Lightning gets: the batches of the run, from the first that is not trained yet.

    It has a length, because without one Lightning fetches a batch ahead, and a decision would come one batch late.
    """

    def __init__(self, mixture: MixtureData, steps: Steps, *, accumulation: int) -> None:
        self._mixture, self._steps = mixture, steps
        self._accumulation = accumulation
        self.step: StepBatch | None = None  # the one that is being trained
        self.batch_hash = 0  # of its samples on this rank, of the batches given so far

    @override
    def __len__(self) -> int:
        return self._steps.run.settings.num_steps * self._accumulation

    @override
    def __iter__(self) -> Iterator[Any]:
        run = self._steps.run
        devices, names = run.devices, run.data.plan.sources
        for step in self._steps.batches():
            self.step, self.batch_hash = step, 0
            # all that is random in a step follows from its number, so that a resume needs no saved state
            seed_dropout(step_seed(run.settings.seed, step.step, devices.rank), devices.device)
            size = len(step.plan.source)
            partition = RankPartition(
                rank=devices.rank,
                world_size=devices.world_size,
                micro_batch=size // (devices.world_size * self._accumulation),
            )
            for places in partition.positions(size):
                samples = self._mixture.rows(step.plan, places.tolist(), names)
                self.batch_hash = (self.batch_hash + sum(map(sample_hash, samples))) % (1 << 64)
                yield self._mixture.collate(samples)


def batch_hash(mixture: MixtureData, batch: Batch, names: Sequence[str]) -> int:
    """What a run must journal as ``batch_hash`` for this global batch, from the plan and the data sets alone."""
    return sum(map(sample_hash, mixture.rows(batch, range(len(batch.source)), names))) % (1 << 64)


def sample_hash(sample: Any) -> int:
    """64-bit hash of a sample as it is handed over: of tensors, arrays, numbers and text, in any nesting."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _bytes_of(sample):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def _bytes_of(value: Any) -> Iterator[bytes]:
    match value:
        case torch.Tensor():
            plain = value.detach().cpu().contiguous()
            yield f"{plain.dtype} {tuple(plain.shape)}".encode()
            yield plain.view(-1).view(torch.uint8).numpy().tobytes()
        case np.ndarray() | np.generic():
            yield f"{value.dtype} {value.shape}".encode()
            yield np.ascontiguousarray(value).tobytes()
        case bytes():
            yield value
        case None | bool() | int() | float() | str():
            yield f"{type(value).__name__} {value!r}".encode()
        case Mapping():
            for key in sorted(value, key=str):
                yield str(key).encode()
                yield from _bytes_of(value[key])
        case Sequence():
            yield f"{len(value)} items".encode()
            for item in value:
                yield from _bytes_of(item)
        case _:
            raise UserError(
                "a sample holds what cannot be hashed",
                got=type(value).__name__,
                remedy="Let the data set give tensors, arrays, numbers and text, in tuples or mappings",
            )
