"""How much of a round is bought: a small lot first, its value by n-gram counts, and more while that pays.

All is reckoned in tokens trained. A token more of the source spares repeats: it is worth ``value * unique_value(E)``
where each token of it is drawn E epochs until the next round, and costs what was written for each token that passed, a
third of a trained token each (forward 2 flops of 6). The same spent on training brings real text once more:
``repeat_value`` of its epochs so far (``trainer.control.priced.repeats``). Buying stops where that is more.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.base.formatting import figure, plus_minus
from trainer.control.priced.repeats import repeat_value, unique_value

if TYPE_CHECKING:
    from trainer.data.prior_value.record import PriorValue

WRITING_COST = 1 / 3  # of a written token, or one that is read, in trained ones
Z = 2.0  # errors below the value of real text again from which on nothing of a lot is drawn


@dataclass(frozen=True, kw_only=True)
class Lot:
    """What a lot has brought, and what it is for.

    ``value`` None: too little text to say. ``demand_tokens`` of its source are drawn until the next round;
    ``held_tokens`` is what the source has besides; ``real_epochs`` those of real text so far.
    """

    requests: int
    accepted_tokens: int
    paid_tokens: int  # read and written
    value: "PriorValue | None"
    held_tokens: int
    demand_tokens: int
    real_epochs: float

    @property
    def cost(self) -> float:
        """Trained tokens that a token that passed has cost."""
        return WRITING_COST * self.paid_tokens / max(self.accepted_tokens, 1)

    @property
    def real_again(self) -> float:
        """What a token of real text is worth once more."""
        return repeat_value(self.real_epochs)


@dataclass(frozen=True, kw_only=True)
class Purchase:
    """How many ``more`` lots are bought, whether what there is is drawn at all, and why in a sentence."""

    more: int
    is_drawn: bool
    reason: str


def purchase(lot: Lot, *, most: int) -> Purchase:
    """How many more lots are bought, ``most`` at most. Where nothing is known of the value none is."""
    if lot.value is None:
        return Purchase(more=0, is_drawn=True, reason="a lot is too small to say what it is worth: no more is bought")
    worth = (
        f"a token of a lot of {lot.requests} texts is worth {plus_minus(lot.value.mean, lot.value.error)} of a fresh "
        f"real one and has cost {figure(lot.cost)} trained ones; real text again, after {figure(lot.real_epochs)} "
        f"epochs, is worth {figure(lot.real_again)}"
    )
    if lot.value.mean + Z * lot.value.error < lot.real_again:
        return Purchase(more=0, is_drawn=False, reason=f"{worth}: nothing is bought, and the lot is not drawn")
    more = 0
    while more < most and _pays(lot, more):
        more += 1
    if more == most:
        return Purchase(more=more, is_drawn=True, reason=f"{worth}: all of the round is bought")
    told = f"{more} more lots are bought, further ones bring less" if more else "no more is bought"
    return Purchase(more=more, is_drawn=True, reason=f"{worth}: {told}")


def _pays(lot: Lot, more: int) -> bool:
    """Whether one lot after ``more`` of them brings at least what it would bring to train on real text again."""
    assert lot.value is not None
    unique = lot.held_tokens + lot.accepted_tokens * (1 + more)
    if not unique:
        return False
    gain = lot.value.mean * unique_value(lot.demand_tokens / unique)
    return gain >= lot.cost * lot.real_again
