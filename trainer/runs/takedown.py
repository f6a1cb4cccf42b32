"""A takedown in a run: from the next step on it draws nothing that was taken down.

A segment cannot lose samples, for the past must stay what it was. So one that holds a document which is taken down
retires, and the same segment without it joins from that step on, both as facts of the ledger. What is asked for stands
in ``RUN/takedown``, one file for each request; the segments that joined lie beside it. A run takes requests when it
starts or resumes: from its checkpoint's next step on.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.atomic import write_text
from trainer.base.errors import RunFolderError, UserError
from trainer.base.failures import say
from trainer.base.records import Kind
from trainer.evaluate.ports import Devices
from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Ledger, Retire, Segment, Shares, made_sources
from trainer.mixture.plan import Plan
from trainer.mixture.shares import without
from trainer.tracking.schema import StartLine, read_journal

if TYPE_CHECKING:
    from trainer.data.store import PreparedData, PreparedSegment

FOLDER, _REQUEST, _REPLACES = "takedown", "request-", "replaces.json"
Name = tuple[str | None, str]  # a source (None: any that is synthetic) and a document's id in it


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """A segment that retires, and what joins in its place; ``fingerprint`` None where nothing of it is left."""

    source: str
    segment: int
    fingerprint: str | None
    num_samples: int


def request(run: Path, what: str, names: Iterable[Name]) -> None:
    """Asks the run to draw these documents no more; on the disk when this returns."""
    content = json.dumps({"what": what, "documents": sorted(names, key=str)})
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    write_text(run / FOLDER / f"{_REQUEST}{name}.json", content)


def requested(run: Path) -> frozenset[Name]:
    """All documents that the run is asked to draw no more."""
    files = sorted((run / FOLDER).glob(f"{_REQUEST}*.json"))
    return frozenset((source, name) for file in files for source, name in _read(file)["documents"])


def store_before(run: Path) -> Path | None:
    """The prepared data that a run with takedowns began with, whose segments it goes on from; None for other runs.

    A preparation of today leaves out what is taken down: it would be other data.
    """
    if not requested(run):
        return None
    journal = run / "journal.jsonl"
    lines = read_journal(journal) if journal.is_file() else ()
    stores = [Path(line.store) for line in lines if isinstance(line, StartLine) and line.store is not None]
    if not stores:
        return None  # it has not begun
    if not stores[-1].is_dir():
        remedy = "Bring it back, or start a new run in another --run folder: it begins without what was taken down"
        raise RunFolderError("the data that this run began with are gone", file=stores[-1], remedy=remedy)
    return stores[-1]


def replacements(run: Path) -> dict[str, Replacement]:
    """What has been written to take the place of a segment, by the name of its folder."""
    files = sorted((run / FOLDER).glob(f"*/{_REPLACES}"))
    return {file.parent.name: Replacement(**_read(file)) for file in files}


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunFolderError("a takedown of this run is damaged", file=file, remedy="Ask for it again") from error


def replacement_folder(run: Path, fingerprint: str) -> Path | None:
    """Where the segment of this fingerprint lies, if it took the place of another."""
    known = replacements(run)
    return next((run / FOLDER / name for name, one in known.items() if one.fingerprint == fingerprint), None)


def with_replacements(data: "PreparedData", run: Path, facts: Iterable[Fact], *, check: bool = True) -> "PreparedData":
    """``data`` with the segments of its sources that joined in the place of others, in the ledger's order."""
    from trainer.data.made_segment import open_made_segment

    sources = dict(data.sources)
    for fact in facts:
        if isinstance(fact, Segment) and fact.source in sources:
            folder = replacement_folder(run, fact.fingerprint)
            if folder is not None and fact.segment == len(sources[fact.source].segments):
                joined = open_made_segment(folder, data, check=check)
                source = sources[fact.source]
                sources[fact.source] = replace(source, segments=(*source.segments, joined))
    return replace(data, sources=sources)


def without_replacements(run: Path, facts: Sequence[Fact]) -> list[Fact]:
    """The facts as they were without takedowns: what joined in the place of a segment counts as that segment."""
    known = replacements(run).values()
    replaced = {(one.source, one.segment) for one in known}
    of_fingerprint = {(one.source, one.fingerprint): one.segment for one in known}
    first: dict[tuple[str, int], int] = {}  # of what joined in its place, the segment that the recipe knows
    kept: list[Fact] = []
    for fact in facts:
        if isinstance(fact, Segment) and (before := of_fingerprint.get((fact.source, fact.fingerprint))) is not None:
            first[fact.source, fact.segment] = first.get((fact.source, before), before)
        elif isinstance(fact, Retire):
            place = fact.source, fact.segment
            if place not in replaced:
                kept.append(replace(fact, segment=first.get(place, fact.segment)))
        else:
            kept.append(fact)
    return kept


def take_out(
    data: "PreparedData", run: Path, ledger: Ledger, devices: Devices, *, seed: int, step: int
) -> Sequence[Fact]:
    """(all) Lets the segments retire that hold what the run is asked to draw no more, and those without it join, both
    from batch ``step`` on; the facts that say so. ``UserError`` where nothing is left of a source that the run does not
    make itself.
    """
    names = requested(run)
    if not names:
        return ()
    facts: list[Fact] | UserError = []
    if devices.is_main:
        try:
            facts = _facts(data, run, Plan(seed, ledger), names, step)
        except UserError as error:
            facts = error
    facts = devices.broadcast(facts)
    if isinstance(facts, UserError):
        raise facts
    for fact in facts:
        ledger.append(fact)
    if devices.is_main and facts:
        retired = [f"segment {fact.segment} of {fact.source}" for fact in facts if isinstance(fact, Retire)]
        say(f"taken down: from step {step} on {', '.join(retired)} is drawn no more, but for what is left of it")
    return facts


def _facts(data: "PreparedData", run: Path, plan: Plan, names: frozenset[Name], step: int) -> list[Fact]:
    facts, made = list[Fact](), made_sources(plan.ledger.facts)
    for source, live in lookups.live_segments(plan, step).items():
        number = len(data.sources[source].segments)
        left = len(live)
        for segment_number in live:
            segment = data.sources[source].segments[segment_number]
            taken = _documents(segment, source, names, is_synthetic=data.sources[source].kind == "synthetic")
            if not taken:
                continue
            joined = _written(data, run, source, segment_number, segment, taken)
            if joined is None:
                left -= 1
            else:
                kind = data.sources[source].kind
                facts.append(
                    Segment(
                        step=step, source=source, kind=kind, segment=number, num_samples=joined.num_samples,
                        fingerprint=joined.fingerprint,
                    )
                )  # fmt: skip
                number += 1
            facts.append(Retire(step=step, source=source, segment=segment_number))
        if live and not left:
            if source not in made:
                remedy = "Start a new run without it"
                raise UserError(f"all that source {source} is drawn from is taken down", remedy=remedy)
            facts += shares_without(plan, source, step)
    return facts


def shares_without(plan: Plan, source: str, step: int) -> list[Fact]:
    """The share of a source that the run makes goes to the others where nothing of it is left: its next generation
    brings it back.
    """
    shares = plan.shares(step)
    if not shares[source]:
        return []
    kinds: dict[str, Kind] = dict(zip(plan.sources, plan.kinds, strict=True))
    rest = without(shares, [source], kinds)
    if rest is None:
        remedy = "Start a new run without it"
        raise UserError(f"all that the run draws, {source}, is taken down or quarantined", remedy=remedy)
    return [Shares(step=step, shares=rest, reason=f"nothing of {source} may be drawn any more")]


def _documents(segment: "PreparedSegment", source: str, names: frozenset[Name], *, is_synthetic: bool) -> list[int]:
    return [
        number
        for number, name in enumerate(segment.document_ids())
        if (source, name) in names or (is_synthetic and (None, name) in names)
    ]


def _written(
    data: "PreparedData", run: Path, source: str, number: int, segment: "PreparedSegment", taken: Sequence[int]
) -> "PreparedSegment | None":
    """The segment without these documents, written now or before; None where nothing of it is left."""
    from trainer.data.made_segment import open_made_segment, write_segment_without

    content = json.dumps([source, number, segment.fingerprint, list(taken)])
    folder = run / FOLDER / hashlib.sha256(content.encode()).hexdigest()[:16]
    if (folder / _REPLACES).is_file():
        one = replacements(run)[folder.name]
        return None if one.fingerprint is None else open_made_segment(folder, data)
    joined = write_segment_without(folder, segment, taken, data)
    made = Replacement(
        source=source,
        segment=number,
        fingerprint=None if joined is None else joined.fingerprint,
        num_samples=0 if joined is None else joined.num_samples,
    )
    write_text(folder / _REPLACES, json.dumps(asdict(made)))
    return joined


def later_retirements(run: Path, ledger: Ledger, scheduled: Mapping[int, Sequence[Fact]]) -> dict[int, list[Fact]]:
    """Scheduled facts, in which what joined in the place of a segment retires with it."""
    places = {
        (one.source, one.segment): {
            fact.segment
            for fact in ledger.facts
            if isinstance(fact, Segment) and (fact.source, fact.fingerprint) == (one.source, one.fingerprint)
        }
        for one in replacements(run).values()
    }
    retired = {(fact.source, fact.segment) for fact in ledger.facts if isinstance(fact, Retire)}
    by_step: dict[int, list[Fact]] = {}
    for step, facts in scheduled.items():
        by_step[step] = []
        for fact in facts:
            waiting = [(fact.source, fact.segment)] if isinstance(fact, Retire) else []
            if not waiting or waiting[0] not in places:
                by_step[step].append(fact)
            while waiting:
                source, segment = waiting.pop()
                for other in sorted(places.get((source, segment), ())):
                    waiting.append((source, other))
                    if (source, other) not in retired:
                        by_step[step].append(Retire(step=step, source=source, segment=other))
    return by_step
