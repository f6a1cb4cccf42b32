import numpy as np
import pytest

from trainer.training.spikes import FEWEST_STEPS, WINDOW_STEPS, spike, with_latest


def falling(seed: int) -> list[float]:
    """A loss from 10 to 3 in 500 steps, with a noise of 3 %."""
    steps = np.arange(500)
    noise = np.random.default_rng(seed).normal(0, 0.03, len(steps))
    return ((3 + 7 * np.exp(-steps / 60)) * (1 + noise)).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_has_no_spike(seed: int) -> None:
    recent: tuple[float, ...] = ()
    for loss in falling(seed):
        assert spike(loss, recent) is None
        recent = with_latest(recent, loss)
    assert len(recent) == WINDOW_STEPS


@pytest.mark.parametrize("step", [40, 100, 300, 499])
def test_twice_the_loss_is_a_spike_also_right_after_another(step: int) -> None:
    losses = falling(3)
    recent = tuple(losses[step - WINDOW_STEPS : step])
    detected = spike(2 * losses[step], recent)
    assert detected is not None
    assert detected.median == pytest.approx(np.median(recent[-FEWEST_STEPS:]))
    assert spike(2 * losses[step], with_latest(recent, 2 * losses[step])) is not None


def test_a_plateau_without_noise_does_not_make_a_wiggle_a_spike() -> None:
    assert spike(3.01, [3.0] * WINDOW_STEPS) is None


def test_too_few_steps_say_nothing() -> None:
    assert spike(100.0, [3.0] * (FEWEST_STEPS - 1)) is None
