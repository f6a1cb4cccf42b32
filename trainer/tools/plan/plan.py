"""`trainer plan`: what a run takes, before it starts, and a refusal of what cannot work.

Everything follows from the recipe and a few numbers about the machine; nothing is prepared, built or downloaded, and
held-out documents are counted only where their files are small, so that the answer comes in a second for a laptop and
for a thousand ranks alike. A number that is not known is marked as an estimate, or left out.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.control.policies import PricedConfig
from trainer.evaluate.measurements import fewest_validation_documents, measurement_costs
from trainer.model.precision import resolved
from trainer.recipe import LoadedRecipe, Recipe
from trainer.runs.auto_shares import with_starting_shares
from trainer.runs.build import measured_run
from trainer.tools.plan.data import DataPlan, data_plan, prepared_data
from trainer.tools.plan.first_rows import missing_texts
from trainer.tools.plan.notices import notices
from trainer.tools.plan.real_budget import RealDataPlan, real_budget
from trainer.tools.plan.sizes import (
    MemoryPerRank,
    checkpoint_bytes,
    flops_per_token,
    memory_per_rank,
    model_bytes,
    model_size,
)
from trainer.tools.plan.sources import SourcePlan, source_plans
from trainer.tools.plan.synthesis import synthesis_notes
from trainer.tools.plan.vocabulary import vocabulary_size_of

EQUAL_SO_FAR = "shares: auto are decided when the data are prepared: equal shares are shown until then"
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

    ``micro_batch`` is what a rank really gets at a time, at most ``training.micro_batch``.
    """

    name: str
    world_size: int
    precision: str  # that `auto` stands for on this machine
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
    data: DataPlan
    real: RealDataPlan | None  # None where the size of a real source is unknown, or none is drawn
    measurements: Mapping[str, float]  # tokens trained that each costs over the run, by kind
    fewest_validation_documents: int  # that the trial steps need, of full length; 0 where none are made
    max_evaluation_share: float | None  # None where the recipe says how many documents are evaluated
    validation_documents: int | None
    warnings: tuple[str, ...] = field(default=())
    refusals: tuple[str, ...] = field(default=())


def plan_run(loaded: LoadedRecipe, machine: Machine, source_tokens: Mapping[str, float] | None = None) -> RunPlan:
    """The plan of a recipe on a machine; ``source_tokens`` states the size of sources that are not prepared here."""
    prepared = prepared_data(loaded)
    recipe = with_starting_shares(loaded.recipe, prepared)
    loaded = replace(loaded, recipe=recipe)
    length, batch = recipe.data.sequence_length, recipe.mixture.global_batch
    samples = recipe.training.steps * batch
    sources = source_plans(loaded, source_tokens or {}, prepared)
    size = model_size(
        recipe.model, vocabulary_size=vocabulary_size_of(recipe.data.tokenizer, loaded.folder), sequence_length=length
    )
    disk = _disk(recipe, checkpoint_bytes(size), model_bytes(size), machine.free_bytes)
    flops = float(flops_per_token(size, length)) * samples * length
    seconds = _seconds(machine, samples * length, flops)
    accumulation = -(-batch // (machine.world_size * recipe.training.micro_batch))
    micro_batch = -(-batch // (machine.world_size * accumulation))
    price = machine.price_per_hour
    precision = resolved(recipe.training.precision)
    measured = measured_run(recipe, sequence_length=length, data=prepared)
    fewest = fewest_validation_documents(measured)
    data = data_plan(loaded, prepared, fewest_validation_documents=fewest)
    return RunPlan(
        name=recipe.name,
        world_size=machine.world_size,
        precision=precision,
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
            bf16=precision == "bf16",
            recompute=recipe.model.gradient_checkpointing,
            world_size=machine.world_size,
        ),
        disk=disk,
        sources=sources,
        data=data,
        real=_real_budget(recipe, sources),
        measurements=measurement_costs(measured),
        fewest_validation_documents=fewest,
        max_evaluation_share=None if recipe.evaluation.validation_documents else recipe.evaluation.max_compute_share,
        validation_documents=recipe.evaluation.validation_documents,
        warnings=(
            *data.warnings,
            *notices(loaded, sources, prepared),
            *synthesis_notes(loaded),
            *_mixture_warnings(recipe, sources),
            *([EQUAL_SO_FAR] if recipe.mixture.from_prior_values and prepared is None else []),
            *_machine_warnings(recipe, machine),
            *(prepared.notes() if prepared is not None else ()),
        ),
        refusals=(
            *_each_once([*data.refusals, *map(str, missing_texts(loaded))]),
            *_exhausted_kinds(sources),
            *_disk_refusals(disk),
        ),
    )


def _real_budget(recipe: Recipe, sources: tuple[SourcePlan, ...]) -> RealDataPlan | None:
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
    floors = sum(
        policy.floors.get(source.name, min(policy.floor, source.mean_share))
        for source in drawn
        if source.kind != "real"
    )
    ceilings = sum(policy.ceilings.get(source.name, 1.0) for source in drawn if source.kind == "real")
    return min(1.0 - floors, ceilings)


def _disk(recipe: Recipe, checkpoint: int, model: int, free: int | None) -> DiskPlan:
    num_checkpoints = -(-recipe.training.steps // recipe.checkpoint.every_steps)
    num_kept = min(recipe.checkpoint.keep, num_checkpoints)
    journal = recipe.training.steps * _JOURNAL_BYTES_PER_STEP
    while_saving = min(num_kept + 1, num_checkpoints)
    return DiskPlan(
        checkpoints_written=num_checkpoints,
        checkpoints_kept=num_kept,
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
        warnings.append(f"the {policy} policy never decides: the first evaluation comes after the last step")
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
    micro_batches = -(-batch // (ranks * recipe.training.micro_batch)) * ranks
    if batch % micro_batches:
        return [f"a batch of {batch} does not fill {micro_batches} micro-batches evenly: some are padded"]
    return []


def _each_once(refusals: list[str]) -> list[str]:
    """Without those that another tells too."""
    different = list(dict.fromkeys(refusals))
    return [text for text in different if not any(text != other and text in other for other in different)]


def _exhausted_kinds(sources: tuple[SourcePlan, ...]) -> list[str]:
    """Kinds whose sources are all capped and hold fewer samples than the run draws: it would stop before its end."""
    refusals = []
    for kind in ("real", "synthetic"):
        drawn = [source for source in sources if source.kind == kind and source.mean_share > 0]
        limits = [
            source.max_epochs * source.available_samples
            for source in drawn
            if source.max_epochs is not None and source.available_samples is not None
        ]
        samples_drawn = sum(source.samples for source in drawn)
        if drawn and len(limits) == len(drawn) and sum(limits) < samples_drawn:
            about = "about " if any(source.known_by == "estimate" for source in drawn) else ""
            refusals.append(
                f"the {kind} sources may give {about}{sum(limits):.0f} samples under mixture.max_epochs, "
                f"the run draws {samples_drawn}: raise the caps, lower the share, or train fewer steps"
            )
    return refusals


def _disk_refusals(disk: DiskPlan) -> list[str]:
    if disk.peak <= disk.free:
        return []
    return [
        f"the run folder grows to {disk.peak / 1e9:.1f} GB, {disk.free / 1e9:.1f} GB are free: "
        "keep fewer checkpoints, or name the space where it will run with --free-disk-gb"
    ]
