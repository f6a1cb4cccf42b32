"""What a user should hear of a recipe before its run, from the recipe and its files: for plan, check and doctor."""

from trainer.control.priced.repeats import epochs_until
from trainer.data.config import HELD_OUT_SEGMENTS, HeldOutByBucket, HeldOutByShare
from trainer.data.store import PreparedData
from trainer.evaluate.held_out import FEWEST_DOCUMENTS, FORWARD_COST, plan_validation
from trainer.model.precision import SLOW_BF16, is_bf16_slow
from trainer.recipe import LoadedRecipe, Recipe
from trainer.runs.guard_notice import Sight, blindness
from trainer.tools.plan.first_rows import first_rows
from trainer.tools.plan.sources import BYTES_PER_TOKEN, SourcePlan

DECAY_HELPS = (
    "where so many epochs are meant, a weight decay of 1.0 in place of 0.1 took a third of the harm of 25 epochs in"
    " trials, and did harm at 12"
)


def notices(loaded: LoadedRecipe, sources: tuple[SourcePlan, ...], data: PreparedData | None) -> list[str]:
    """Warnings about precision, guard and repeats. ``sources`` is the plan of the sources, ``data`` are prepared."""
    recipe = loaded.recipe
    found = [SLOW_BF16] if recipe.training.precision == "bf16" and is_bf16_slow() else []
    blind = blindness(
        recipe.control.guard, recipe.evaluation, num_steps=recipe.training.steps, sight=_sight(loaded, sources, data)
    )
    return [*found, *([blind] if blind else []), *repeats(sources)]


def repeats(sources: tuple[SourcePlan, ...]) -> list[str]:
    """Sources that are drawn so often that one more repeat does harm in the end."""
    total, found = sum(source.samples for source in sources), []
    for source in sources:
        if source.epochs is None or source.max_epochs is not None or not source.available_samples:
            continue
        without_harm = epochs_until(0.0, total / source.available_samples)
        if source.epochs > without_harm:
            found.append(
                f"{source.name} is repeated: about {source.epochs:,.0f} epochs of {source.available_samples:,} samples,"
                f" and beyond about {without_harm:.0f} a repeat does harm; lower its share, add data, or cap it with "
                f"mixture.max_epochs: {{{source.name}: {without_harm:.0f}}}; {DECAY_HELPS}"
            )
    return found


def _sight(loaded: LoadedRecipe, sources: tuple[SourcePlan, ...], store: PreparedData | None) -> Sight | None:
    """The documents of an evaluation: exactly where the data are prepared here, else from the files' first rows."""
    recipe = loaded.recipe
    interval_tokens = recipe.mixture.global_batch * recipe.data.sequence_length * recipe.evaluation.every_steps
    if store is not None:
        evaluated = plan_validation(
            store.validation,
            recipe.evaluation,
            interval_tokens=interval_tokens,
            seed=recipe.seed,
            num_sources=len(store.sources),
            sequence_length=recipe.data.sequence_length,
        )
        return Sight(documents=len(evaluated), held_out=len(store.validation.offsets) - 1)
    tokens = _mean_tokens(loaded)
    if tokens is None:
        return None
    held_out = _held_out(recipe, sources, tokens)
    documents = recipe.evaluation.validation_documents
    if documents is None:
        samples = len(recipe.data.sources) * recipe.evaluation.source_samples
        budget = recipe.evaluation.max_compute_share * interval_tokens / FORWARD_COST
        affordable = (budget - samples * recipe.data.sequence_length) / tokens
        documents = max(FEWEST_DOCUMENTS, int(affordable))
    least = documents if held_out is None else min(documents, held_out)
    return Sight(documents=least, held_out=held_out, is_estimate=True)


def _mean_tokens(loaded: LoadedRecipe) -> float | None:
    """About how many tokens a held-out document has, by the first rows of its files; None where they are not here."""
    config = loaded.recipe.data
    rule = config.held_out
    name = rule.source if isinstance(rule, HeldOutByBucket | HeldOutByShare) else HELD_OUT_SEGMENTS[0]
    column = config.every_segment[name].text_column
    texts = [str(row.columns.get(column) or "") for row in first_rows(loaded, name)]
    sizes = [len(text.encode("utf-8", "replace")) for text in texts if text.strip()]
    return max(1.0, sum(sizes) / len(sizes) / BYTES_PER_TOKEN) if sizes else None


def _held_out(recipe: Recipe, sources: tuple[SourcePlan, ...], tokens: float) -> int | None:
    """About how many documents the validation part has; None where it is a data set of its own, or not known."""
    rule = recipe.data.held_out
    if not isinstance(rule, HeldOutByBucket | HeldOutByShare):
        return None
    part = rule.validation if isinstance(rule, HeldOutByShare) else len(rule.validation) / rule.of
    samples = next((source.available_samples for source in sources if source.name == rule.source), None)
    return None if samples is None else max(1, round(samples * recipe.data.sequence_length / tokens * part))
