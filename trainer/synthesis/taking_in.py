"""Plans a round whose rows another engine wrote: which of them are taken, and which real row each was made from."""

from collections.abc import Iterable, Iterator, Mapping

from trainer.base.errors import UserError
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators.files import Files, TakenRow
from trainer.synthesis.generators.protocol import Request, Sampling
from trainer.synthesis.pool import RoundRecord
from trainer.synthesis.prompts import template_hash
from trainer.synthesis.requests import Asked, PromptRow, chosen, columns_of

_NOT_TOLD = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=0)  # the pool's row says null


def taken_before(records: Iterable[RoundRecord], generation: int) -> dict[str, int]:
    """How many rows of each file, by the hash of its content, the earlier generations took."""
    by_generation: dict[int, Mapping[str, int]] = {
        record.generation: record.taken for record in records if record.generation < generation
    }
    totals: dict[str, int] = {}
    for taken in by_generation.values():  # every shard of a generation carries those of the whole generation
        for file, count in taken.items():
            totals[file] = totals.get(file, 0) + count
    return totals


def plan_taking_in(
    config: SynthesisConfig,
    generator: Files,
    training: Iterable[PromptRow],
    before: Mapping[str, int],
    *,
    seed: int,
    generation: int,
) -> tuple[list[Asked], dict[str, int], list[PromptRow]]:
    """The rows that this round takes as if they had been asked for, how many of each file, and the real rows that it
    would have asked about, for graders and the gate.

    A row that names its real row gets that row's slice and license; one that names no training row (a held-out one, or
    none at all) is dropped with that reason. ``UserError`` where no row is left.
    """
    rows = generator.take(config.requests, before)
    if not rows:
        remedy = "Add files with further rows to that path"
        raise UserError("all rows of the files were taken in before", got=generator.config.path, remedy=remedy)
    wanted = {row.source_id for row in rows if row.source_id is not None}
    real: dict[str, PromptRow] = {}

    def looked_through() -> Iterator[PromptRow]:
        for prompt_row in training:
            if prompt_row.document.id in wanted:
                real.setdefault(prompt_row.document.id, prompt_row)
            yield prompt_row

    others = chosen(config, looked_through(), seed, generation)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.file] = counts.get(row.file, 0) + 1
    names_rows = bool(config.sources) and generator.config.columns.source_id is not None
    asked = [_asked(row, real, generator, names_rows=names_rows) for row in rows]
    return asked, counts, others


def _asked(row: TakenRow, real: Mapping[str, PromptRow], generator: Files, *, names_rows: bool) -> Asked:
    made_from = real.get(row.source_id or "")
    if names_rows and made_from is None and row.completion.finish_reason != "unusable":
        generator.refuse(row.id, "its real row is not a training row of synthesis.sources")
    own = generator.config.license
    return Asked(
        request=Request(id=row.id, prompt=row.prompt, sampling=_NOT_TOLD, seed=0),
        source=made_from.source if made_from else "files",
        license=made_from.license if made_from else own,
        prompt_id=row.source_id or row.id,
        slice=row.slice or (made_from.document.slice if made_from else "all"),
        prompt_label=row.prompt_name,
        template=template_hash(row.prompt_name),
        columns=columns_of(made_from.document) if made_from else {"text": ""},
        lineage={**row.lineage, "parents": [f"{made_from.source}:{row.source_id}"] if made_from else []},
    )
