"""How much of a round is bought: closed forms, and what a reader is told."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from trainer.control.priced.repeats import unique_value
from trainer.data.prior_value.record import PriorValue
from trainer.runs.rounds.buying import Lot, purchase


def value(mean: float, error: float = 0.05) -> PriorValue:
    return PriorValue(
        mean=mean,
        error=error,
        measured=mean,
        weight=0.5,
        order_contrast=None,
        real_tokens=10_000,
        source_tokens=1_000,
        validation_tokens=2_000,
    )


# 3 paid tokens for each that passed: 1 trained token. Real text again after 30 epochs is worth e^(-29/15.39) = 0.15.
LOT = Lot(
    requests=50,
    accepted_tokens=1_000,
    paid_tokens=3_000,
    value=value(0.8),
    held_tokens=0,
    demand_tokens=20_000,
    real_epochs=30.0,
)


def test_lots_are_bought_until_the_next_one_brings_less_than_real_text_again() -> None:
    bought = purchase(LOT, most=100)
    assert bought.is_drawn
    assert bought.more == 7  # 8,000 tokens, each drawn 2.5 times: one more is worth 0.16, times 0.8 is 0.13

    def brings(more: int) -> float:
        return 0.8 * unique_value(20_000 / (1_000 * (1 + more)))

    assert brings(bought.more - 1) >= 1.0 * LOT.real_again > brings(bought.more)
    assert "7 more lots are bought, further ones bring less" in bought.reason


def test_a_lot_that_is_worth_less_than_real_text_again_is_not_drawn_and_no_more_is_bought() -> None:
    bought = purchase(replace(LOT, value=value(0.5), real_epochs=2.0), most=100)
    assert (bought.more, bought.is_drawn) == (0, False)
    assert "0.5" in bought.reason
    assert "nothing is bought, and the lot is not drawn" in bought.reason


def test_of_what_is_not_known_no_more_is_bought() -> None:
    assert (purchase(replace(LOT, value=None), most=9).more, purchase(replace(LOT, value=None), most=9).is_drawn) == (
        0, True,
    )  # fmt: skip


@given(st.floats(0.01, 1), st.floats(1, 60), st.integers(0, 10**6), st.floats(0.4, 30))
def test_what_is_dearer_worth_less_or_held_already_is_never_bought_more(
    mean: float, epochs: float, held: int, cost: float
) -> None:
    lot = replace(LOT, value=value(mean), real_epochs=epochs, held_tokens=held, paid_tokens=round(3_000 * cost))
    more = purchase(lot, most=40).more
    assert purchase(replace(lot, paid_tokens=2 * lot.paid_tokens), most=40).more <= more
    assert purchase(replace(lot, held_tokens=held + 5_000), most=40).more <= more
    assert purchase(replace(lot, value=value(mean / 2)), most=40).more <= more
