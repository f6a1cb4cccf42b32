"""What a round asks for: which row, by which template, sampled how. A pure function of recipe, generation and data.

A round that was killed asks for the same texts again, so a text is named by what decides it: everything in its request
and the generator. Nothing that only decides how fast it comes (batch, concurrency, time-outs) is part of the name.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from heapq import heappush, heappushpop
from itertools import cycle, islice, product
from typing import Any

import numpy as np

from trainer.base.hashing import derived_rng
from trainer.data.documents import Document, unit_hash
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.entities import group_of
from trainer.synthesis.generators.protocol import Identity, Request, Sampling
from trainer.synthesis.prompts import render, template_hash, template_of


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A real training document with the source it is from."""

    source: str
    license: str
    document: Document


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request with all that its row in the pool tells of it."""

    request: Request
    source: str
    license: str
    prompt_id: str
    slice: str
    prompt_label: str
    template: str  # its hash
    columns: Mapping[str, Any]  # of the row that the prompt was made of: text, id, slice, provenance; principles
    turns: tuple[str, ...] = ()  # what is asked after each answer
    row: str | None = None  # template of the text that is kept
    lineage: Mapping[str, Any] = field(default_factory=dict)  # columns of the pool that the request does not tell


def chosen(config: SynthesisConfig, rows: Iterable[PromptRow], seed: int, generation: int) -> list[PromptRow]:
    """As many rows of each slice (of all, where slices are not balanced) as the round can ask about, in their order.

    Those with the smallest hash of seed, generation and text: memory holds ``requests`` rows of a slice, however large
    the sources are, and the same rows are chosen whatever else the sources hold.
    """
    heaps: dict[str, list[tuple[float, int, PromptRow]]] = {}
    for number, row in enumerate(rows):
        heap = heaps.setdefault(row.document.slice if config.balance_slices else "", [])
        entry = (-unit_hash(seed, f"{generation}:{row.document.text}"), -number, row)
        if len(heap) < config.requests:
            heappush(heap, entry)
        else:
            heappushpop(heap, entry)
    kept = sorted((entry for heap in heaps.values() for entry in heap), key=lambda entry: -entry[1])
    return [row for _, _, row in kept]


def set_aside(
    config: SynthesisConfig, rows: Sequence[PromptRow], seed: int, generation: int
) -> tuple[list[PromptRow], list[PromptRow]]:
    """Rows that the round's graders are graded on, at most a quarter, and the others, in their order: the prompts."""
    hashes = [unit_hash(seed, f"{generation}:aside:{row.document.text}") for row in rows]
    num_rows = min(config.grading.rows, len(rows) // 4) if config.graders else 0
    aside = set(np.argsort(hashes, kind="stable")[:num_rows].tolist())
    return [rows[place] for place in sorted(aside)], [row for place, row in enumerate(rows) if place not in aside]


def columns_of(document: Document) -> Mapping[str, Any]:
    """What templates and graders may name of a real row."""
    return {**document.provenance, "text": document.text, "id": document.id, "slice": document.slice}


def with_principles(columns: Mapping[str, Any], principles: Sequence[str], seed: int) -> Mapping[str, Any]:
    """What templates may name besides the row's columns: all ``principles``, and one ``principle`` drawn by the
    request's seed, so that a round holds its answers against each of them (Bai et al. 2022, arXiv:2212.08073).
    """
    if not principles:
        return columns
    drawn = principles[int(derived_rng(seed, "principle").integers(len(principles)))]
    return {**columns, "principles": list(principles), "principle": drawn}


def in_turn(rows: Sequence[PromptRow], seed: int, generation: int, *, balanced: bool) -> Iterator[PromptRow]:
    """The rows in the order in which they are asked about, without end; each is used once before any is used twice
    (of its slice, where ``balanced``).
    """
    groups: dict[str, list[PromptRow]] = {}
    for row in rows:
        groups.setdefault(row.document.slice if balanced else "", []).append(row)
    endless = [
        _shuffled_for_ever(group, derived_rng(seed, "synthesis", generation, name))
        for name, group in sorted(groups.items())
    ]
    for group in cycle(endless):
        yield next(group)


def _shuffled_for_ever(rows: Sequence[PromptRow], generator: np.random.Generator) -> Iterator[PromptRow]:
    while True:
        for index in generator.permutation(len(rows)):
            yield rows[index]


def plan_round(
    config: SynthesisConfig, rows: Sequence[PromptRow], identity: Identity, *, seed: int, generation: int
) -> list[Asked]:
    """All requests of a round, in order. The sweep of templates and sampling settings turns with each request."""
    templates = [prompt for prompt in config.prompts for _ in range(prompt.weight)]
    settings = [
        Sampling(temperature=temperature, top_p=top_p, max_new_tokens=config.sampling.max_new_tokens)
        for temperature, top_p in product(config.sampling.temperature, config.sampling.top_p)
    ]
    ways = cycle(product(settings, templates))
    in_order = in_turn(rows, seed, generation, balanced=config.balance_slices)
    prompted = (row for row in in_order for _ in range(config.samples_per_row))
    asked = []
    for number, (row, (sampling, prompt)) in enumerate(islice(zip(prompted, ways, strict=False), config.requests)):
        text = template_of(prompt.template)
        document = row.document
        request_seed = int(derived_rng(seed, "synthesis", generation, "request", number).integers(2**31))
        names = derived_rng(seed, "synthesis", generation, "names", number)
        groups = {"pair": group_of(document.text, 2, names), "triple": group_of(document.text, 3, names)}
        columns = with_principles({**groups, **columns_of(document)}, prompt.principles, request_seed)
        told = [getattr(config.generator, "system", None), *map(template_of, prompt.turns)]
        request = _named(render(text, columns), sampling, request_seed, identity, generation, told=told)
        asked.append(
            Asked(
                request=request,
                source=row.source,
                license=row.license,
                prompt_id=document.id,
                slice=document.slice,
                prompt_label=prompt.label,
                template=template_hash(text),
                columns=columns,
                turns=prompt.turns,
                row=prompt.row,
            )
        )
    return asked


def _named(
    prompt: str, sampling: Sampling, seed: int, identity: Identity, generation: int, *, told: Sequence[str | None]
) -> Request:
    """The request with its name; ``told``: the system message before it, and what is asked after it."""
    decisive = [identity.name, identity.weights, generation, prompt, asdict(sampling), seed, *told]
    return Request(id=id_of(decisive), prompt=prompt, sampling=sampling, seed=seed)


def id_of(decisive: Sequence[Any]) -> str:
    """128 bits of what decides a text, in hex digits."""
    return hashlib.sha256(json.dumps(decisive, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def part_of(asked: Sequence[Asked], shard: int, of: int, *, by_document: bool = False) -> Sequence[Asked]:
    """The requests of shard ``shard`` (from 0) of ``of``: every ``of``-th, so that shards get the same mixture; or all
    about every ``of``-th document.
    """
    if not by_document:
        return asked[shard::of]
    places = {key: place for place, key in enumerate(dict.fromkeys((item.source, item.prompt_id) for item in asked))}
    return [item for item in asked if places[item.source, item.prompt_id] % of == shard]
