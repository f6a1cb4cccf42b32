"""Assembly: the parts of a run, built from a recipe and its prepared data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.base.failures import warn
from trainer.base.records import Alignment, Forgetting, SourceValue
from trainer.control.controller import forgetting_from, gradient_alignment_from, source_value_from
from trainer.control.priced.real_budget import least_capped
from trainer.evaluate.evidence.forgetting import PART_OF_EVIDENCE, TokenForgetting, forgetting_sized, forgetting_times
from trainer.evaluate.evidence.gradient_alignment import TokenAlignment
from trainer.evaluate.evidence.gradient_alignment import sized as alignment_samples
from trainer.evaluate.evidence.source_value import SourceValueCounts, TokenSourceValue, held_out_samples, sized
from trainer.evaluate.held_out import Reader, plan_validation
from trainer.evaluate.ports import Engine
from trainer.evaluate.schedule import times
from trainer.mixture.ledger import Fact
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.recipe import LoadedRecipe, Recipe
from trainer.tracking.journal import JournalWriter
from trainer.training.run import MeasurePlan, Run, RunState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.data.store import PreparedData
    from trainer.runs.resume import RecordedLedger


def build_language_model(recipe: Recipe, data: "PreparedData") -> "PreTrainedModel":
    """The recipe's model, for the vocabulary of the prepared data."""
    from trainer.model.build import build_model

    return build_model(
        recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        sequence_length=data.sequence_length,
        seed=recipe.seed,
    )


def assemble(  # noqa: PLR0913 - the parts of a run, each made elsewhere
    loaded: LoadedRecipe,
    data: "PreparedData",
    engine: Engine,
    *,
    ledger: "RecordedLedger",
    journal: JournalWriter,
    folder: Path,
    state: RunState,
    ahead: Mapping[int, Sequence[Fact]],
    replays: bool,
    stop_requested: Callable[[], bool],
) -> Run:
    """The parts put together, for ``state`` on; every rank gets its own."""
    from trainer.data.loader import Stream

    recipe = loaded.recipe
    plan = Plan(recipe.seed, ledger)
    interval_tokens = recipe.mixture.global_batch * data.sequence_length * recipe.evaluation.every_steps
    segments = {(name, n): segment for name, parts in data.segments.items() for n, segment in enumerate(parts)}
    stream = Stream(
        plan,
        segments,
        state=plan.state(state.step + 1),
        partition=RankPartition(
            rank=engine.rank, world_size=engine.world_size, micro_batch=recipe.training.micro_batch
        ),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
        max_epochs={} if replays else recipe.mixture.max_epochs,
        pin_memory=engine.device.type == "cuda",
    )
    reader = _reader(recipe, data, interval_tokens, state.documents)
    if engine.is_main and not replays:
        _warn_of_a_blind_guard(recipe, len(reader.documents))
    return Run(
        seed=recipe.seed,
        num_steps=recipe.training.steps,
        rates=recipe.training.rates(),
        max_epochs=recipe.mixture.max_epochs,
        evaluation=recipe.evaluation,
        control=recipe.control,
        checkpoint=recipe.checkpoint,
        folder=folder,
        engine=engine,
        stream=stream,
        plan=plan,
        ledger=ledger,
        journal=journal,
        reader=reader,
        slice_tokens={place: segment.slice_tokens for place, segment in segments.items()},
        source_value=None if replays else source_value_plan(recipe, data),
        alignment=None if replays else alignment_plan(recipe, data),
        forgetting=None if replays else forgetting_plan(recipe, data),
        ahead=ahead,
        replays=replays,
        stop_requested=stop_requested,
        ledger_offset=ledger.sync,
        warn=warn if engine.is_main else lambda _text: None,
    )


def _warn_of_a_blind_guard(recipe: Recipe, num_documents: int) -> None:
    guard, evaluations = recipe.control.guard, (recipe.training.steps - 1) // recipe.evaluation.every_steps
    blind = "the guard will not judge held-out loss"
    if guard.enabled and num_documents < guard.min_documents:
        warn(f"{blind}: {num_documents} documents are read, it needs {guard.min_documents}")
    elif guard.enabled and evaluations < guard.advanced.min_evaluations:
        warn(f"{blind}: the run has {evaluations} evaluations, it needs {guard.advanced.min_evaluations}")


def _reader(
    recipe: Recipe, data: "PreparedData", interval_tokens: int, documents_before: Sequence[int] | None
) -> Reader:
    """What is read at each reading; the documents that the run began with, however large its batches are now."""
    documents = plan_validation(
        data.validation,
        recipe.evaluation,
        interval_tokens=interval_tokens,
        seed=recipe.seed,
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
    )
    return Reader(
        part=data.validation,
        documents=documents if documents_before is None else np.array(documents_before, dtype=np.int64),
        sources=data.segments,
        source_samples=recipe.evaluation.source_samples,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        document_batch=recipe.evaluation.micro_batch,
    )


def alignment_plan(recipe: Recipe, data: "PreparedData") -> MeasurePlan[Alignment] | None:
    """How many samples are measured for the alignment of the sources, and when; None when nobody asks for it."""
    config, steps = recipe.evaluation.alignment, recipe.training.steps
    when = times(
        config.enabled,
        gradient_alignment_from(recipe.control),
        until=1.0,
        num_steps=steps,
        every_steps=config.every_evaluations * recipe.evaluation.every_steps,
    )
    if when is None:
        return None
    num_samples = alignment_samples(
        config,
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
        interval_tokens=recipe.mixture.global_batch * data.sequence_length * when.every_steps,
    )
    measure = TokenAlignment(
        part=data.validation,
        sources=data.segments,
        num_samples=num_samples,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
    )
    measure.held_out(step=0)  # a validation part that is too small is an error now, not at the first measurement
    return MeasurePlan(measure=measure, times=when)


def source_value_plan(recipe: Recipe, data: "PreparedData") -> MeasurePlan[SourceValue] | None:
    """How much is measured for the worth of the sources, and when; None when nobody asks for it.

    What the budget of the whole run allows is spent on the few measurements that can still change something.
    """
    config, steps = recipe.evaluation.source_value, recipe.training.steps
    when = times(
        config.enabled,
        source_value_from(recipe.control),
        until=config.until,
        num_steps=steps,
        every_steps=config.every_evaluations * recipe.evaluation.every_steps,
    )
    if when is None:
        return None
    kept = 1.0 if _forgetting_from(recipe) is None else 1 - PART_OF_EVIDENCE
    counts = sized(
        config.model_copy(update={"max_compute_share": kept * config.max_compute_share}),
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
        interval_tokens=recipe.mixture.global_batch * data.sequence_length * steps // when.count,
    )
    _require_enough(recipe, data, counts)
    measure = TokenSourceValue(
        part=data.validation,
        sources=data.segments,
        counts=counts,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        batch_rows=recipe.evaluation.micro_batch,
    )
    return MeasurePlan(measure=measure, times=when)


def forgetting_plan(recipe: Recipe, data: "PreparedData") -> MeasurePlan[Forgetting] | None:
    """How much is measured of how fast the model forgets, and when; None when nobody asks for it."""
    config, steps = recipe.evaluation.source_value, recipe.training.steps
    when = forgetting_times(
        config, _forgetting_from(recipe), num_steps=steps, every_steps=recipe.evaluation.every_steps
    )
    if when is None:
        return None
    counts = forgetting_sized(
        config,
        sequence_length=data.sequence_length,
        interval_tokens=recipe.mixture.global_batch * data.sequence_length * steps // when.count,
    )
    _require_enough(recipe, data, counts)
    measure = TokenForgetting(
        part=data.validation,
        sources=data.segments,
        taught=[name for name, source in recipe.data.sources.items() if source.kind == "synthetic"],
        counts=counts,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        batch_rows=recipe.evaluation.micro_batch,
    )
    return MeasurePlan(measure=measure, times=when)


def _require_enough(recipe: Recipe, data: "PreparedData", counts: SourceValueCounts) -> None:
    """A validation part that is too small is an error now, not at the first measurement."""
    held_out_samples(
        data.validation,
        counts,
        step=0,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
    )


def _forgetting_from(recipe: Recipe) -> float | None:
    """Progress from which it is asked for."""
    kinds = {name: source.kind for name, source in recipe.data.sources.items()}
    return forgetting_from(recipe.control, least_capped(kinds, recipe.mixture.max_epochs))
