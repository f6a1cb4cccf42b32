"""How the model is called in training: with ids alone, and without a cache.

A cache, or a mask of ones, has transformers let the documents of a packed row see one another; without both a row of
one document per sample is all that is seen.
"""

from typing import Any

import torch

from tests.engines.steps import LENGTH, bench
from tests.engines.tour import PROBE


def test_steps_trial_steps_and_evaluations_call_the_model_with_ids_alone_and_without_a_cache() -> None:
    calls: list[tuple[set[str], Any]] = []

    def record(_module: Any, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        assert not args
        calls.append((set(given), output.past_key_values))

    with bench() as on:
        on.model.register_forward_hook(record, with_kwargs=True)
        on.step()
        with on.engine.trial(rate_scale=0.5):
            on.engine.trial_step(PROBE, torch.tensor([LENGTH, 3]), target_tokens=LENGTH + 1, seed=3)
        on.engine.eval_logits(PROBE)
        assert on.model.config.use_cache is False
    assert len(calls) == 4 + 1 + 1  # a batch of 12 in micro-batches of 3
    assert calls == [({"input_ids"}, None)] * len(calls)
