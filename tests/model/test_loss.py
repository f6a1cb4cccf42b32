"""The loss is a token-weighted sum that is divided once."""

# B batch, T tokens, V vocabulary

import math
from typing import Any

import numpy as np
import pytest
import torch

from trainer.model.build import build_model
from trainer.model.config import ModelConfig
from trainer.model.loss import normalized, target_tokens, token_losses

TINY = {
    "architecture": "llama",
    "config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def tiny_model(vocabulary_size: int = 50, sequence_length: int = 12) -> Any:
    return build_model(
        ModelConfig.model_validate(TINY),
        vocabulary_size=vocabulary_size,
        end_of_document=0,
        sequence_length=sequence_length,
        seed=3,
    )


def random_ids(rows: int, length: int, vocabulary_size: int = 50) -> torch.Tensor:
    return torch.randint(vocabulary_size, (rows, length), generator=torch.Generator().manual_seed(5))


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary() -> None:
    losses = token_losses(torch.zeros(3, 7, 50), random_ids(3, 7), torch.tensor([7, 4, 1]))
    assert losses.shape == (3, 6)
    torch.testing.assert_close(losses[0], torch.full((6,), math.log(50)))
    assert losses[1, 3:].tolist() == [0.0] * 3
    assert losses[2].tolist() == [0.0] * 6


def test_the_sum_is_transformers_own_mean_times_its_tokens_on_a_full_batch() -> None:
    model, ids = tiny_model(), random_ids(4, 12)
    output = model(ids, labels=ids)
    ours = token_losses(output.logits, ids, torch.full((4,), 12)).sum()
    torch.testing.assert_close(ours, output.loss * 4 * 11, rtol=1e-6, atol=0.0)


def test_each_loss_belongs_to_the_token_that_follows() -> None:
    ids = torch.tensor([[4, 9, 2]])
    logits = torch.zeros(1, 3, 50)
    logits[0, 0, 9] = logits[0, 1, 2] = 30.0
    assert token_losses(logits, ids, torch.tensor([3])).abs().max() < 1e-6


def test_padding_and_weightless_samples_contribute_exactly_nothing() -> None:
    model, ids = tiny_model(), random_ids(3, 12)
    valid = torch.tensor([12, 5, 0])

    def gradients(tokens: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        token_losses(model(tokens).logits, tokens, valid).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    other = ids.clone()
    other[1, 5:] = 7
    other[2] = 11
    for one, two in zip(gradients(ids), gradients(other), strict=True):
        assert torch.equal(one, two)


def test_a_batch_of_weightless_samples_has_a_gradient_of_exactly_zero() -> None:
    model, ids = tiny_model(), random_ids(2, 12)
    loss = token_losses(model(ids).logits, ids, torch.zeros(2, dtype=torch.int64)).sum()
    loss.backward()
    assert loss.item() == 0.0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_the_softmax_is_fp32_for_bf16_logits_and_under_autocast() -> None:
    logits = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    ids, valid = random_ids(2, 6), torch.tensor([6, 6])
    for enabled in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = token_losses(logits, ids, valid)
        assert losses.dtype == torch.float32
        assert torch.equal(losses, token_losses(logits.float(), ids, valid))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_averaging_over_ranks_is_undone_once_however_the_batch_is_distributed(ranks: int) -> None:
    model, ids = tiny_model(), random_ids(5, 12)
    valid = torch.tensor([12, 3, 12, 1, 7])
    total = int(target_tokens(valid).sum())

    def gradient(rows: list[list[int]]) -> torch.Tensor:
        """Mean over ranks, as DDP does it; a rank without a row gets a weightless one."""
        parts = []
        for some in rows:
            model.zero_grad()
            tokens = ids[some or [0]]
            counts = valid[some] if some else torch.zeros(1, dtype=torch.int64)
            nats = token_losses(model(tokens).logits, tokens, counts).sum()
            normalized(nats, global_target_tokens=total, averaged_over=len(rows)).backward()
            parts.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        return torch.stack(parts).mean(0)

    whole = gradient([[0, 1, 2, 3, 4]])
    dealt = gradient([list(range(rank, 5, ranks)) for rank in range(ranks)])
    torch.testing.assert_close(dealt, whole, rtol=1e-4, atol=1e-7)


def test_a_sample_predicts_one_token_less_than_it_has() -> None:
    assert target_tokens(np.array([0, 1, 2, 128])).tolist() == [0, 0, 1, 127]
    assert target_tokens(torch.tensor([0, 1, 2, 128])).tolist() == [0, 0, 1, 127]


def test_a_global_batch_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one target token"):
        normalized(torch.tensor(0.0), global_target_tokens=0, averaged_over=1)
