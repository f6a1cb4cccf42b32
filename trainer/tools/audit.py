"""Looking back at a run from its folder: what a batch held, where a sample was used, how good a checkpoint is.

Ids follow from seed and ledger alone, so an audit needs neither the model nor the data. Names and texts come from the
prepared store when it is at hand; and then ``batch_hash`` is predicted from it, which proves that what was trained on
is what the ledger says.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.base.errors import UserError
from trainer.base.json_values import jsonable
from trainer.data.config import segment_name
from trainer.mixture import lookups
from trainer.mixture.draw import Batch
from trainer.mixture.ledger import Ledger, Topology, from_record
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.recipe import Recipe, load_recipe
from trainer.tracking.journal import read
from trainer.tracking.schema import StartLine, StepLine, read_journal
from trainer.training import checkpoint

if TYPE_CHECKING:
    from trainer.data.store import PreparedData


_PLACE = ("id", "slice", "file", "line")  # what is known of every document, whatever the recipe keeps


@dataclass(frozen=True)
class Slot:
    """One sample of a batch: where it stood and which it was."""

    slot: int
    source: str
    segment: int
    epoch: int
    sample: int
    rank: int


@dataclass(frozen=True)
class RunFolder:
    """What a run folder says about the data of the run."""

    folder: Path
    recipe: Recipe
    plan: Plan
    topologies: tuple[Topology, ...]
    last_step: int
    batch_hash: dict[int, int]  # by step, as journalled
    store: Path | None

    def prepared(self) -> "PreparedData | None":
        """The prepared store, when it is still there."""
        from trainer.data.store import is_complete, open_prepared

        return open_prepared(self.store) if self.store is not None and is_complete(self.store) else None


def open_run(folder: Path) -> RunFolder:
    """Read a run folder; ``UserError`` when it is none."""
    if not (folder / "ledger.jsonl").is_file() or not (folder / "recipe.yaml").is_file():
        raise UserError(
            "this is no run folder: ledger.jsonl and recipe.yaml are missing",
            got=str(folder),
            remedy="Give the folder of a run",
        )
    recipe = load_recipe(folder / "recipe.yaml", [], on_this_machine=False).recipe
    facts = [from_record(record) for record in read(folder / "ledger.jsonl")]
    plan = Plan(recipe.seed, Ledger(facts))
    batch_hash, store = {}, None
    for line in read_journal(folder / "journal.jsonl"):
        if isinstance(line, StepLine):
            batch_hash[line.step] = int(line.batch_hash)
        elif isinstance(line, StartLine) and line.store is not None:
            store = Path(line.store)
    return RunFolder(
        folder=folder,
        recipe=recipe,
        plan=plan,
        topologies=tuple(fact for fact in facts if isinstance(fact, Topology)),
        last_step=max(batch_hash, default=0),
        batch_hash=batch_hash,
        store=store,
    )


def slots_of(run: RunFolder, step: int) -> list[Slot]:
    """The samples of a step's batch, in slot order."""
    _check_step(run, step)
    batch = run.plan.batch(step)
    ranks = _ranks(run, batch)
    columns = (batch.source, batch.segment, batch.epoch, batch.sample, ranks)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Slot(batch.first_slot + i, run.plan.sources[source], segment, epoch, sample, rank)
        for i, (source, segment, epoch, sample, rank) in enumerate(rows)
    ]


def predicted_batch_hash(run: RunFolder, step: int, data: "PreparedData") -> int:
    """``batch_hash`` of a step from the ledger and the store alone."""
    from trainer.data.loader import batch_hash

    stores = {
        (run.plan.sources.index(name), number): segment
        for name, source in data.sources.items()
        for number, segment in enumerate(source.segments)
    }
    return batch_hash(run.plan.batch(step), stores)


def uses_of(run: RunFolder, source: str, sample: int, segment: int = 0) -> Iterator[tuple[int, Slot]]:
    """Steps that used a sample, with its slot, in order: one search per epoch, from the nearest snapshot."""
    plan = run.plan
    index = lookups.segment_index(plan, source, segment)
    size, drawn = plan.segments[index].num_samples, int(plan.state(run.last_step + 1).cursors[index])
    for epoch in range(-(-drawn // size)):
        place = epoch * size + lookups.place_in_epoch(plan, index, epoch, sample)
        if place < drawn:
            step = lookups.step_that_draws(plan, index, place)
            yield from (
                (step, slot)
                for slot in slots_of(run, step)
                if (slot.source, slot.segment, slot.sample) == (source, segment, sample)
            )


def show_step(run: RunFolder, step: int, *, as_json: bool) -> str:
    """The batch of a step as text or JSON: slots with their documents, and ``batch_hash`` as journalled and as the
    store predicts it.
    """
    slots, data = slots_of(run, step), run.prepared()
    told = [_told(slot, data) for slot in slots]
    if as_json:
        batch_hash = run.batch_hash.get(step)
        predicted = predicted_batch_hash(run, step, data) if data else None
        return json.dumps({"step": step, "batch_hash": batch_hash, "predicted_batch_hash": predicted, "slots": told})
    lines = [f"step {step}: {len(slots)} samples from slot {slots[0].slot}"]
    if step in run.batch_hash:
        lines.append(f"fed as journalled  {run.batch_hash[step]}")
    if data:
        lines.append(f"fed from the store {predicted_batch_hash(run, step, data)}")
    for slot, facts in zip(slots, told, strict=True):
        named = f"{segment_name(slot.source, slot.segment)}:{slot.sample}"
        lines.append(f"{slot.slot:>10}  rank {slot.rank}  {named}  segment {slot.segment}  epoch {slot.epoch}")
        lines += [f"{'':>12}{_in_words(document)}" for document in facts.get("documents", [])]
    return "\n".join(lines)


def show_sample(run: RunFolder, name: str, *, as_json: bool) -> str:
    """The steps that used SOURCE:ID, where ID is a sample's number or (with the store at hand) a document's id; an id
    that is a number itself is written SOURCE:id=1984. A sample of another segment than the first is SOURCE:SEGMENT:ID.
    """
    source, wanted, segment = _asked(run, name)
    if source not in run.plan.sources or not wanted:
        raise UserError(
            "a sample is named SOURCE:ID", got=name, remedy=f"Sources of this run: {', '.join(run.plan.sources)}"
        )
    data = run.prepared()
    is_number = wanted.isdecimal()  # isdigit also takes superscripts, which are no number
    samples = [int(wanted)] if is_number else _samples_of_document(data, source, segment, wanted.removeprefix("id="))
    size = run.plan.segments[lookups.segment_index(run.plan, source, segment)].num_samples
    if max(samples) >= size:
        raise UserError(f"{segment_name(source, segment)} has samples 0 to {size - 1}", got=wanted)
    uses = [(step, slot) for sample in samples for step, slot in uses_of(run, source, sample, segment)]
    if as_json:
        told = [{"step": step, **_told(slot, data)} for step, slot in uses]
        return json.dumps({"sample": name, "uses": told})
    lines = [f"{name}: used {len(uses)} times in {run.last_step} steps (samples {', '.join(map(str, samples))})"]
    lines += [
        f"  step {step}  slot {slot.slot}  rank {slot.rank}  sample {slot.sample}  epoch {slot.epoch}"
        for step, slot in uses
    ]
    if data:
        for document in _documents_in(data, source, segment, samples[0]):
            lines.append(f"  sample {samples[0]} holds {_in_words(document)}")
        lines += [f"  | {text[:160]}" for text in data.document_texts(source, samples[0], segment)[:3]]
    return "\n".join(lines)


def _asked(run: RunFolder, name: str) -> tuple[str, str, int]:
    """Source, sample or document, and segment that SOURCE:ID or SOURCE:SEGMENT:ID names. A number and a colon name a
    segment only where there is one of that number: documents without an id of their own are called FILE:LINE.
    """
    source, _, wanted = name.partition(":")
    number, colon, rest = wanted.partition(":")
    known = {str(segment.segment): segment.segment for segment in run.plan.segments if segment.source == source}
    return (source, rest, known[number]) if colon and rest and number in known else (source, wanted, 0)


def _told(slot: Slot, data: "PreparedData | None") -> dict[str, Any]:
    """A slot for JSON; with the store at hand, with the documents in its sample."""
    if data is None:
        return asdict(slot)
    return {**asdict(slot), "documents": _documents_in(data, slot.source, slot.segment, slot.sample)}


def _documents_in(data: "PreparedData", source: str, segment: int, sample: int) -> list[dict[str, Any]]:
    """What is kept about each document in a sample: id, slice, file, line, and the provenance columns."""
    part = data.sources[source].segments[segment]
    return [part.describe(ref.document) for ref in part.documents(sample)]


def _in_words(document: dict[str, Any]) -> str:
    """A document's id, and its provenance columns."""
    columns = [f"{name}={value}" for name, value in document.items() if name not in _PLACE]
    return f"{document['id']}  {', '.join(columns)}".rstrip()


def held_out_figures(folder: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """Held-out figures of the newest whole checkpoint on both parts, computed now; ``warn`` names damaged ones."""
    from trainer.data.store import open_prepared
    from trainer.engines import open_evaluation_engine
    from trainer.evaluate.held_out import evaluator_of_all, summary
    from trainer.model.build import build_model
    from trainer.runs.build import held_out_text

    run = open_run(folder)
    if run.store is None:
        raise UserError("the journal does not say where the prepared data are", file=folder / "journal.jsonl")
    data = open_prepared(run.store)
    saved = checkpoint.latest(folder / "checkpoints", warn=warn)
    if saved is None:
        raise UserError(f"{folder} holds no checkpoint yet", remedy=f"Train first: trainer fit RECIPE --run {folder}")
    model = build_model(
        run.recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        sequence_length=data.sequence_length,
        seed=run.recipe.seed,
    )
    engine = open_evaluation_engine(model, run.recipe.training)
    engine.restore(saved.folder)
    figures: dict[str, Any] = {"step": saved.step}
    for name, part in (("validation", data.validation), ("test", data.test)):
        evaluator = evaluator_of_all(held_out_text(run.recipe, data, part))
        figures[name] = jsonable(summary(evaluator.evaluate(engine, step=saved.step, live={})))
    return figures


def show_held_out(figures: dict[str, Any]) -> str:
    """Held-out figures as a table a person reads: both parts, then the slices, worst first."""
    lines = [f"after step {figures['step']}: loss in nats per token ± standard error, bits per byte, documents"]
    for part in ("validation", "test"):
        found = figures[part]
        error = f" ± {found['standard_error']:.4f}" if found["standard_error"] is not None else ""
        lines.append(
            f"{part:<8}{found['nats_per_token']:.4f}{error}   {found['bits_per_byte']:.4f}   "
            f"{found['documents']} documents"
        )
        by_loss = sorted(found["slices"].items(), key=lambda item: -float(item[1]["bits_per_byte"]))
        lines += [
            f"  {slice_['bits_per_byte']:.4f} bits per byte  {name} ({slice_['documents']})" for name, slice_ in by_loss
        ]
    return "\n".join(lines)


def _samples_of_document(data: "PreparedData | None", source: str, number: int, document_id: str) -> list[int]:
    if data is None:
        raise UserError(
            "a document is found by its id only with the prepared store at hand",
            got=document_id,
            remedy="Give the sample's number",
        )
    segment = data.sources[source].segments[number]
    for document in range(segment.num_documents):
        if str(segment.describe(document)["id"]) == document_id:
            start, end = segment.document_span(document)
            return list(range(start // segment.sequence_length, (end - 1) // segment.sequence_length + 1))
    raise UserError(f"{segment_name(source, number)} has no document with this id", got=document_id)


def _check_step(run: RunFolder, step: int) -> None:
    if not 1 <= step <= run.last_step:
        raise UserError(f"{run.folder} has steps 1 to {run.last_step}", got=step)


def _ranks(run: RunFolder, batch: Batch) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Which rank trained on each slot, under the topology in force."""
    topology = [fact for fact in run.topologies if fact.step <= batch.step][-1]
    ranks = np.zeros(len(batch.source), dtype=np.int64)
    for rank in range(topology.world_size):
        for cell in RankPartition(
            rank=rank, world_size=topology.world_size, micro_batch=topology.micro_batch
        ).positions(len(ranks)):
            ranks[cell] = rank
    return ranks
