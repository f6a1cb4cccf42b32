"""The one assembly of a run: from its settings, devices, data and journal, for a recipe or for a user's own module."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.base.failures import warn
from trainer.base.records import IntArray, SourceValue
from trainer.control.controller import forgetting_from, gradient_alignment_from, source_value_from
from trainer.control.priced.real_budget import least_capped
from trainer.data.config import segment_name
from trainer.evaluate.eval_batches import HeldOutText, Part
from trainer.evaluate.evidence.measurement import FORGETTING, GRADIENT_ALIGNMENT, SOURCE_VALUE, MeasuredRun
from trainer.evaluate.held_out import Evaluator, plan_validation
from trainer.evaluate.measurements import plan_measurements
from trainer.evaluate.ports import Devices, Ranks
from trainer.mixture.ledger import Fact
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.model.probes import check_ids
from trainer.recipe import Recipe
from trainer.runs.guard_notice import Sight, blindness
from trainer.tracking.journal import JournalWriter
from trainer.training.rate_jump import RateChange, rates_of
from trainer.training.run import Rounds, Run, RunData, RunIO, RunSettings, RunState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.data.loader import Stream
    from trainer.data.store import PreparedData, PreparedSegment
    from trainer.runs.resume import RecordedLedger


AddSegment = Callable[[str, int, "PreparedSegment"], None]


def build_run(
    settings: RunSettings,
    devices: Devices,
    data: RunData,
    *,
    ledger: "RecordedLedger",
    journal: JournalWriter,
    folder: Path,
    stop_requested: Callable[[], bool],
) -> Run:
    """The run of these parts; every rank builds its own."""
    io = RunIO(
        folder=folder,
        journal=journal,
        sync_ledger=ledger.sync,
        stop_requested=stop_requested,
        warn=warn if devices.is_main else lambda _text: None,
    )
    return Run(settings=settings, devices=devices, data=data, io=io)


def build_language_model(recipe: Recipe, data: "PreparedData") -> "PreTrainedModel":
    """The recipe's model, for the vocabulary of the prepared data. ``UserError`` where they hold an id that it has no
    row for.
    """
    from trainer.model.build import build_model

    model = build_model(
        recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        begin_of_document=data.begin_of_document,
        sequence_length=data.sequence_length,
        seed=recipe.seed,
    )
    embedding: Any = model.get_input_embeddings()
    if data.vocabulary_size > (rows := int(embedding.weight.shape[0])):  # else every id fits
        for place, largest in _largest_ids(data).items():
            check_ids(rows, largest_id=largest, token=data.token(largest), place=place)
    return model


def _largest_ids(data: "PreparedData") -> dict[str, int]:
    """The largest id that occurs in each part of the prepared data, as the preparation counted it."""
    largest = {"the validation part": data.validation.largest_id, "the test part": data.test.largest_id}
    for name, segments in data.segments.items():
        largest[f"source {name}"] = max(segment.largest_id for segment in segments)
    return largest


def recipe_settings(recipe: Recipe, *, replays: bool, rate_change: RateChange | None = None) -> RunSettings:
    """The settings of a recipe's run."""
    return RunSettings(
        seed=recipe.seed,
        num_steps=recipe.training.steps,
        evaluation=recipe.evaluation,
        control=recipe.control,
        checkpoint=recipe.checkpoint,
        rates=rates_of(recipe.training, rate_change),
        max_epochs=recipe.mixture.max_epochs,
        replays=replays,
    )


def recipe_data(
    recipe: Recipe,
    data: "PreparedData",
    devices: Devices,
    *,
    ledger: "RecordedLedger",
    state: RunState,
    scheduled_facts: Mapping[int, Sequence[Fact]],
    replays: bool,
    open_rounds: "Callable[[AddSegment], Rounds] | None" = None,
) -> RunData:
    """The data of a recipe's run from ``state`` on; nothing is measured where decisions are replayed.

    ``open_rounds`` is given what makes a segment known that is made in the run.
    """
    plan = Plan(recipe.seed, ledger)
    text = held_out_text(recipe, data, data.validation)
    run = measured_run(recipe, sequence_length=data.sequence_length, data=data)
    segments = {name: list(of_source) for name, of_source in data.segments.items()}  # grow where a run makes its own
    evaluator = _evaluator(recipe, data, text, state.documents, segments)
    if devices.is_main and not replays:
        settings, num_steps = recipe.control.guard, recipe.training.steps
        sight = Sight(documents=len(evaluator.documents), held_out=len(data.validation.offsets) - 1)
        if blind := blindness(settings, recipe.evaluation, num_steps=num_steps, sight=sight):
            warn(blind)
    stream = open_stream(
        recipe,
        data,
        plan,
        devices,
        step=state.step + 1,
        replays=replays,
        pin_memory=devices.device.type == "cuda",
    )
    slice_tokens = {
        (name, number): segment.slice_tokens
        for name, of_source in segments.items()
        for number, segment in enumerate(of_source)
    }

    def add_segment(source: str, number: int, segment: "PreparedSegment") -> None:
        if number == len(segments[source]):  # else it was there already
            segments[source].append(segment)
            slice_tokens[source, number] = segment.slice_tokens
            stream.add_store(source, number, segment)

    return RunData(
        plan=plan,
        stream=stream,
        evaluator=evaluator,
        measurements={} if replays else plan_measurements(run, text=text, sources=segments),
        scheduled_facts=scheduled_facts,
        prior_values=prior_values(data),
        slice_tokens=slice_tokens,
        rounds=None if open_rounds is None else open_rounds(add_segment),
    )


def prior_values(data: "PreparedData") -> dict[tuple[str, int], SourceValue]:
    """What the segments of prepared data are worth before the run, by source and number; of those of which it is
    known.
    """
    known = data.prior_values
    return {
        (name, number): SourceValue(value=value.mean, standard_error=value.error, num_samples=0)
        for name, segments in data.segments.items()
        for number in range(len(segments))
        if (value := known.get(segment_name(name, number))) is not None
    }


def held_out_text(recipe: Recipe, data: "PreparedData", part: Part) -> HeldOutText:
    """A held-out part as the recipe evaluates it."""
    return HeldOutText(
        part=part,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        begins=data.begin_of_document is not None,
        batch_rows=recipe.evaluation.micro_batch,
    )


def measured_run(recipe: Recipe, *, sequence_length: int, data: "PreparedData | None" = None) -> MeasuredRun:
    """What the measurements of a recipe's run follow from; ``measurement_costs`` of it is what they cost.

    Prepared ``data`` know of sources called real that were taken for synthetic.
    """
    kinds = recipe.kinds
    if data is not None:
        kinds = {**kinds, **{name: source.kind for name, source in data.sources.items()}}
    needed = {
        SOURCE_VALUE: source_value_from(recipe.control),
        GRADIENT_ALIGNMENT: gradient_alignment_from(recipe.control),
        FORGETTING: forgetting_from(recipe.control, least_capped(kinds, recipe.mixture.max_epochs)),
    }
    return MeasuredRun(
        evaluation=recipe.evaluation,
        kinds=kinds,
        needed_from={kind: progress for kind, progress in needed.items() if progress is not None},
        num_steps=recipe.training.steps,
        global_batch=recipe.mixture.global_batch,
        sequence_length=sequence_length,
    )


def open_stream(
    recipe: Recipe,
    data: "PreparedData",
    plan: Plan,
    ranks: Ranks,
    *,
    step: int,
    replays: bool,
    pin_memory: bool = False,
) -> "Stream":
    """This rank's batches of a recipe's run, from ``step`` on."""
    from trainer.data.loader import Stream

    return Stream(
        plan,
        {(name, n): segment for name, segments in data.segments.items() for n, segment in enumerate(segments)},
        state=plan.state(step),
        partition=RankPartition(rank=ranks.rank, world_size=ranks.world_size, micro_batch=recipe.training.micro_batch),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
        max_epochs={} if replays else recipe.mixture.max_epochs,
        pin_memory=pin_memory,
    )


def planned_validation(recipe: Recipe, data: "PreparedData") -> IntArray:
    """The documents that a recipe's run evaluates. ``UserError`` where it names more than there are."""
    return plan_validation(
        data.validation,
        recipe.evaluation,
        interval_tokens=recipe.mixture.global_batch * data.sequence_length * recipe.evaluation.every_steps,
        seed=recipe.seed,
        num_sources=len(recipe.kinds),
        sequence_length=data.sequence_length,
    )


def _evaluator(
    recipe: Recipe,
    data: "PreparedData",
    text: HeldOutText,
    documents_before: Sequence[int] | None,
    segments: Mapping[str, Sequence["PreparedSegment"]],
) -> Evaluator:
    """What is evaluated; the documents that the run started with, however large its batches are now."""
    documents = planned_validation(recipe, data)
    return Evaluator(
        text=text,
        documents=documents if documents_before is None else np.array(documents_before, dtype=np.int64),
        sources=segments,
        source_samples=recipe.evaluation.source_samples,
    )
