"""Alignment of gradients: right against autograd by hand, unbiased by its own noise, and it leaves no trace."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.steps import LENGTH, VOCABULARY, Bench, bench, training
from trainer.base.errors import UserError
from trainer.base.records import GradientAlignment
from trainer.evaluate.config import FEWEST_ALIGNMENT_SAMPLES, GradientAlignmentConfig
from trainer.evaluate.eval_batches import EvalSamples, HeldOutText
from trainer.evaluate.evidence.gradient_alignment import (
    HELD_OUT_PARTS,
    MOST_SAMPLES,
    SOURCE_PARTS,
    TokenAlignment,
    cost_tokens,
    estimated,
    held_out_parts,
    measure_alignment,
    sized,
)
from trainer.evaluate.schedule import Times
from trainer.model.loss import token_losses

SEED = 5


def text(rng: np.random.Generator, num_rows: int) -> Any:
    """Rows in which each token follows from the one before, with some noise."""
    table = np.random.default_rng(9).permutation(np.arange(1, VOCABULARY))
    rows = np.empty((num_rows, LENGTH), dtype=np.int64)
    rows[:, 0] = rng.integers(1, VOCABULARY, num_rows)
    for place in range(1, LENGTH):
        follows = rng.random(num_rows) < 0.8
        rows[:, place] = np.where(follows, table[rows[:, place - 1] - 1], rng.integers(1, VOCABULARY, num_rows))
    return rows


def full(rows: Any) -> EvalSamples:
    return EvalSamples(token_ids=rows, num_valid=np.full(len(rows), rows.shape[1]))


def practised(on: Bench, steps: int = 12) -> None:
    """Steps on text as the held-out text is, so that the optimizer knows its gradients."""
    rng = np.random.default_rng(1)
    for group in on.engine.sharding.param_groups:
        group["lr"] = 1e-2
    for number in range(steps):
        ids = torch.from_numpy(text(rng, 12))
        valid = torch.full((12,), LENGTH)
        on.engine.trial_step(ids, valid, target_tokens=12 * (LENGTH - 1), seed=number)


def by_hand(model: Any, states: Any, rows: Any, config: Any) -> list[Any]:
    """The gradient of the mean loss, each weight divided by the root of Adam's denominator."""
    ids = torch.from_numpy(rows)
    loss = token_losses(model(ids).logits, ids, torch.full((len(ids),), LENGTH)).sum() / (len(ids) * (LENGTH - 1))
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    beta2 = config.betas[1]
    corrected = [states[weight]["exp_avg_sq"] / (1 - beta2 ** int(states[weight]["step"])) for weight in weights]
    mean = sum(float(grad.sum()) for grad in corrected) / sum(grad.numel() for grad in corrected)
    return [
        (gradient / (beta2 * grad + (1 - beta2) * mean).sqrt().add(config.epsilon).sqrt()).double()
        for gradient, grad in zip(gradients, corrected, strict=True)
    ]


def inner(left: Any, right: Any) -> float:
    return sum(float((a * b).sum()) for a, b in zip(left, right, strict=True))


def test_products_and_variances_are_those_of_autograd_whatever_the_clipping_and_the_momentum() -> None:
    rng = np.random.default_rng(2)
    held_out, rows = text(rng, 8), text(rng, 16)
    with bench(micro_batch=4, max_grad_norm=1e-3) as on:
        practised(on)
        parts = [full(part) for part in np.split(held_out, HELD_OUT_PARTS)]
        (estimate,) = measure_alignment(parts, {"web": full(rows)}, on.engine, step=1, seed=SEED).values()
        states = {weight: on.engine.sharding.optimizer.state[weight] for weight in on.model.parameters()}
        theirs = [by_hand(on.model, states, part, training()) for part in np.split(held_out, HELD_OUT_PARTS)]
        ours = [by_hand(on.model, states, part, training()) for part in np.split(rows, SOURCE_PARTS)]
    table = np.array([[inner(left, right) for right in ours] for left in theirs])
    mean = [sum(each) / len(ours) for each in zip(*ours, strict=True)]
    scatter = sum(inner(*[[a - b for a, b in zip(gradient, mean, strict=True)]] * 2) for gradient in ours) / (
        len(ours) - 1
    )
    assert estimate.inner_product == pytest.approx(table.mean(), rel=1e-4)
    assert estimate.standard_error == pytest.approx(np.sqrt(table.mean(axis=0).var(ddof=1) / SOURCE_PARTS), rel=1e-3)
    assert estimate.variance == pytest.approx(2 * scatter, rel=1e-4)  # of one sample; two are in a part
    assert estimate.num_samples == 16


def test_text_like_the_held_out_text_aligns_with_it_and_shuffled_tokens_do_not() -> None:
    rng = np.random.default_rng(3)
    shuffled = rng.permuted(text(rng, 64), axis=1)
    sources = {"like": full(text(rng, 64)), "shuffled": full(shuffled)}
    with bench(micro_batch=8) as on:
        practised(on)
        alignments = measure_alignment([full(text(rng, 16)) for _ in range(4)], sources, on.engine, step=1, seed=SEED)
    like, other = alignments["like"], alignments["shuffled"]
    apart = np.hypot(like.standard_error, other.standard_error)
    assert like.inner_product > other.inner_product + 5 * apart
    assert like.inner_product > 0


def test_the_alignment_foretells_what_a_small_step_gains() -> None:
    """Held-out nats per token before, less those after a step of plain descent in the optimizer's units."""
    rng = np.random.default_rng(4)
    held_out, rows = text(rng, 64), text(rng, 64)
    with bench(micro_batch=64) as on:
        practised(on)
        parts = [full(part) for part in np.split(held_out, HELD_OUT_PARTS)]
        (alignment,) = measure_alignment(parts, {"web": full(rows)}, on.engine, step=1, seed=SEED).values()
        states = {weight: on.engine.sharding.optimizer.state[weight] for weight in on.model.parameters()}
        direction = by_hand(on.model, states, rows, training())
        scale = by_hand_scales(on.model, states)
        before, rate = loss_of(on.model, held_out), 1e-5
        with torch.no_grad():
            for weight, part, factor in zip(on.model.parameters(), direction, scale, strict=True):
                weight -= (rate * part * factor).float()
        gained = before - loss_of(on.model, held_out)
    assert gained / rate == pytest.approx(alignment.inner_product, rel=0.02)


def by_hand_scales(model: Any, states: Any) -> list[Any]:
    beta2 = training().betas[1]
    corrected = [
        states[weight]["exp_avg_sq"].double() / (1 - beta2 ** int(states[weight]["step"]))
        for weight in model.parameters()
    ]
    mean = sum(float(weight.sum()) for weight in corrected) / sum(weight.numel() for weight in corrected)
    return [(beta2 * weight + (1 - beta2) * mean).sqrt().add(training().epsilon).rsqrt() for weight in corrected]


def loss_of(model: Any, rows: Any) -> float:
    ids = torch.from_numpy(rows)
    with torch.no_grad():
        logits = model.double()(ids).logits
        nats = summed_loss_64(logits, ids)
    model.float()
    return nats / (len(ids) * (LENGTH - 1))


def summed_loss_64(logits: Any, ids: Any) -> float:
    return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))


def test_a_gradient_that_is_not_finite_is_no_evidence() -> None:
    rng = np.random.default_rng(6)
    with bench(micro_batch=4) as on:
        practised(on, 2)
        hook = on.model.lm_head.register_forward_hook(
            lambda _module, given, logits: logits * float("nan") if bool(given[0].shape[0] == 1) else logits
        )
        parts = [full(text(rng, 2)) for _ in range(4)]
        assert measure_alignment(parts, {"web": full(text(rng, 8))}, on.engine, step=1, seed=SEED) == {}
        hook.remove()
        assert measure_alignment(parts, {"web": full(text(rng, 8))}, on.engine, step=1, seed=SEED).keys() == {"web"}


# Arithmetic


def tables(theirs: Any, ours: Any) -> Any:
    """The table of a source from parts [I, d] and [J, d]."""
    right = np.vstack([ours, ours.sum(axis=0)])
    return np.vstack([theirs @ right.T, (right**2).sum(axis=1)])


def test_estimates_are_unbiased_and_their_errors_are_those_that_are_seen() -> None:
    """Gradients whose noise is far larger than their mean, as those of a few samples are."""
    rng, size, per_part = np.random.default_rng(7), 400, 3
    means = {name: np.full(size, mean) for name, mean in {"good": 0.05, "bad": -0.02, "none": 0.0}.items()}
    estimates: dict[str, list[GradientAlignment]] = {name: [] for name in means}
    for _ in range(400):
        theirs = 0.05 + rng.normal(0, 1, (HELD_OUT_PARTS, size)) / np.sqrt(per_part)
        every = {
            name: mean + rng.normal(0, 1, (SOURCE_PARTS, size)) / np.sqrt(per_part) for name, mean in means.items()
        }
        sizes = dict.fromkeys(means, np.full(SOURCE_PARTS, per_part))
        result = estimated((theirs**2).sum(axis=1), {name: tables(theirs, own) for name, own in every.items()}, sizes)
        for name, estimate in result.items():
            estimates[name].append(estimate)
    gaps = np.array(
        [a.inner_product - b.inner_product for a, b in zip(estimates["good"], estimates["bad"], strict=True)]
    )
    stated_variances = [
        a.standard_error**2 + b.standard_error**2 for a, b in zip(estimates["good"], estimates["bad"], strict=True)
    ]
    assert gaps.mean() == pytest.approx(400 * 0.05 * 0.07, abs=4 * gaps.std() / 20)
    assert np.sqrt(np.mean(stated_variances)) == pytest.approx(gaps.std(), rel=0.15)
    for name, mean in means.items():
        values = np.array([estimate.inner_product for estimate in estimates[name]])
        assert values.mean() == pytest.approx(400 * 0.05 * mean[0], abs=4 * values.std() / 20)
        assert np.mean([estimate.variance for estimate in estimates[name]]) == pytest.approx(size, rel=0.02)


def test_what_the_held_out_noise_does_to_all_sources_alike_is_no_error() -> None:
    theirs, own = np.random.default_rng(8).normal(0, 1, (HELD_OUT_PARTS, 5)), np.ones((SOURCE_PARTS, 5))
    sizes = {"a": [1] * SOURCE_PARTS, "b": [1] * SOURCE_PARTS}
    estimates = estimated((theirs**2).sum(axis=1), {name: tables(theirs, own) for name in sizes}, sizes)
    assert [estimate.standard_error for estimate in estimates.values()] == pytest.approx([0, 0], abs=1e-12)


def test_parts_of_unequal_size_give_the_variance_of_one_sample() -> None:
    rng = np.random.default_rng(9)
    sizes = np.array([1, 2, 2, 5, 5, 5, 9, 9])
    theirs, variances = np.ones((HELD_OUT_PARTS, 50)), []
    for _ in range(300):
        own = rng.normal(0, 1, (SOURCE_PARTS, 50)) / np.sqrt(sizes)[:, None]
        variances.append(
            estimated((theirs**2).sum(axis=1), {"web": tables(theirs, own)}, {"web": sizes})["web"].variance
        )
    assert np.mean(variances) == pytest.approx(50, rel=0.05)


# Samples and cost


@given(st.integers(1, 60), st.integers(8, 4096), st.integers(1, 10**10), st.floats(1e-4, 1.0, exclude_min=True))
@settings(deadline=None)
def test_the_cost_is_never_above_its_share_unless_at_the_least_samples(
    num_sources: int, length: int, interval_tokens: int, part: float
) -> None:
    config = GradientAlignmentConfig(max_compute_share=part)
    samples = sized(config, num_sources=num_sources, sequence_length=length, interval_tokens=interval_tokens)
    assert FEWEST_ALIGNMENT_SAMPLES <= samples <= MOST_SAMPLES
    paid = cost_tokens(samples, num_sources=num_sources, sequence_length=length)
    assert samples == FEWEST_ALIGNMENT_SAMPLES or paid <= part * interval_tokens * (1 + 1e-9)
    more = cost_tokens(samples + 1, num_sources=num_sources, sequence_length=length)
    assert samples == MOST_SAMPLES or more > part * interval_tokens * (1 - 1e-9)


def test_the_default_of_the_quickstart_costs_a_twentieth() -> None:
    """Every 40 steps of 32 x 128 tokens, four sources and held-out text: with the evaluations a tenth."""
    interval_tokens = 40 * 32 * 128
    samples = sized(GradientAlignmentConfig(), num_sources=4, sequence_length=128, interval_tokens=interval_tokens)
    assert samples == 12
    assert 0.045 < cost_tokens(samples, num_sources=4, sequence_length=128) / interval_tokens <= 0.05


def text_of(part: Any, sequence_length: int) -> HeldOutText:
    return HeldOutText(part=part, seed=1, sequence_length=sequence_length, end_of_document=0, batch_rows=4)


def test_held_out_parts_are_disjoint_and_others_at_each_step(worlds: Any) -> None:
    part = worlds.Documents([[number] * 20 for number in range(1, 101)])
    at = [held_out_parts(text_of(part, 16), 12, step=step) for step in (1, 1, 2)]
    tokens_of_parts = [set(rows.token_ids.flat) - {0} for rows in at[0]]
    assert len(at[0]) == HELD_OUT_PARTS
    assert [len(rows.num_valid) for rows in at[0]] == [3, 3, 3, 3]
    borders = [len(a & b) for a, b in itertools.pairwise(tokens_of_parts)]
    assert max(borders) <= 1  # a document may continue in the next row
    assert sum(map(len, tokens_of_parts)) <= len(set.union(*tokens_of_parts)) + sum(borders)
    for a, b in zip(at[0], at[1], strict=True):
        assert np.array_equal(a.token_ids, b.token_ids)
    assert not np.array_equal(at[0][0].token_ids, at[2][0].token_ids)


def test_validation_text_that_is_too_small_is_refused_before_the_run(worlds: Any) -> None:
    with pytest.raises(UserError, match=r"too small for the alignment.*144 are needed"):
        held_out_parts(text_of(worlds.Documents([[1, 2, 3]] * 35), 16), 8, step=0)
    held_out_parts(text_of(worlds.Documents([[1, 2, 3]] * 36), 16), 8, step=0)


def test_only_live_segments_are_measured(worlds: Any) -> None:
    rng = np.random.default_rng(10)
    part = worlds.Documents(text(rng, 40).tolist())
    retired, live = worlds.Block(text(rng, 9)), worlds.Block(text(rng, 5))
    with bench(micro_batch=4) as on:
        practised(on, 2)
        measure = TokenAlignment(
            text=text_of(part, LENGTH),
            sources={"one": [retired, live]},
            num_samples=16,
            times=Times(start=1, end=1, every_steps=1),
        )
        assert measure(on.engine, step=1, sources={"one": [1]}, global_batch=12)["one"].num_samples == 5
        assert measure(on.engine, step=1, sources={"one": [0, 1]}, global_batch=12)["one"].num_samples == 14


def test_a_source_that_is_smaller_than_asked_for_is_measured_on_what_it_has(worlds: Any) -> None:
    rng = np.random.default_rng(10)
    part = worlds.Documents(text(rng, 40).tolist())
    sources = {"five": [worlds.Block(text(rng, 5))], "one": [worlds.Block(text(rng, 1))]}
    with bench(micro_batch=4) as on:
        practised(on, 2)
        measure = TokenAlignment(
            text=text_of(part, LENGTH),
            sources=sources,
            num_samples=16,
            times=Times(start=1, end=1, every_steps=1),
        )
        alignments = measure(on.engine, step=1, sources={"five": [0], "one": [0]}, global_batch=12)
    assert {name: alignment.num_samples for name, alignment in alignments.items()} == {
        "five": 5
    }  # one sample has no scatter
