"""What a trial step of the engine is: a real step at another rate, which leaves nothing behind."""

import numpy as np
import pytest
import torch

from tests.engines.steps import LENGTH, bench


def test_trial_steps_are_real_steps_at_the_scaled_rate_which_the_next_training_step_undoes() -> None:
    """Without momentum and decay, in the first step Adam moves each weight by the learning rate."""
    ids, valid = torch.arange(1, LENGTH + 1).repeat(2, 1), torch.full((2,), LENGTH)
    with bench(betas=(0.0, 0.0), weight_decay=0.0) as on:
        on.step()
        before = on.weights()["lm_head.weight"]
        moved = []
        for steps, scale in enumerate((0.5, 0.25), start=1):
            with on.engine.trial(rate_scale=scale) as back:
                for _ in range(2):  # twice the same, for ``back`` undoes the first
                    back()
                    on.engine.trial_step(ids, valid, target_tokens=30, seed=1)
                    moved.append(np.abs(on.weights()["lm_head.weight"] - before).max())
                assert on.optimizer_steps() == {steps + 1}
            assert on.optimizer_steps() == {steps}
            assert np.array_equal(on.weights()["lm_head.weight"], before)
            on.step()
            assert {group["lr"] for group in on.engine.sharding.param_groups} == {1e-2}
            before = on.weights()["lm_head.weight"]
    assert moved == pytest.approx([5e-3, 5e-3, 2.5e-3, 2.5e-3], rel=1e-2)


def test_a_trial_step_that_is_not_finite_is_left_out() -> None:
    ids, valid = torch.arange(1, LENGTH + 1).repeat(2, 1), torch.full((2,), LENGTH)
    with bench() as on:
        on.step()
        before = on.weights()
        hook = next(on.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        with on.engine.trial(rate_scale=1.0):
            on.engine.trial_step(ids, valid, target_tokens=30, seed=1)
            assert all(np.array_equal(before[name], value) for name, value in on.weights().items())
        hook.remove()


def test_a_trial_step_in_micro_batches_moves_the_weights_as_one_does() -> None:
    ids, valid = torch.arange(1, 5 * LENGTH + 1).reshape(5, LENGTH) % 60 + 1, torch.full((5,), LENGTH)
    moved = []
    for micro_batch in (5, 2):
        with bench(micro_batch=micro_batch) as on:
            on.step()
            before, forwards = on.weights(), []
            hook = on.model.register_forward_hook(lambda *_, calls=forwards: calls.append(1))
            with on.engine.trial(rate_scale=1.0):
                on.engine.trial_step(ids, valid, target_tokens=5 * (LENGTH - 1), seed=1)
                moved.append({name: value - before[name] for name, value in on.weights().items()})
            hook.remove()
            assert len(forwards) == -(-5 // micro_batch)
    for name, value in moved[0].items():
        assert np.allclose(value, moved[1][name], atol=1e-6), name
