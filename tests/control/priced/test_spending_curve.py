import numpy as np
import pytest

from trainer.control.priced.spending_curve import kernel, noise_rate, rest_of_run, spend

COSINE = 0.001 + 0.049 * (1 + np.cos(np.pi * (np.arange(100) + 0.5) / 100)) / 2


def test_what_lies_ahead_is_what_is_left_of_the_parts():
    rest = rest_of_run([3.0, 2.0, 1.0, 0.5], num_steps=40, progress=0.3)
    assert rest.steps.tolist() == pytest.approx([8, 10, 10])
    assert rest.rates.tolist() == [2.0, 1.0, 0.5]
    assert rest_of_run([], num_steps=40, progress=0.25).total_steps == pytest.approx(30)
    assert len(rest_of_run([1.0, 1.0], num_steps=40, progress=1.0).steps) == 0


def test_the_kernel_is_the_product_of_what_later_steps_leave():
    rest = rest_of_run(COSINE, num_steps=2000, progress=0.0)
    rates = np.repeat(COSINE, 20)
    exact = rates * np.concatenate([np.cumprod((1 - 0.7 * rates)[::-1])[::-1][1:], [1.0]])
    assert kernel(rest, 0.7) == pytest.approx(exact.reshape(100, 20).mean(axis=1), rel=0.02, abs=1e-6)
    assert abs(int(np.argmax(kernel(rest, 0.7))) - int(np.argmax(exact)) // 20) <= 1


def test_noise_is_priced_at_half_the_rate_where_the_rate_is_constant_and_at_less_where_it_falls():
    assert noise_rate(rest_of_run([0.05], num_steps=2000, progress=0.0), 1.0) == pytest.approx(0.05 / 1.95, rel=0.03)
    falling = rest_of_run(COSINE, num_steps=2000, progress=0.0)
    exact_c = np.repeat(COSINE, 20)
    exact_c = exact_c * np.concatenate([np.cumprod((1 - exact_c)[::-1])[::-1][1:], [1.0]])
    assert noise_rate(falling, 1.0) == pytest.approx((exact_c**2).sum() / exact_c.sum(), rel=0.05)


@pytest.mark.parametrize("concentration", [0.0, 1.0, 12.0, 200.0])
@pytest.mark.parametrize("budget", [60.0, 500.0, 1500.0])
def test_a_curve_spends_its_budget_inside_its_bounds(budget, concentration):
    rest = rest_of_run(COSINE, num_steps=2000, progress=0.1)
    curve = spend(rest, kernel(rest, 1.0), budget, concentration=concentration, floor=0.01, ceiling=0.95)
    assert float(curve.shares @ rest.steps) == pytest.approx(budget, rel=1e-6)
    assert 0.01 <= curve.shares.min() <= curve.shares.max() <= 0.95


def test_the_more_concentrated_the_more_of_the_kernel_a_curve_gets():
    rest = rest_of_run(COSINE, num_steps=2000, progress=0.0)
    weights = kernel(rest, 1.0)
    gains = [
        float((spend(rest, weights, 200.0, concentration=k, floor=0.0, ceiling=1.0).shares * rest.steps) @ weights)
        for k in (0.0, 1.0, 4.0, 16.0, 64.0)
    ]
    best = float(np.sort(weights)[::-1][:10].sum() * 20)
    assert gains == sorted(gains)
    assert gains[0] == pytest.approx(0.1 * float(weights @ rest.steps))
    assert gains[-1] == pytest.approx(best, rel=0.02)


def test_a_budget_that_does_not_bind_has_no_price():
    rest = rest_of_run(COSINE, num_steps=2000, progress=0.0)
    curve = spend(rest, kernel(rest, 1.0), 1900.0, concentration=4.0, floor=0.0, ceiling=0.9)
    assert curve.marginal == 0.0
    assert curve.shares == pytest.approx(np.full(100, 0.9))
