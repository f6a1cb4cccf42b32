"""Samples per second of the mixture stream against `datasets.interleave_datasets` (map style, streaming) and `grain`.

All deliver int64 torch tensors [B, T] of the same tokens from warm files, mixed 5 : 3 : 2. Each peer gets its quickest
form that was found: for datasets fixed-length int32 lists and whole batches of indices or a numpy format (a DataLoader
over rows is tried as well), in streaming no shuffle buffer, which only slows it; for grain batched reads and one cast
after stacking. Form and worker count are chosen in a first turn; then ours and the best of each take turns. Ours plans,
shuffles, hashes what it hands over and counts target tokens in the same time, in one background thread.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.figures import Figure, Result, figure, ratios
from benchmarks.segments import starting_facts, write_segment
from trainer.data.loader import Stream
from trainer.data.store import PreparedSegment
from trainer.mixture.ledger import Ledger
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan

SAMPLES = 50_000  # of each source
SIZES = ((1024, 32), (1024, 256), (128, 32), (128, 256))  # tokens of a sample, samples of a batch
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}
WORKERS = (0, 1, 2)
CHOOSING_S, TURN_S = 0.25, 0.4
PATIENCE_S = 180  # a busy machine takes a minute to import a loader
DRAINED = 64  # batches discarded before a turn: more than any of them keeps ready


@dataclass(frozen=True)
class Spec:
    """What is to be loaded. ``once``: every sample exactly once, which needs sources and shares of equal size."""

    folder: Path
    segments: Mapping[str, PreparedSegment]
    shares: Mapping[str, float]
    batch: int
    once: bool = False


def write_data(
    folder: Path, *, num_samples: int, sequence_length: int, sources: tuple[str, ...]
) -> dict[str, PreparedSegment]:
    """Our segments, and the same tokens as arrow files for datasets."""
    import datasets
    import pyarrow

    datasets.disable_progress_bars()
    segments = {}
    for seed, name in enumerate(sources):
        segment = write_segment(folder / name, num_samples=num_samples, sequence_length=sequence_length, seed=seed)
        flat = np.load(folder / name / "tokens.npy", mmap_mode="r").reshape(-1).astype(np.int32)
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), sequence_length)
        features = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"), length=sequence_length)})
        table = datasets.table.InMemoryTable(pyarrow.table({"input_ids": lists}).cast(features.arrow_schema))
        datasets.Dataset(table).save_to_disk(str(folder / f"{name}-arrow"))
        segments[name] = segment
    return segments


def ours(spec: Spec) -> Iterator[torch.Tensor]:
    """The stream of a single process."""
    counts = {name: segment.num_samples for name, segment in spec.segments.items()}
    plan = Plan(0, Ledger(starting_facts(counts, dict(spec.shares), spec.batch)))
    length = next(iter(spec.segments.values())).sequence_length
    stream = Stream(
        plan,
        {(name, 0): segment for name, segment in spec.segments.items()},
        state=plan.start(),
        partition=RankPartition(rank=0, world_size=1, micro_batch=spec.batch),
        sequence_length=length,
        padding=0,
    )
    left = sum(counts.values()) // spec.batch if spec.once else None
    try:
        while left is None or left > 0:
            yield stream.next().micro_batches[0].input_ids
            left = None if left is None else left - 1
    finally:
        stream.close()


def datasets_map(spec: Spec, workers: int, *, batched: bool) -> Iterator[torch.Tensor]:
    """`interleave_datasets` over shuffled map-style data sets; ``batched`` hands whole batches of indices over."""
    import datasets
    from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

    parts = [datasets.load_from_disk(str(spec.folder / f"{name}-arrow")).shuffle(seed=0) for name in spec.shares]
    mixed = _interleaved(spec, parts).with_format("torch")
    common = {"num_workers": workers, "persistent_workers": workers > 0}
    if batched:
        sampler = BatchSampler(SequentialSampler(mixed), spec.batch, drop_last=not spec.once)
        loader = DataLoader(mixed, sampler=sampler, batch_size=None, **common)
    else:
        loader = DataLoader(mixed, batch_size=spec.batch, drop_last=not spec.once, **common)
    return _endless(loader, spec)


def datasets_stream(spec: Spec, workers: int, *, batched: bool) -> Iterator[torch.Tensor]:
    """`interleave_datasets` over iterable data sets, a shard for each worker."""
    import datasets
    from torch.utils.data import DataLoader

    parts = [
        datasets.load_from_disk(str(spec.folder / f"{name}-arrow")).to_iterable_dataset(num_shards=max(1, workers))
        for name in spec.shares
    ]
    common = {"num_workers": workers, "persistent_workers": workers > 0}
    if batched:
        mixed = _interleaved(spec, parts).with_format("numpy").batch(spec.batch, drop_last_batch=not spec.once)
        loader = DataLoader(mixed.with_format("torch"), batch_size=None, **common)
    else:
        mixed = _interleaved(spec, [part.with_format("torch") for part in parts])
        mixed = mixed.with_format("torch")
        loader = DataLoader(mixed, batch_size=spec.batch, drop_last=not spec.once, **common)
    return _endless(loader, spec)


def _interleaved(spec: Spec, parts: list[Any]) -> Any:
    import datasets

    strategy = "all_exhausted_without_replacement" if spec.once else "all_exhausted"
    return datasets.interleave_datasets(
        parts, probabilities=list(spec.shares.values()), seed=0, stopping_strategy=strategy
    )


def _endless(loader: Any, spec: Spec) -> Iterator[torch.Tensor]:
    while True:
        for batch in loader:
            yield batch["input_ids"].to(torch.int64)
        if spec.once:
            return


class MappedRows:
    """Random access for grain; batched where grain asks for it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows = np.asarray(np.load(file, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._rows[index]

    def _getitems(self, indices: list[int]) -> list[np.ndarray]:
        return list(self._rows[np.asarray(indices)])

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedRows, (self._file,)


def grain_mix(spec: Spec, workers: int, *, threads: int) -> Iterator[torch.Tensor]:
    """`MapDataset.mix`, shuffled per source; ``threads`` read ahead, or ``workers`` processes."""
    import grain

    files = [spec.folder / name / "tokens.npy" for name in spec.shares]
    parts = [grain.MapDataset.source(MappedRows(file)).shuffle(seed=0) for file in files]
    if not spec.once:
        parts = [part.repeat() for part in parts]
    mixed = grain.MapDataset.mix(parts, weights=list(spec.shares.values()))
    batches = mixed.batch(spec.batch).map(lambda tokens: tokens.astype(np.int64))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterated = batches.to_iter_dataset(options)
    if workers:
        processes = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        iterated = iterated.mp_prefetch(processes)
    return map(torch.from_numpy, iter(iterated))


Build = Callable[[Spec], Iterator[torch.Tensor]]


def variants() -> dict[str, dict[str, Build]]:
    """The forms of each loader, by family; those with worker processes first, while their parent has no threads yet."""
    builds: dict[str, dict[str, Build]] = {"ours": {"one thread": ours}}
    for family, build in (("datasets map", datasets_map), ("datasets stream", datasets_stream)):
        builds[family] = {
            f"{'batched' if batched else 'rows'}, {workers} workers": partial(build, workers=workers, batched=batched)
            for batched, workers in ((True, 2), (True, 1), (False, 2), (True, 0), (False, 0))
        }
    builds["grain"] = {f"{workers} workers": partial(grain_mix, workers=workers, threads=1) for workers in (2, 1)}
    builds["grain"] |= {f"{threads} threads": partial(grain_mix, workers=0, threads=threads) for threads in (0, 1, 2)}
    return builds


@dataclass(frozen=True)
class Rate:
    """Samples per second of the clock, and per second of processor time of the process and its workers."""

    samples_per_s: float
    samples_per_cpu_s: float


class Host:
    """A process that holds the loaders of one family, so that no loader's threads disturb another's."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._family))
        self._process.start()

    def measure(self, variant: str, spec: Spec, seconds: float) -> Rate:
        """One turn; the loader stays open for the next one of the same variant. A rate of 0 when it hangs, as torch's
        workers do now and then when they are forked from a process with threads.
        """
        self._pipe.send((variant, spec, seconds))
        if not self._pipe.poll(PATIENCE_S):
            self.restart()
            return Rate(0.0, 0.0)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def restart(self) -> None:
        """A fresh process, without the threads that loaders have left behind."""
        self.close()
        self._start()

    def close(self) -> None:
        """Ends the process with its workers."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        for process in (*children, psutil.Process(self._process.pid)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.join()


def _serve(pipe: Connection, family: str) -> None:
    torch.set_num_threads(1)
    import datasets

    datasets.disable_progress_bars()
    current: tuple[str, Path, int] | None = None
    loader: Any = None
    while True:
        variant, spec, seconds = pipe.recv()
        key = (variant, spec.folder, spec.batch)
        try:
            if key != current:
                loader, current = None, None  # its workers end before the next ones start
                loader, current = variants()[family][variant](spec), key
            pipe.send(_rate(loader, spec.batch, seconds))
        except Exception as error:  # noqa: BLE001 - the asking process raises it
            pipe.send(RuntimeError(f"{family}, {variant}: {error!r}"))


def _rate(loader: Iterator[torch.Tensor], batch: int, seconds: float) -> Rate:
    drained_s = time.perf_counter()
    for number in range(DRAINED):
        tensor = next(loader)
        if number > 8 and time.perf_counter() - drained_s > seconds:
            break
    assert tensor.dtype == torch.int64
    assert tensor.shape[0] == batch
    count, cpu_s, started_s = 0, _cpu_s(), time.perf_counter()
    while (elapsed_s := time.perf_counter() - started_s) < seconds:
        next(loader)
        count += batch
    return Rate(count / elapsed_s, count / max(_cpu_s() - cpu_s, 0.01))


def _cpu_s() -> float:
    process = psutil.Process()
    times = [part.cpu_times() for part in (process, *process.children(recursive=True))]
    return sum(part.user + part.system for part in times)


def run(rounds: int = 7) -> Result:
    """All sizes, one after the other."""
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    hosts = {family: Host(family) for family in variants()}
    try:
        for length in sorted({length for length, _ in SIZES}):
            with tempfile.TemporaryDirectory() as name:
                segments = write_data(Path(name), num_samples=SAMPLES, sequence_length=length, sources=tuple(SHARES))
                for batch in (batch for other, batch in SIZES if other == length):
                    spec = Spec(Path(name), segments, SHARES, batch)
                    rates, behind = _compare(hosts, spec, f"{batch} x {length} tokens", rounds)
                    print(f"loader: {batch} x {length} tokens done", file=sys.stderr, flush=True)
                    figures += rates
                    details[f"{batch} x {length}"] = behind
    finally:
        for host in hosts.values():
            host.close()
    return Result(title="mixture loaders, samples per second, ours over theirs", figures=figures, details=details)


def _compare(hosts: Mapping[str, Host], spec: Spec, label: str, rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    chosen, first_turn = {}, {}
    for family, forms in variants().items():
        rates = {  # the better of two turns, so that no form loses by a pause of the machine
            variant: max(hosts[family].measure(variant, spec, CHOOSING_S).samples_per_s for _ in range(2))
            for variant in forms
        }
        first_turn[family] = {variant: round(rate) for variant, rate in rates.items()}
        chosen[family] = max(rates, key=rates.__getitem__)
        if "workers" in chosen[family] and "0 workers" not in chosen[family]:
            hosts[family].restart()
    turns: dict[str, list[Rate]] = {family: [] for family in hosts}
    for number in range(rounds):
        for family in hosts if number % 2 == 0 else reversed(hosts):
            turns[family].append(hosts[family].measure(chosen[family], spec, TURN_S))
    clock = {family: [rate.samples_per_s for rate in rates] for family, rates in turns.items()}
    processor = {family: [rate.samples_per_cpu_s for rate in rates] for family, rates in turns.items()}
    figures = []
    for family in (family for family in hosts if family != "ours"):
        name = f"{label}: ours over {family} ({chosen[family]})"
        figures.append(figure(name, ratios(clock["ours"], clock[family]), "ratio", at_least=3.0))
        figures.append(figure(f"{name}, per processor second", ratios(processor["ours"], processor[family]), "ratio"))
    behind = {"first_turn": first_turn, "chosen": chosen, "samples_per_s": clock, "samples_per_cpu_s": processor}
    return figures, behind
