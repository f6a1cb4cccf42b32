import numpy as np
import pytest

from trainer.control.priced.repeats import effective_tokens, mean_repeat_value, repeat_value, unique_value


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
