"""One shard of a round of synthesis: prompts, texts, stages, gate, pool.

Everything between two answers can be lost to a kill without harm: requests are planned anew from the same data, answers
are on the disk, and the shard joins the pool in one rename.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from trainer.base.errors import DataError
from trainer.base.failures import warn
from trainer.base.room import told_if_no_room
from trainer.data.config import DataConfig
from trainer.data.decontamination import HeldOutIndex
from trainer.data.documents import BATCH_DOCUMENTS, DocumentReader
from trainer.data.fingerprint import cache_folder
from trainer.data.held_out_split import collect_held_out, index_of, texts_of
from trainer.data.quarantine import Quarantine
from trainer.data.shown_rows import beside_nearest
from trainer.synthesis.asking import Progress, allow_failures, ask, tell_where_stuck
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.context import RoundContext, Shard
from trainer.synthesis.cost import budget_of, cost_of
from trainer.synthesis.funnel import Funnel
from trainer.synthesis.gating import pass_gate, quarantine_reason
from trainer.synthesis.generators import GENERATORS
from trainer.synthesis.generators.files import Files
from trainer.synthesis.generators.protocol import Generator, Identity
from trainer.synthesis.grading import judges_of
from trainer.synthesis.licenses import check_licenses
from trainer.synthesis.lineage import Origin, taken_down_origins
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.synthesis.real_text import RealText
from trainer.synthesis.recipe_guard import recipe_fingerprint
from trainer.synthesis.requests import Asked, PromptRow, chosen, part_of, plan_round, set_aside
from trainer.synthesis.responses import Responses
from trainer.synthesis.rows import Row, row_id, row_of
from trainer.synthesis.stages import through_stages
from trainer.synthesis.stitching import stitched
from trainer.synthesis.taking_in import plan_taking_in, taken_before
from trainer.synthesis.turns import Conversation, turns_of, whole_answer, written_tokens

Plan = TypeVar("Plan")
_NO_ROOM = "What was answered is kept: free some space, then run it again to resume"


def run_round(
    config: SynthesisConfig,
    data: DataConfig,
    shard: Shard,
    *,
    seed: int,
    base: Path,
    progress: Progress,
    generator: Generator | None = None,
) -> RoundRecord:
    """Makes the shard, or what is missing of it, and adds it to the pool. Raises ``UserError``.

    ``data`` are the sources of the recipe in folder ``base``; only training documents become prompts, and what repeats
    a held-out document does not join. ``generator``: another than the recipe's.
    """
    pool = Pool(base / config.pool.expanduser())
    pool.refuse_other(shard.generation, shard.of, recipe_fingerprint(config, seed))
    if generator is None:
        generator = GENERATORS.resolve(config.generator.kind)(config.generator)
    identity = generator.identity()
    parties = {f"source {name}": data.sources[name].license for name in config.sources}
    parties[f"generator {identity.name}"] = identity.license
    for terms in (parties, judges_of(config.graders)):
        for problem in check_licenses(config.licenses, terms):
            warn(problem)

    remembered = RealText(config)

    def plan(training: Iterator[PromptRow]) -> tuple[list[Asked], Mapping[str, int], list[PromptRow]]:
        training = remembered.watching(training)
        if isinstance(generator, Files):
            before = taken_before(pool.records(), shard.generation)
            return plan_taking_in(config, generator, training, before, seed=seed, generation=shard.generation)
        asking, real = plan_asking(config, training, identity, seed=seed, generation=shard.generation)
        return asking, {}, real

    (planned, taken, real), held_out, held_out_texts = with_training_rows(config, data, plan, seed=seed, base=base)
    aside, others = set_aside(config, real, seed, shard.generation)
    asked = part_of(planned, shard.number, shard.of, by_document=config.needs_whole_documents)
    context = RoundContext(
        config=config,
        base=base,
        seed=seed,
        shard=shard,
        pool=pool,
        held_out=held_out,
        identity=identity,
        source_columns={row_id(item, shard.generation): item.columns for item in asked},
        prompt_rows=others,
        set_aside=aside,
        held_out_texts=held_out_texts,
        real=remembered,
    )
    spent = sum(record.cost or 0.0 for record in pool.records() if record.generation != shard.generation)
    budget = budget_of(config, spent_before=spent, shards=shard.of)
    file = pool.responses_file(shard.generation, shard.number, shard.of)
    with (
        told_if_no_room("the answers of the round", file, remedy=_NO_ROOM),
        Responses(file, [item.request for item in asked]) as responses,
    ):
        for requests in turns_of(asked, responses.completions, keep_cut_off=config.keep_cut_off):
            ask(generator, requests, responses, progress, budget)
            allow_failures(requests, responses, budget, max_failed_share=config.max_failed_share)
        begun = [item for item in asked if item.request.id in responses.completions]
        conversations = [whole_answer(item, responses.completions, keep_cut_off=config.keep_cut_off) for item in begun]
        tell_where_stuck([conversation.answer.text for conversation in conversations])
        record = _finish(conversations, context, taken, num_not_asked=len(asked) - len(begun))
    for made_for_it in (file, *file.parent.glob(f"{file.stem}.*.jsonl")):
        made_for_it.unlink()
    return record


def plan_asking(
    config: SynthesisConfig, training: Iterable[PromptRow], identity: Identity, *, seed: int, generation: int
) -> tuple[list[Asked], list[PromptRow]]:
    """The requests of a generation, and the real rows that it has chosen."""
    real = _some(chosen(config, training, seed, generation), config)
    _, prompts = set_aside(config, real, seed, generation)
    return plan_round(config, prompts, identity, seed=seed, generation=generation), real


def with_training_rows(
    config: SynthesisConfig, data: DataConfig, plan: Callable[[Iterator[PromptRow]], Plan], *, seed: int, base: Path
) -> tuple[Plan, HeldOutIndex, list[str]]:
    """What ``plan`` makes of the training documents of the sources that are asked about, as preparation leaves them:
    without copies of held-out documents; an index of these, and their texts.
    """
    with tempfile.TemporaryDirectory() as folder:
        quarantine = Quarantine(Path(folder) / "quarantine.jsonl", data.max_quarantined_share)
        try:
            cache = cache_folder(data, base)
            reader = DocumentReader(data, seed=seed, base=base, cache=cache, quarantine=quarantine)
            held_out = collect_held_out(reader, data)
            index = index_of(held_out, data.contamination)
            texts = texts_of([*held_out.validation, *held_out.test])
            taken_down = taken_down_origins(Pool(base / config.pool.expanduser()))
            rows = _training_rows(config, data, reader, taken_down)
            return plan(_without_copies(rows, index)), index, texts
        finally:
            quarantine.close()


def _some(rows: list[PromptRow], config: SynthesisConfig) -> list[PromptRow]:
    if not rows:
        remedy = "Name a source with training documents in synthesis.sources"
        raise DataError("no row to make prompts of", got=", ".join(config.sources), remedy=remedy)
    return rows


def _training_rows(
    config: SynthesisConfig, data: DataConfig, reader: DocumentReader, taken_down: Sequence[Origin]
) -> Iterator[PromptRow]:
    for name in config.sources:
        terms = data.sources[name].license
        for document in reader.training(name, record=False):
            if not any(origin.is_of(name, document.id, terms) for origin in taken_down):
                yield PromptRow(source=name, license=terms, document=document)


def _without_copies(rows: Iterator[PromptRow], held_out: HeldOutIndex) -> Iterator[PromptRow]:
    """The rows that are no copies of held-out documents: what is written about a copy holds what the document says, in
    words that no index knows.
    """
    while batch := list(islice(rows, BATCH_DOCUMENTS)):
        copies = {match.document for match in held_out.match([row.document.text for row in batch]).copies}
        yield from (row for place, row in enumerate(batch) if place not in copies)


def _finish(
    conversations: Sequence[Conversation], context: RoundContext, taken: Mapping[str, int], *, num_not_asked: int
) -> RoundRecord:
    """Takes the answers through all stages and the gate into the pool."""
    shard, identity, funnel = context.shard, context.identity, Funnel()
    prices = context.config.prices
    rows = [
        row_of(conversation, identity, shard.generation)
        | ({} if prices is None else {"cost": sum(cost_of(prices, answer) for answer in conversation.answers)})
        for conversation in conversations
    ]
    accepted = through_stages(rows, context, funnel)
    real = {f"{row['source']}:{row['source_id']}": str(context.source_columns[row["id"]]["text"]) for row in rows}
    joules = [item.answer.joules for item in conversations if item.answer.joules is not None]
    gate = pass_gate(accepted, context)
    most = context.config.stitch
    documents, parts = (accepted, []) if most is None else stitched(accepted, most)
    record = RoundRecord(
        generation=shard.generation,
        shard=shard.number,
        shards=shard.of,
        generator=identity.name,
        generator_weights=identity.weights,
        requests=len(conversations),
        accepted=len(accepted),
        dropped=dict(sorted(funnel.counts.items(), key=lambda item: -item[1])),
        noted=dict(sorted(funnel.noted.items(), key=lambda item: -item[1])),
        prompt_tokens=sum(row["prompt_tokens"] for row in rows),
        completion_tokens=sum(row["completion_tokens"] for row in rows),
        accepted_tokens=sum(map(written_tokens, accepted)),
        taken=taken,
        seconds=sum(row["seconds"] for row in rows),
        graders=tuple(funnel.graders),
        verifier=funnel.verifier,
        cost=None if prices is None else sum(row["cost"] for row in rows),
        currency=None if prices is None else prices.currency,
        cost_by_source={} if prices is None else _cost_by_source(rows),
        joules=sum(joules) if joules else None,
        gpu_seconds=None if prices is None else prices.gpus * sum(row["seconds"] for row in rows),
        cached=sum(item.answer.cached for item in conversations),
        not_asked=num_not_asked,
        quarantined=quarantine_reason(gate),
        gate=gate,
        shown=beside_nearest(accepted, real),
        stitched=None if most is None else len(documents),
        recipe=recipe_fingerprint(context.config, context.seed),
    )
    context.pool.publish(record, documents, funnel.rejected, parts)
    return record


def _cost_by_source(rows: Sequence[Row]) -> dict[str, float]:
    costs: dict[str, float] = {}
    for row in rows:
        costs[row["source"]] = costs.get(row["source"], 0.0) + row["cost"]
    return costs
