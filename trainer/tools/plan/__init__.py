"""`trainer plan`: what a run takes, before it is paid for, and a refusal of what cannot work.

Everything follows from the recipe and a few numbers about the machine; nothing is prepared, built or downloaded, so
that the answer comes in a second for a laptop and for a thousand ranks alike. A number that is not known is said to be
an estimate, or left out.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE
from trainer.control.policies import AnnealConfig, PricedConfig, ScheduleConfig, anneal
from trainer.control.priced.repeats import effective_tokens
from trainer.data.config import JoinConfig, SourceConfig
from trainer.data.files import is_indexed, local_files
from trainer.data.fingerprint import cache_folder, stamp_key
from trainer.data.store import open_prepared
from trainer.data.waiting import Announcement
from trainer.recipe import LoadedRecipe, Recipe
from trainer.tools.plan.real_budget import RealBudget, real_budget
from trainer.tools.plan.sizes import (
    MemoryPerRank,
    checkpoint_bytes,
    flops_per_token,
    memory_per_rank,
    model_bytes,
    model_size,
)
from trainer.tools.plan.vocabulary import vocabulary_size_of

_BYTES_PER_TOKEN = 4.0  # of English text and a vocabulary of tens of thousands
_COMPRESSION = {".gz": 3.0, ".xz": 4.0, ".zst": 3.5, ".parquet": 2.5}  # text bytes per byte of file
_JOURNAL_BYTES_PER_STEP = 1_000  # a `step` line of four sources is about 700 bytes


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the run would be: ``world_size`` ranks, each with this speed and price; None where it is not known."""

    world_size: int = 1
    tokens_per_second: float | None = None  # per rank, measured
    teraflops: float | None = None  # per rank, sustained
    price_per_hour: float | None = None  # per rank
    free_bytes: int | None = None  # where the run folder will lie; None: measured here


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """What a source gives. ``known_by`` is prepared, stated, estimate or unknown; epochs, and the different tokens that
    would do as much as its repeated ones, are None where the size is unknown. Epochs are the most that the segments
    drawn at a time come to, ``cap_step`` is about where they reach ``max_epochs``.
    """

    name: str
    kind: str
    mean_share: float
    samples: int
    tokens: int
    available_samples: int | None
    known_by: str
    epochs: float | None
    effective_tokens: float | None
    max_epochs: float | None
    cap_step: int | None


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """Bytes on the disk of the run folder. ``peak`` is with the one checkpoint more that exists while a new one is
    verified.
    """

    checkpoints_written: int
    checkpoints_kept: int
    checkpoint: int
    model: int
    journal: int
    peak: int
    free: int


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The whole answer; ``refusals`` say why the run cannot work, ``warnings`` what is probably not meant.

    ``micro_batch`` is what a rank really gets at once, at most ``training.micro_batch``.
    """

    name: str
    world_size: int
    steps: int
    global_batch: int
    micro_batch: int
    accumulation: int
    samples: int
    tokens: int
    num_parameters: int
    flops: float
    seconds: float | None
    cost: float | None
    memory: MemoryPerRank
    disk: DiskPlan
    sources: tuple[SourcePlan, ...]
    real: RealBudget | None  # None where the size of a real source is unknown, or none is drawn
    warnings: tuple[str, ...] = field(default=())
    refusals: tuple[str, ...] = field(default=())


def plan_run(loaded: LoadedRecipe, machine: Machine, source_tokens: Mapping[str, float] | None = None) -> RunPlan:
    """The plan of a recipe on a machine; ``source_tokens`` states the size of sources that are not prepared here."""
    recipe = loaded.recipe
    length, batch = recipe.data.sequence_length, recipe.mixture.global_batch
    samples = recipe.training.steps * batch
    sources = _sources(loaded, source_tokens or {})
    size = model_size(
        recipe.model, vocabulary_size=vocabulary_size_of(recipe.data.tokenizer, loaded.folder), sequence_length=length
    )
    disk = _disk(recipe, checkpoint_bytes(size), model_bytes(size), machine.free_bytes)
    flops = float(flops_per_token(size, length)) * samples * length
    seconds = _seconds(machine, samples * length, flops)
    accumulation = -(-batch // (machine.world_size * recipe.training.micro_batch))
    micro_batch = -(-batch // (machine.world_size * accumulation))
    price = machine.price_per_hour
    return RunPlan(
        name=recipe.name,
        world_size=machine.world_size,
        steps=recipe.training.steps,
        global_batch=batch,
        micro_batch=micro_batch,
        accumulation=accumulation,
        samples=samples,
        tokens=samples * length,
        num_parameters=size.num_parameters,
        flops=flops,
        seconds=seconds,
        cost=None if seconds is None or price is None else seconds / 3600 * price * machine.world_size,
        memory=memory_per_rank(
            size,
            micro_batch=micro_batch,
            sequence_length=length,
            bf16=recipe.training.precision == "bf16",
            recompute=recipe.model.gradient_checkpointing,
            world_size=machine.world_size,
        ),
        disk=disk,
        sources=sources,
        real=_real_budget(recipe, sources),
        warnings=(*_mixture_warnings(recipe, sources), *_machine_warnings(recipe, machine)),
        refusals=(*_exhausted_kinds(sources), *_disk_refusals(disk)),
    )


def _real_budget(recipe: Recipe, sources: tuple[SourcePlan, ...]) -> RealBudget | None:
    """All real sources that are drawn, together."""
    real = [source for source in sources if source.kind == "real" and source.mean_share > 0]
    if not real or any(not source.available_samples for source in real):
        return None
    length = recipe.data.sequence_length
    return real_budget(
        sum(source.available_samples or 0 for source in real) * length,
        sum(source.tokens for source in real),
        recipe.training.steps * recipe.mixture.global_batch * length,
        policy=recipe.control.policy,
        rates=recipe.training.rates(),
        num_steps=recipe.training.steps,
        capped=[
            ((source.available_samples or 0) * length, source.max_epochs)
            for source in real
            if source.max_epochs is not None
        ],
        ceiling=_real_ceiling(recipe, sources),
    )


def _real_ceiling(recipe: Recipe, sources: tuple[SourcePlan, ...]) -> float:
    """The greatest share that the bounds of the policy leave to real data: their ceilings, and the others' floors."""
    policy = recipe.control.policy
    if not isinstance(policy, PricedConfig):
        return 1.0
    drawn = [source for source in sources if source.mean_share > 0]
    floors = sum(policy.floors.get(one.name, min(policy.floor, one.mean_share)) for one in drawn if one.kind != "real")
    ceilings = sum(policy.ceilings.get(one.name, 1.0) for one in drawn if one.kind == "real")
    return min(1.0 - floors, ceilings)


def mean_shares(recipe: Recipe) -> dict[str, float]:
    """The share of each source over the whole run: of the curve if there is one, else the share at the start."""
    start = {name: millionths / SHARE_ONE for name, millionths in recipe.mixture.shares_in_millionths().items()}
    policy = recipe.control.policy
    if isinstance(policy, AnnealConfig):
        return anneal.mean_shares(policy, start, {name: source.kind for name, source in recipe.data.sources.items()})
    if not isinstance(policy, ScheduleConfig):
        return start
    curve = [(0.0, start), *((point.at, point.shares) for point in policy.points)]
    curve.append((1.0, curve[-1][1]))
    return {
        name: sum(
            (later - earlier) * (left[name] + right[name]) / 2 for (earlier, left), (later, right) in pairwise(curve)
        )
        for name in start
    }


def _sources(loaded: LoadedRecipe, source_tokens: Mapping[str, float]) -> tuple[SourcePlan, ...]:
    recipe = loaded.recipe
    for name in source_tokens:
        if name not in recipe.data.sources:
            known = ", ".join(recipe.data.sources)
            raise UserError("--source-tokens names no source", got=name, remedy=f"The sources are {known}")
    prepared = _prepared_samples(loaded)
    length, total = recipe.data.sequence_length, recipe.training.steps * recipe.mixture.global_batch
    plans = []
    for name, share in mean_shares(recipe).items():
        source = recipe.data.sources[name]
        sizes: Sequence[float] | None
        if name in source_tokens:  # of all segments together, of which nobody says how they differ
            sizes, known_by = _evenly(int(source_tokens[name] // length), len(source.segments)), "stated"
        elif name in prepared:
            sizes, known_by = prepared[name], "prepared"
        else:
            sizes, known_by = _estimated_samples(source, loaded.folder, length)
        available = None if sizes is None else round(sum(sizes))
        samples = round(share * total)
        spans = _spans(source.joins, sizes, samples, recipe.training.steps) if sizes and available else []
        most = recipe.mixture.max_epochs.get(name)
        plans.append(
            SourcePlan(
                name=name,
                kind=source.kind,
                mean_share=share,
                samples=samples,
                tokens=samples * length,
                available_samples=available,
                known_by=known_by,
                epochs=max((span.after for span in spans), default=None),
                effective_tokens=_effective_samples(spans, sizes) * length if sizes and spans else None,
                max_epochs=most,
                cap_step=None
                if most is None
                else next((span.step_of(most) for span in spans if span.after > most), None),
            )
        )
    return tuple(plans)


def _evenly(total: int, parts: int) -> list[float]:
    return [total / parts] * parts


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Steps between two joins of a source: what was drawn of its segments by their end, and the epochs that those drawn
    in them come to, before and after.
    """

    first_step: int
    steps: int
    drawn: tuple[float, ...]
    before: float
    after: float

    def step_of(self, epochs: float) -> int:
        """About where so many epochs are reached."""
        part = max(0.0, epochs - self.before) / (self.after - self.before)
        return self.first_step - 1 + int(self.steps * part)


def _spans(joins: Sequence[JoinConfig], sizes: Sequence[float], samples: int, num_steps: int) -> list[_Span]:
    """The spans of a source that gives ``samples`` at an even share, its live segments in proportion to their sizes."""
    spans, drawn, first = list[_Span](), [0.0] * len(sizes), 0
    edges = [1, *(join.from_step for join in joins), num_steps + 1]
    for number, (start, end) in enumerate(pairwise(edges)):
        if number and joins[number - 1].retires:
            first = number
        size, more = sum(sizes[first : number + 1]), samples * (end - start) / num_steps
        before = sum(drawn[first:]) / size
        for one in range(first, number + 1):
            drawn[one] += more * sizes[one] / size
        after = sum(drawn[first:]) / size
        spans.append(_Span(first_step=start, steps=end - start, drawn=tuple(drawn), before=before, after=after))
    return spans


def _effective_samples(spans: Sequence[_Span], sizes: Sequence[float]) -> float:
    return sum(effective_tokens(size, drawn) for size, drawn in zip(sizes, spans[-1].drawn, strict=True))


def _prepared_samples(loaded: LoadedRecipe) -> dict[str, list[int]]:
    """Samples of each source's segments if the recipe's data were prepared on this machine before, else nothing."""
    config, base = loaded.recipe.data, loaded.folder
    cache = cache_folder(config, base)
    try:
        key = stamp_key(config, seed=loaded.recipe.seed, base=base, cache=cache)
    except UserError:
        return {}  # files that are not here cannot have been prepared here
    store = Announcement(cache, key).known_store()
    if store is None:
        return {}
    return {
        name: [segment.num_samples for segment in source.segments]
        for name, source in open_prepared(store).sources.items()
    }


def _estimated_samples(source: SourceConfig, folder: Path, sequence_length: int) -> tuple[list[int] | None, str]:
    """Of each segment, from the size of the files; None where there are none."""
    sizes = [_estimated(segment, folder, sequence_length) for segment in source.segments]
    known = [size for size in sizes if size is not None]
    return (known, "estimate") if len(known) == len(sizes) else (None, "unknown")


def _estimated(source: SourceConfig, folder: Path, sequence_length: int) -> int | None:
    """From the size of the files; None where there are none. Other columns are counted as if they were text."""
    if is_indexed(source) or (source.path is not None and "://" in source.path):
        return None
    try:
        files = local_files(source, folder)
    except UserError:
        return None
    text_bytes = sum(
        part.stat().st_size * _COMPRESSION.get(part.suffix, 1.0)
        for file in files
        for part in (file.rglob("*") if file.is_dir() else [file])
        if part.is_file()
    )
    sampled = len(source.sample.buckets) / source.sample.of if source.sample else 1.0
    return max(1, int(text_bytes * sampled / _BYTES_PER_TOKEN / sequence_length))


def _disk(recipe: Recipe, checkpoint: int, model: int, free: int | None) -> DiskPlan:
    written = -(-recipe.training.steps // recipe.checkpoint.every_steps)
    kept = min(recipe.checkpoint.keep, written)
    journal = recipe.training.steps * _JOURNAL_BYTES_PER_STEP
    while_saving = min(kept + 1, written)
    return DiskPlan(
        checkpoints_written=written,
        checkpoints_kept=kept,
        checkpoint=checkpoint,
        model=model,
        journal=journal,
        peak=while_saving * checkpoint + model + journal,
        free=shutil.disk_usage(_existing(Path("runs").absolute())).free if free is None else free,
    )


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _seconds(machine: Machine, tokens: int, flops: float) -> float | None:
    if machine.tokens_per_second is not None:
        return tokens / (machine.tokens_per_second * machine.world_size)
    if machine.teraflops is not None:
        return flops / (machine.teraflops * 1e12 * machine.world_size)
    return None


def _mixture_warnings(recipe: Recipe, sources: tuple[SourcePlan, ...]) -> list[str]:
    warnings = []
    policy = recipe.control.policy.kind
    if policy != "constant" and recipe.evaluation.every_steps >= recipe.training.steps:
        warnings.append(f"the {policy} policy never decides: the first reading comes after the last step")
    for source in sources:
        if 0 < source.mean_share * recipe.mixture.global_batch < 1:
            often = 1 / (source.mean_share * recipe.mixture.global_batch)
            warnings.append(
                f"{source.name} is drawn once in {often:.1f} steps: its share is below one sample of a batch"
            )
        if source.cap_step is None:
            continue
        late = [join.from_step for join in recipe.data.sources[source.name].joins if join.from_step > source.cap_step]
        joins = f", and what joins it at step {late[0]} is not drawn: raise its cap" if late else ""
        warnings.append(
            f"{source.name} reaches its cap of {source.max_epochs:g} epochs at about step {source.cap_step}; "
            f"then other {source.kind} sources get its share{joins}"
        )
    return warnings


def _machine_warnings(recipe: Recipe, machine: Machine) -> list[str]:
    batch, ranks = recipe.mixture.global_batch, machine.world_size
    if batch < ranks:
        return [f"{ranks - batch} of {ranks} ranks get no sample of a batch of {batch}: raise mixture.global_batch"]
    dealt = -(-batch // (ranks * recipe.training.micro_batch)) * ranks
    if batch % dealt:
        return [f"a batch of {batch} cannot be dealt evenly to {dealt} micro-batches: some are padded"]
    return []


def _exhausted_kinds(sources: tuple[SourcePlan, ...]) -> list[str]:
    """Kinds whose sources are all capped and hold fewer samples than the run draws: it would stop on the way."""
    refusals = []
    for kind in ("real", "synthetic"):
        drawn = [source for source in sources if source.kind == kind and source.mean_share > 0]
        limits = [
            source.max_epochs * source.available_samples
            for source in drawn
            if source.max_epochs is not None and source.available_samples is not None
        ]
        wanted = sum(source.samples for source in drawn)
        if drawn and len(limits) == len(drawn) and sum(limits) < wanted:
            about = "about " if any(source.known_by == "estimate" for source in drawn) else ""
            refusals.append(
                f"the {kind} sources may give {about}{sum(limits):.0f} samples under mixture.max_epochs, "
                f"the run draws {wanted}: raise the caps, lower the share, or train fewer steps"
            )
    return refusals


def _disk_refusals(disk: DiskPlan) -> list[str]:
    if disk.peak <= disk.free:
        return []
    return [
        f"the run folder grows to {disk.peak / 1e9:.1f} GB, {disk.free / 1e9:.1f} GB are free: "
        "keep fewer checkpoints, or name the space where it will run with --free-disk-gb"
    ]
