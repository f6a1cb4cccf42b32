"""The starting shares of a recipe that leaves them to the data: ``mixture.shares: auto``."""

from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.base.formatting import share_figure
from trainer.base.records import SHARE_ONE
from trainer.control.priced.config import PRIOR_SYNTHETIC_VALUE
from trainer.control.priced.prior import water_filled
from trainer.mixture.shares import rounded, within
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from trainer.data.store import PreparedData

LEAST_SHARE = 0.01  # of every source: a share of 0 is for good, and nothing is measured of it


def with_starting_shares(recipe: Recipe, data: "PreparedData | None") -> Recipe:
    """The recipe with the shares that the prior values of prepared ``data`` ask for, where it says ``auto``; else, and
    before they are prepared, as it is.

    One more token of every source is then worth the same at the end of the run, as far as n-grams and the law of
    repetition say. The same data give the same shares at every start.
    """
    if not recipe.mixture.from_prior_values or data is None:
        return recipe
    known, kinds = data.prior_values, {name: source.kind for name, source in data.sources.items()}
    if "synthetic" in kinds.values() and not any(name in known for name, kind in kinds.items() if kind == "synthetic"):
        remedy = "Write the shares"
        raise UserError("mixture.shares: auto needs more text to say what the sources are worth", remedy=remedy)
    values = {
        name: known[name].mean if name in known else 1.0 if kind == "real" else PRIOR_SYNTHETIC_VALUE
        for name, kind in kinds.items()
    }
    sizes = {name: float(segments[0].num_samples) for name, segments in data.segments.items()}
    total = recipe.training.steps * recipe.mixture.global_batch
    asked = water_filled(values, sizes, total, max_epochs=recipe.mixture.max_epochs)
    least, most = dict.fromkeys(asked, LEAST_SHARE), dict.fromkeys(asked, 1.0)
    shares = rounded(within({name: max(share, 1e-9) for name, share in asked.items()}, least, most, total=1.0))
    written = {name: share / SHARE_ONE for name, share in shares.items()}
    return recipe.model_copy(update={"mixture": recipe.mixture.model_copy(update={"shares": written})})


def shares_in_words(recipe: Recipe) -> str:
    """The starting shares of a recipe."""
    return ", ".join(f"{name} {share_figure(share)}" for name, share in recipe.mixture.shares_in_millionths().items())
