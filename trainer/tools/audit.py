"""Which samples a step used, and which steps used a sample.

Ids follow from seed and ledger alone, so an audit needs neither the model nor the data. Names and texts come from the
prepared store when it is available; and then ``batch_hash`` is predicted from it, which shows that what was trained on
is what the ledger says.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError
from trainer.data.account import QUARANTINE
from trainer.data.config import segment_name
from trainer.mixture import lookups
from trainer.tools.run_view import RunView, Slot

if TYPE_CHECKING:
    from trainer.data.store import PreparedData


_PLACE = ("id", "slice", "file", "line")  # what is known of every document, whatever the recipe keeps


def predicted_batch_hash(run: RunView, step: int, data: "PreparedData") -> int:
    """``batch_hash`` of a step from the ledger and the store alone."""
    from trainer.data.batch_hash import batch_hash

    stores = {
        (run.plan.sources.index(name), number): segment
        for name, source in data.sources.items()
        for number, segment in enumerate(source.segments)
    }
    return batch_hash(run.plan.batch(step), stores)


def uses_of(run: RunView, source: str, sample: int, segment: int = 0) -> Iterator[tuple[int, Slot]]:
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
                for slot in run.batch(step)
                if (slot.source, slot.segment, slot.sample) == (source, segment, sample)
            )


def hashes_agree(run: RunView, step: int) -> bool:
    """Whether what was trained on in a step is what ledger and store say; True where one of the two is not known."""
    data = run.prepared()
    if data is None or step not in run.batch_hash:
        return True
    return predicted_batch_hash(run, step, data) == run.batch_hash[step]


def show_step(run: RunView, step: int, *, as_json: bool) -> str:
    """The batch of a step as text or JSON: slots with their documents, and ``batch_hash`` as journaled and as the
    store predicts it.
    """
    slots, data = run.batch(step), run.prepared()
    rows = [_described(slot, data) for slot in slots]
    if as_json:
        batch_hash = run.batch_hash.get(step)
        predicted = predicted_batch_hash(run, step, data) if data else None
        hashes = {"batch_hash": batch_hash, "predicted_batch_hash": predicted}
        return json.dumps({"step": step, **hashes, "slots": rows})
    lines = [f"step {step}: {len(slots)} samples from slot {slots[0].slot}"]
    if step in run.batch_hash:
        lines.append(f"batch_hash as journaled  {run.batch_hash[step]}")
    if data:
        predicted = predicted_batch_hash(run, step, data)
        lines.append(f"batch_hash from the store {predicted}")
        if run.batch_hash.get(step, predicted) != predicted:
            lines.append("THEY DIFFER: this is not what was trained on; ledger, journal or data were changed since")
    for slot, facts in zip(slots, rows, strict=True):
        named = f"{segment_name(slot.source, slot.segment)}:{slot.sample}"
        lines.append(f"{slot.slot:>10}  rank {slot.rank}  {named}  segment {slot.segment}  epoch {slot.epoch}")
        lines += [f"{'':>12}{_in_words(document)}" for document in facts.get("documents", [])]
    return "\n".join(lines)


def show_sample(run: RunView, name: str, *, as_json: bool) -> str:
    """The steps that used SOURCE:ID, where ID is a sample's number or, where the store is available, a document's id.

    An id that is a number itself is written SOURCE:id=1984, a sample of a later segment SOURCE:SEGMENT:ID.
    """
    source, place, number = _parsed(run, name)
    if source not in run.plan.sources or not place:
        raise UserError(
            "a sample is named SOURCE:ID", got=name, remedy=f"Sources of this run: {', '.join(run.plan.sources)}"
        )
    data, documents = run.prepared(), list[tuple[int, int]]()
    if place.isdecimal():  # isdigit also takes superscripts, which are not a number
        samples = [(number or 0, int(place))]
    else:
        planned = {segment.segment for segment in run.plan.segments if segment.source == source}
        numbers = planned if number is None else {number}
        documents = _documents_of_id(data, source, numbers, place.removeprefix("id="))
        samples = _samples_of(data, source, documents)
    for segment, sample in samples:
        size = run.plan.segments[lookups.segment_index(run.plan, source, segment)].num_samples
        if sample >= size:
            raise UserError(f"{segment_name(source, segment)} has samples 0 to {size - 1}", got=place)
    uses = [(step, slot) for segment, sample in samples for step, slot in uses_of(run, source, sample, segment)]
    if as_json:
        rows = [{"step": step, **_described(slot, data)} for step, slot in uses]
        return json.dumps({"sample": name, "places": _places(data, source, documents), "uses": rows})
    shown = ", ".join(f"{segment}:{sample}" if segment else str(sample) for segment, sample in samples)
    lines = [f"{name}: used {len(uses)} times in {run.last_step} steps (samples {shown})"]
    if len(documents) > 1:
        lines.append(f"  {len(documents)} documents have this id: {', '.join(_places(data, source, documents))}")
    lines += [
        f"  step {step}  slot {slot.slot}  rank {slot.rank}  sample {slot.sample}  epoch {slot.epoch}"
        for step, slot in uses
    ]
    if data:
        segment, sample = samples[0]
        for document in _documents_in(data, source, segment, sample):
            lines.append(f"  sample {sample} holds {_in_words(document)}")
        lines += [f"  | {text[:160]}" for text in data.document_texts(source, sample, segment)[:3]]
    return "\n".join(lines)


def _parsed(run: RunView, name: str) -> tuple[str, str, int | None]:
    """Source, sample or document, and segment that SOURCE:ID or SOURCE:SEGMENT:ID names, None where it names none. A
    number and a colon name a segment only where there is one of that number: documents without an id of their own are
    called FILE:LINE.
    """
    source, _, sample = name.partition(":")
    number, colon, rest = sample.partition(":")
    numbers = {str(segment.segment): segment.segment for segment in run.plan.segments if segment.source == source}
    return (source, rest, numbers[number]) if colon and rest and number in numbers else (source, sample, None)


def _described(slot: Slot, data: "PreparedData | None") -> dict[str, Any]:
    """A slot for JSON; where the store is available, with the documents in its sample."""
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


def _documents_of_id(
    data: "PreparedData | None", source: str, numbers: Collection[int], document_id: str
) -> list[tuple[int, int]]:
    """(segment, document) of every document with this id in these segments: ids come from the user's data, and nothing
    keeps them apart.
    """
    if data is None:
        raise UserError(
            "a document is found by its id only where the prepared store is available",
            got=document_id,
            remedy="Give the sample's number",
        )
    segments = data.sources[source].segments
    documents = [
        (place, document)
        for place, segment in enumerate(segments)
        if place in numbers
        for document, name in enumerate(segment.document_ids())
        if name == document_id
    ]
    if not documents:
        names = [segment_name(source, number) for number in sorted(numbers)]
        raise UserError(
            f"{', '.join(names)} has no document with this id: {_why_none(data, names, document_id)}", got=document_id
        )
    return documents


def _why_none(data: "PreparedData", names: Collection[str], document_id: str) -> str:
    """Why no document of these segments has the id, as far as the store tells."""
    for part, held_out in (("validation", data.validation), ("test", data.test)):
        if document_id in held_out.ids:
            return f"one is held out ({part}): never drawn"
    with (data.folder / QUARANTINE).open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["source"] in names and document_id == f"{row['file']}:{row['line']}":
                return f"dropped as malformed: {row['reason']}"
    unlisted = "a row that was a copy of a held-out document, left out by the recipe, or empty is not listed"
    return f"no such document was trained on, held out or malformed ({unlisted})"


def _samples_of(data: "PreparedData | None", source: str, documents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(segment, sample) of every sample that holds a token of the documents, each once."""
    assert data is not None
    segments = data.sources[source].segments
    samples = ((number, sample) for number, document in documents for sample in segments[number].samples_of(document))
    return list(dict.fromkeys(samples))


def _places(data: "PreparedData | None", source: str, documents: list[tuple[int, int]]) -> list[str]:
    """FILE:LINE of each document."""
    if data is None:
        return []
    facts = [data.sources[source].segments[number].describe(document) for number, document in documents]
    return [f"{fact['file']}:{fact['line']}" for fact in facts]
