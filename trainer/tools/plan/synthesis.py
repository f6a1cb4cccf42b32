"""What a round of synthesis will take, before anything is asked."""

from trainer.recipe import LoadedRecipe
from trainer.synthesis.cost import estimate_round
from trainer.synthesis.generators import FilesConfig
from trainer.synthesis.prompts import template_of
from trainer.tools.plan.first_rows import first_rows


def synthesis_notes(loaded: LoadedRecipe) -> list[str]:
    """One line for a recipe that makes synthetic data: requests, tokens and money of a round, at most.

    By the first rows of the sources, as if each prompt were its template and its row.
    """
    config = loaded.recipe.synthesis
    if config is None or isinstance(config.generator, FilesConfig):
        return []
    texts = [
        len(str(row.columns.get(loaded.recipe.data.sources[name].text_column, "")))
        for name in config.sources
        for row in first_rows(loaded, name)
    ]
    templates = sum(prompt.weight * len(template_of(prompt.template)) for prompt in config.prompts)
    mean_template = templates / sum(prompt.weight for prompt in config.prompts)
    estimate = estimate_round(
        config.prices,
        requests=config.requests,
        max_new_tokens=config.sampling.max_new_tokens,
        prompt_characters=[round(mean_template + length) for length in texts],
        ways=[(prompt.weight, [len(template_of(turn)) for turn in prompt.turns]) for prompt in config.prompts],
    )
    money = ""
    if estimate.most_cost is not None and config.prices is not None:
        money = f": at most {estimate.most_cost:,.4g} {config.prices.currency} by tokens"
    limit = "" if config.max_cost is None else f" (the pool's rounds end at synthesis.max_cost, {config.max_cost:,.4g})"
    return [
        f"a round of synthesis: {estimate.requests:,} requests, about {estimate.prompt_tokens:,.0f} prompt tokens and "
        f"at most {estimate.most_completion_tokens:,} written{money}{limit}"
    ]
