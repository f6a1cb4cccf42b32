"""Evidence on sources is right on cases with a known answer, and costs the run nothing but time."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from trainer.evaluate.worth import WorthConfig, WorthCounts, WorthReading, held_out_rows, judged, read_worth, sized
from trainer.model.build import ModelConfig, build_model
from trainer.model.objective import summed_loss
from trainer.records import UserError

T = 16
JUNK = 45  # a token that real text never holds
COUNTS = WorthCounts(gradient_samples=48, held_out_samples=48, samples_per_source=48)
MODEL = {
    "architecture": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def language(rng: np.random.Generator, num_tokens: int) -> Any:
    """Real text: each token follows from the one before, with some noise."""
    table = np.random.default_rng(9).permutation(np.arange(1, 40))
    tokens = np.empty(num_tokens, dtype=np.int64)
    tokens[0] = rng.integers(1, 40)
    for place in range(1, num_tokens):
        tokens[place] = table[tokens[place - 1] - 1] if rng.random() < 0.8 else rng.integers(1, 40)
    return tokens


def packed(rng: np.random.Generator, num_rows: int) -> Any:
    """Samples of real text as preparation packs it, with end-of-document tokens."""
    pieces = [np.append(language(rng, int(rng.integers(10, 40))), 0) for _ in range(num_rows * T // 10)]
    return np.concatenate(pieces)[: num_rows * T].reshape(num_rows, T)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """A model after 30 steps of real text and junk, and its optimizer."""
    model = build_model(
        ModelConfig.model_validate(MODEL), vocabulary_size=50, end_of_document=0, sequence_length=T, seed=1
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    step(model, optimizer, 30)
    return model, optimizer


def step(model: Any, optimizer: Any, count: int, seed: int = 4) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = torch.from_numpy(packed(rng, 16))
        ids[:4] = JUNK
        summed_loss(model(ids).logits, ids, torch.full((16,), T)).div(16 * (T - 1)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def part(worlds: Any) -> Any:
    rng = np.random.default_rng(5)
    return worlds.Documents([language(rng, int(rng.integers(10, 40))).tolist() for _ in range(200)])


@pytest.fixture(scope="module")
def sources(worlds: Any, part: Any) -> dict[str, Any]:
    rng = np.random.default_rng(6)
    pieces = [np.append(part.tokens[a:b], 0) for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
    copied = np.concatenate(pieces).astype(np.int64)
    return {
        "copy": [worlds.Block(copied[: len(copied) // T * T].reshape(-1, T))],
        "fresh": [
            worlds.Block(packed(rng, 100)),
            worlds.Block(packed(rng, 9)),
        ],
        "junk": [worlds.Block(np.full((80, T), JUNK))],
    }


def read(port: Any, part: Any, sources: Any, counts: WorthCounts = COUNTS, step: int = 3) -> WorthReading:
    return read_worth(
        part, sources, counts, port, step=step, seed=1, sequence_length=T, end_of_document=0, batch_rows=10
    )


def test_a_copy_of_held_out_text_is_worth_one_and_junk_nothing(
    worlds: Any, trained: Any, part: Any, sources: Any
) -> None:
    counts = WorthCounts(gradient_samples=120, held_out_samples=120, samples_per_source=100)
    result = read(worlds.Replica(*trained), part, sources, counts)
    assert result.normaliser_relative_error is not None
    for name in ("copy", "fresh"):
        worth = result.worth[name]
        assert abs(worth.value - 1) < 0.2
        assert np.hypot(worth.standard_error, result.normaliser_relative_error) < 0.1
    assert abs(result.worth["junk"].value) < 0.05
    assert result.held_out_change_nats == pytest.approx(0.04, rel=0.5)


def test_the_worth_is_the_alignment_of_gradients(
    worlds: Any, trained: Any, part: Any, sources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the definition: without optimizer state the direction is the held-out gradient itself."""
    monkeypatch.setattr("trainer.evaluate.worth.HELD_OUT_CHANGE_NATS", 1e-3)  # so small that curvature is nothing
    model = trained[0]
    port = worlds.Replica(model, torch.optim.AdamW(model.parameters()))
    everything = {
        name: [worlds.Block(np.concatenate([block.rows for block in blocks])[:48])] for name, blocks in sources.items()
    }
    seen: list[Any] = []
    inner = port.held_out_gradient

    def watched(batches: Any, *, target_tokens: int) -> None:
        inner(batches, target_tokens=target_tokens)
        seen.append(torch.cat([parameter.grad.flatten().clone() for parameter in model.parameters()]))

    port.held_out_gradient = watched
    result = read(port, part, everything)

    def alignment(rows: Any) -> float:
        ids = torch.from_numpy(rows)
        summed_loss(port.eval_logits(ids), ids, torch.full((len(ids),), T)).div(len(ids) * (T - 1)).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        port.clear_gradients()
        return float(gradient @ seen[0])

    ratio = {
        name: alignment(block[0].rows) / result.worth[name].value
        for name, block in everything.items()
        if name != "junk"
    }
    assert ratio["copy"] == pytest.approx(ratio["fresh"], rel=0.02)


def test_training_goes_on_bit_for_bit_as_if_nothing_had_been_measured(
    worlds: Any, trained: Any, part: Any, sources: Any
) -> None:
    def run(measured: bool) -> tuple[Any, Any]:
        model = copy.deepcopy(trained[0])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
        step(model, optimizer, 3)
        torch.manual_seed(8)
        if measured:
            before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            read(worlds.Replica(model, optimizer), part, sources)
            assert all(parameter.grad is None for parameter in model.parameters())
            assert all(torch.equal(before[0][name], value) for name, value in model.state_dict().items())
            torch.testing.assert_close(before[1], optimizer.state_dict(), rtol=0, atol=0)
            assert model.training
        noise = torch.rand(3)
        step(model, optimizer, 3, seed=5)
        return noise, [parameter.detach() for parameter in model.parameters()]

    for one, two in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_weights_come_back_when_a_forward_fails(worlds: Any, trained: Any, part: Any, sources: Any) -> None:
    port = worlds.Replica(*trained)
    before = copy.deepcopy(trained[0].state_dict())
    calls = []

    def fail(ids: Any) -> Any:
        calls.append(ids)
        if len(calls) > 8:
            raise MemoryError
        return worlds.Replica.eval_logits(port, ids)

    port.eval_logits = fail
    with pytest.raises(MemoryError):
        read(port, part, sources)
    assert all(torch.equal(before[name], value) for name, value in trained[0].state_dict().items())


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_agree_and_find_what_one_process_finds(
    worlds: Any, trained: Any, part: Any, sources: Any, world_size: int
) -> None:
    def work(rank: int, meeting: Any) -> WorthReading:
        model, optimizer = copy.deepcopy(trained)
        return read(worlds.Replica(model, optimizer, rank, meeting), part, sources)

    alone = worlds.in_ranks(1, work)[0]
    results = worlds.in_ranks(world_size, work)
    assert all(result == results[0] for result in results)
    assert results[0].scale == pytest.approx(alone.scale, rel=1e-4)
    for name, worth in alone.worth.items():
        assert results[0].worth[name].value == pytest.approx(worth.value, abs=1e-3)


def test_a_worth_without_a_held_out_gain_is_no_evidence() -> None:
    rng = np.random.default_rng(0)
    above = {"": rng.normal(0, 1, 20), "web": rng.normal(1, 0.1, 20)}
    below = {name: np.zeros(20) for name in above}
    targets = {name: np.full(20, 15) for name in above}
    assert judged(above, below, targets, step=1, scale=1.0).worth == {}
    above[""] += 3
    assert set(judged(above, below, targets, step=1, scale=1.0).worth) == {"web"}


def test_nothing_moved_is_no_evidence() -> None:
    still = {"": np.zeros(8), "web": np.zeros(8)}
    result = judged(still, still, {name: np.full(8, 15) for name in still}, step=1, scale=0.0)
    assert result.worth == {}
    assert result.normaliser_relative_error is None


def test_one_sample_is_no_evidence() -> None:
    above = {"": np.full(8, 2.0), "tiny": np.ones(1)}
    below = {name: np.zeros_like(nats) for name, nats in above.items()}
    targets = {name: np.full(len(nats), 15) for name, nats in above.items()}
    assert judged(above, below, targets, step=1, scale=1.0).worth == {}


@pytest.mark.parametrize("num_sources", [1, 4, 40])
@pytest.mark.parametrize("interval_tokens", [163_840, 1_000_000])
def test_the_default_costs_no_more_than_its_share(num_sources: int, interval_tokens: int) -> None:
    counts = sized(WorthConfig(), num_sources=num_sources, sequence_length=128, interval_tokens=interval_tokens)
    cost = counts.cost_tokens(num_sources=num_sources, sequence_length=128) / interval_tokens
    assert cost <= 0.10 or counts.samples_per_source == 4
    assert cost > 0.08 or counts.samples_per_source == 256


def test_stated_counts_are_taken_as_they_are() -> None:
    config = WorthConfig(gradient_samples=5, held_out_samples=6, samples_per_source=7)
    counts = sized(config, num_sources=3, sequence_length=128, interval_tokens=10)
    assert counts == WorthCounts(gradient_samples=5, held_out_samples=6, samples_per_source=7)
    assert counts.cost_tokens(num_sources=3, sequence_length=100) == pytest.approx((5 + 2 / 3 * (6 + 21)) * 100)


def test_a_steer_part_that_is_too_small_is_refused_before_the_run(worlds: Any) -> None:
    with pytest.raises(UserError, match="too small for evidence"):
        held_out_rows(worlds.Documents([[1, 2, 3]] * 20), COUNTS, sequence_length=T)


def test_a_small_steer_part_is_shared_out_in_proportion(part: Any) -> None:
    many = WorthCounts(gradient_samples=6000, held_out_samples=3000, samples_per_source=4)
    gradient, held_out = held_out_rows(part, many, sequence_length=T)
    assert gradient == pytest.approx(2 * held_out, abs=2)
    assert (gradient + held_out) * T < len(part.tokens) + 200
