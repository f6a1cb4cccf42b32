"""Replaying another run: its shares and batch sizes instead of decisions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.base.errors import UserError
from trainer.mixture.ledger import (
    BatchSize,
    Fact,
    Ledger,
    Retire,
    Rollback,
    Segment,
    Shares,
    Source,
    facts_of,
    made_sources,
)
from trainer.recipe import Recipe, load_recipe
from trainer.runs.folder import require_run
from trainer.runs.resume import check_same_data
from trainer.runs.rounds.files import RoundFiles
from trainer.runs.takedown import requested
from trainer.synthesis.pool import Pool
from trainer.tracking.journal import read_numbered


def read_replay(
    run: Path, recipe: Recipe, segments: Mapping[int, Sequence[Source | Segment | Retire]]
) -> dict[int, list[Fact]]:
    """Another run's shares and batch sizes by the step they govern from: with the same seed and data, its samples.
    Segments join as the recipe says, which must be as they joined there; those that the run made itself join as there.

    ``UserError`` where the samples could not be the same: another seed, other data, other joins, or a rollback, which a
    replay cannot follow without the evaluations that led to it; and where samples of it were taken down.
    """
    require_run(run)
    theirs = load_recipe(run / "recipe.yaml", [], on_this_machine=False).recipe
    if theirs.seed != recipe.seed:
        raise UserError(
            "the replayed run has another seed, so its samples differ", got=theirs.seed, remedy="Use its seed"
        )
    facts = facts_of(read_numbered(run / "ledger.jsonl"), run / "ledger.jsonl")
    if any(isinstance(fact, Rollback) for fact in facts):
        raise UserError("the replayed run rolled back to a checkpoint, which a replay cannot follow", file=run)
    if requested(run) or Pool(RoundFiles(run).pool).manifest().takedowns:
        raise UserError(
            "the replayed run drew documents that were taken down since: nothing may draw them again",
            got=str(run),
            remedy="Train anew without --ledger",
        )
    check_same_data(Ledger(facts), segments)
    made = made_sources(facts)
    if set(made) != ({recipe.made_source} - {None}):
        raise UserError(
            "the replayed run made another source itself, so its samples differ",
            got=recipe.made_source,
            remedy=f"Let synthesis.source be as there: {', '.join(made) or 'none'}",
        )
    joins, own = (
        {name: [(join.from_step, join.retires) for join in source.joins] for name, source in owner.data.sources.items()}
        for owner in (theirs, recipe)
    )
    if joins != own:
        raise UserError(
            "the segments of the replayed run join at other steps, so its samples differ",
            got=own,
            remedy=f"Let them join as there: {joins}",
        )
    by_step: dict[int, list[Fact]] = {}
    for fact in facts:
        is_made = isinstance(fact, Segment | Retire) and fact.source in made
        if isinstance(fact, Shares | BatchSize) or is_made:
            by_step.setdefault(fact.step, []).append(fact)
    return by_step
