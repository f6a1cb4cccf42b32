import numpy as np
import pytest

from trainer.control.priced.repeats import (
    REPEATS_DECAY,
    effective_tokens,
    epochs_until,
    mean_repeat_value,
    net_repeat_value,
    overfitting_cost,
    repeat_value,
    unique_value,
)


@pytest.mark.parametrize(("epochs", "part"), [(1, 1.0), (2, 0.984), (4, 0.931), (8, 0.828), (16, 0.661), (40, 0.379)])
def test_repeated_tokens_do_as_much_as_the_published_part_of_fresh_ones(epochs, part):
    assert effective_tokens(1000.0, 1000.0 * epochs) / (1000 * epochs) == pytest.approx(part, abs=1e-3)


@pytest.mark.parametrize(("epochs", "value"), [(0.5, 1.0), (4, 0.82), (16, 0.38)])
def test_one_more_repeat_is_worth_the_published_part(epochs, value):
    assert repeat_value(epochs) == pytest.approx(value, abs=5e-3)


@pytest.mark.parametrize("epochs", [0.4, 1.0, 1.7, 6.0, 30.0])
def test_marginal_values_are_the_derivatives_of_the_effective_tokens(epochs):
    unique, drawn, small = 1000.0, 1000.0 * epochs, 1e-3
    more_drawn = (effective_tokens(unique, drawn + small) - effective_tokens(unique, drawn)) / small
    more_unique = (effective_tokens(unique + small, drawn) - effective_tokens(unique, drawn)) / small
    if epochs != 1.0:  # a kink
        assert repeat_value(epochs) == pytest.approx(more_drawn if epochs > 1 else 1.0, abs=1e-4)
    assert unique_value(epochs) == pytest.approx(more_unique, abs=1e-4)


@pytest.mark.parametrize(("epochs", "more"), [(0.0, 0.5), (0.0, 3.0), (0.6, 2.0), (5.0, 4.0)])
def test_the_tokens_ahead_are_worth_the_mean_of_what_each_is(epochs, more):
    middles = epochs + (np.arange(20_000) + 0.5) / 20_000 * more
    each = [repeat_value(place) / repeat_value(epochs) for place in middles]
    assert mean_repeat_value(epochs, more) == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("scarcity", [5.0, 12.4, 24.7, 200.0])
@pytest.mark.parametrize("value", [0.9, 0.6, 0.45, 0.05, 0.0])
def test_epochs_until_is_where_a_repeat_is_worth_so_much(value, scarcity):
    epochs = epochs_until(value, scarcity)
    assert net_repeat_value(epochs, scarcity) == pytest.approx(value, abs=1e-4)
    assert net_repeat_value(epochs + 1, scarcity) < value


def test_a_repeat_comes_to_do_harm_sooner_the_scarcer_its_source_is_and_never_by_the_published_law():
    ends = [epochs_until(0.0, scarcity) for scarcity in (5.0, 25.0, 100.0, 1000.0)]
    assert ends == sorted(ends, reverse=True)
    assert 13 < ends[1] < 17  # where trials had it
    assert ends[0] < 25
    assert epochs_until(0.5) == pytest.approx(1 - REPEATS_DECAY * np.log(0.5))
    assert epochs_until(1e-3, 0.0) > 100


@pytest.mark.parametrize("epochs", [1.0, 4.0, 12.0, 25.0])
def test_the_cost_of_overfitting_is_the_slope_of_the_term_in_the_loss(epochs):
    # in e-folds of effective tokens: 0.46 (R / 20)^6.2, of which a fresh token gives 1 / D, D = 0.7 of all tokens
    unique, total, small = 1000.0, 20_000.0, 1e-3

    def term(drawn):
        return 0.46 * (max(drawn / unique - 1, 0) / 20) ** 6.2

    drawn = unique * epochs
    slope = (term(drawn + small) - term(drawn)) / small * 0.7 * total
    assert overfitting_cost(epochs, total / unique) == pytest.approx(slope, rel=1e-3, abs=1e-6)
