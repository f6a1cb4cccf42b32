"""The data of the recipe, up to the first batch that a run would draw."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer.runs.auto_shares import with_starting_shares
from trainer.tools.doctor.findings import Finding, Subject
from trainer.tools.plan.notices import notices
from trainer.tools.plan.sources import source_plans

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.recipe import LoadedRecipe


def check_first_batch(subject: Subject) -> Iterator[Finding]:
    """The data can be prepared, and the first batch is drawn from every source that has a share."""
    from trainer.data.prepare import prepare

    if subject.loaded is None:
        return
    loaded = subject.loaded

    def note(what: str, documents: int) -> None:
        sys.stderr.write(f"preparing data: {what}, {documents} documents\n")

    recipe = loaded.recipe
    data = prepare(recipe.data, base=loaded.folder, seed=recipe.seed, progress=note)
    loaded = replace(loaded, recipe=with_starting_shares(recipe, data))
    sizes = {name: sum(segment.num_samples for segment in source.segments) for name, source in data.sources.items()}
    result = ", ".join(f"{name} {size:,} samples" for name, size in sizes.items())
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        remedy = f"Nothing is left of {', '.join(empty)}: see what was quarantined or held out"
        yield Finding("data", "fail", result, remedy)
        return
    yield Finding("data", "ok", result)
    counts, text = _first_batch(loaded, data)
    drawn = ", ".join(f"{name} {count}" for name, count in counts.items())
    for notice in notices(loaded, source_plans(loaded, {}, data), data):
        what, _, remedy = notice.rpartition("set ")
        yield Finding("recipe", "warn", what.rstrip(":; ") or notice, f"Set {remedy}" if what else "")
    yield Finding("first batch", "ok", f"{drawn}; {text!r} ...")


def _first_batch(loaded: "LoadedRecipe", data: "PreparedData") -> tuple[dict[str, int], str]:
    """Samples by source, and how the first one begins."""
    import numpy as np

    from trainer.engines.checkpoint_io import open_writers
    from trainer.mixture.ledger import Ledger
    from trainer.mixture.plan import Plan
    from trainer.runs.build import open_stream
    from trainer.runs.resume import segment_facts, starting_facts

    recipe = loaded.recipe
    shares = recipe.mixture.shares_in_millionths()
    segments = segment_facts(data, recipe.data)[1]
    plan = Plan(recipe.seed, Ledger([*segments, *starting_facts(recipe.mixture.global_batch, shares)]))
    alone = open_writers()  # without a process group: one rank
    stream = open_stream(recipe, data, plan, alone, step=1, replays=False)
    try:
        batch = stream.next()
    finally:
        stream.close()
    counts = np.bincount(batch.plan.source, minlength=len(plan.sources)).tolist()
    first: list[int] = batch.micro_batches[0].input_ids[0, :16].tolist()
    return dict(zip(plan.sources, counts, strict=True)), data.decode(first)
