"""However weights, gradients and moments are spread: a step is skipped on all ranks or on none, what is saved comes
back bit for bit under the same engine, and as close as sums allow under any other.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.engines.gloo import on_ranks
from tests.engines.tour import (
    EMBEDDINGS,
    POISONS,
    alignments,
    balanced,
    leave,
    take_up,
    tour,
    uneven,
    written_as_transformers_loads_it,
)
from trainer.base.records import GradientAlignment

SLOW = pytest.mark.slow
# One of each kind stays in the default suite: ZeRO-1 and -2 share their buffers but under bf16, stage 3 and FSDP2 have
# their own.
TOURS = [
    ("fsdp2", "fp32"),
    ("zero3", "fp32"),
    ("zero1", "bf16"),
    pytest.param(("zero1", "fp32"), marks=SLOW),
    pytest.param(("zero2", "fp32"), marks=SLOW),
    pytest.param(("zero2", "bf16"), marks=SLOW),
    pytest.param(("zero3", "bf16"), marks=SLOW),
    pytest.param(("fsdp2", "bf16"), marks=SLOW),
    pytest.param(("ddp", "fp32"), marks=SLOW),
    pytest.param(("ddp", "bf16"), marks=SLOW),
]


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, str]], list[dict[str, Any]]]:
    """What two ranks of an engine saw at a precision, driven once."""
    tours: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def of(launch: tuple[str, str]) -> list[dict[str, Any]]:
        if launch not in tours:
            if launch[0].startswith("zero"):
                pytest.importorskip("deepspeed", reason="NOT TESTED: deepspeed is not installed")
            folder = tmp_path_factory.mktemp("-".join(launch))
            tours[launch] = on_ranks(tour, 2, folder, folder / "saved", launch[1], engine=launch[0])
        return tours[launch]

    return of


Toured = Callable[[tuple[str, str]], list[dict[str, Any]]]


def equal(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_restoring_repeats_the_steps_after_it_bit_for_bit(toured: Toured, launch: tuple[str, str]) -> None:
    for rank in toured(launch):
        (expected, expected_state), (repeated, state) = rank["restored"]
        assert repeated == expected
        assert equal(state, expected_state)


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_trial_steps_move_the_weights_and_leave_no_trace(toured: Toured, launch: tuple[str, str]) -> None:
    for rank in toured(launch):
        before, inside, after = rank["trial_steps"]
        assert not equal(before, inside)
        assert equal(before, after)


def assert_same_alignment(
    actual: Mapping[str, GradientAlignment], expected: Mapping[str, GradientAlignment], precision: str = "fp32"
) -> None:
    """Under bf16 each gradient is rounded: nearly orthogonal ones have the same product only within its error."""
    assert actual.keys() == expected.keys() == {"real", "made"}
    for name, alignment in actual.items():
        product, error = expected[name].inner_product, expected[name].standard_error
        assert alignment.num_samples == expected[name].num_samples
        if precision == "fp32":
            assert alignment.inner_product == pytest.approx(product, abs=1e-4 * (abs(product) + error))
            assert alignment.standard_error == pytest.approx(error, rel=1e-3)
        else:
            assert alignment.inner_product == pytest.approx(product, abs=error)
        assert alignment.variance == pytest.approx(expected[name].variance, rel=1e-4 if precision == "fp32" else 0.1)


@pytest.fixture(scope="module")
def alone() -> Mapping[str, GradientAlignment]:
    """Alignments on one process."""
    *_, alignments_by_source = alignments()
    return alignments_by_source


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_alignments_are_those_of_one_process_and_leave_no_trace(
    toured: Toured, launch: tuple[str, str], alone: Mapping[str, GradientAlignment]
) -> None:
    ranks = toured(launch)
    for before, after, actual in (rank["aligned"] for rank in ranks):
        assert equal(before, after)
        assert actual == ranks[0]["aligned"][2]  # all ranks decide on the same numbers
        assert_same_alignment(actual, alone, launch[1])


@pytest.mark.parametrize("ranks", [2, 3])
def test_alignments_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, alone: Mapping[str, GradientAlignment], ranks: int
) -> None:
    for before, after, actual in on_ranks(alignments, ranks, tmp_path):
        assert equal(before, after)
        assert_same_alignment(actual, alone)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_what_is_not_finite_on_one_rank_leaves_all_ranks_as_they_were(
    toured: Toured, launch: tuple[str, str], poison: str
) -> None:
    for rank in toured(launch):
        updated, before, after, next_updated = rank["skipped"][poison]
        assert not updated
        assert equal(before, after)
        assert next_updated


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_a_step_asks_for_one_all_reduce_of_five_numbers_and_one_for_each_source(
    toured: Toured, launch: tuple[str, str]
) -> None:
    for rank in toured(launch):
        assert rank["collectives"] == [5 + 2]


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_what_is_to_be_spread_is_spread_over_the_ranks(toured: Toured, launch: tuple[str, str]) -> None:
    for rank in toured(launch):  # weights and two moments: 3 numbers of each weight, on two ranks half of that
        assert rank["part"] == pytest.approx(3.0 if launch[0] == "ddp" else 1.5, rel=0.05)


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_a_run_begins_with_the_weights_of_the_recipe_whatever_the_precision(
    toured: Toured, launch: tuple[str, str]
) -> None:
    assert [rank["begun"] for rank in toured(launch)] == [True, True]


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_two_steps_on_two_ranks_are_two_at_the_rate_that_was_given(toured: Toured, launch: tuple[str, str]) -> None:
    for rank in toured(launch):
        assert (rank["counted"], rank["rates"]) == ({2}, {1e-2})


@pytest.mark.parametrize("launch", TOURS, ids="-".join)
def test_no_engine_compiles_anything_whose_lock_a_killed_run_could_leave(
    toured: Toured, launch: tuple[str, str]
) -> None:
    assert [rank["compiled"] for rank in toured(launch)] == [[], []]


@pytest.mark.parametrize(
    ("wrote", "reads"),
    [
        (("fsdp2", 2), ("ddp", 1)),
        (("zero3", 3), ("fsdp2", 2)),
        (("ddp", 1), ("zero3", 2)),
        pytest.param(("zero2", 2), ("zero1", 3), marks=SLOW),
        pytest.param(("zero1", 3), ("zero3", 2), marks=SLOW),
        pytest.param(("fsdp2", 3), ("zero2", 2), marks=SLOW),
        pytest.param(("ddp", 2), ("fsdp2", 3), marks=SLOW),
        pytest.param(("zero3", 2), ("ddp", 2), marks=SLOW),
    ],
    ids=lambda side: f"{side[0]} on {side[1]}",
)
def test_a_checkpoint_is_resumed_by_another_engine_on_another_number_of_ranks(
    tmp_path: Path, wrote: tuple[str, int], reads: tuple[str, int]
) -> None:
    folder = tmp_path / "saved"
    (engine, ranks), (other, other_ranks) = wrote, reads
    expected = on_ranks(leave, ranks, tmp_path, folder, engine=engine)[0]
    for resumed in on_ranks(take_up, other_ranks, tmp_path, folder, engine=other):
        for mine, theirs in zip(resumed, expected, strict=True):
            assert mine.batch_hash == theirs.batch_hash
            assert mine.loss == pytest.approx(theirs.loss, rel=1e-6)
            for loss, expected_loss in zip(mine.losses, theirs.losses, strict=True):
                assert loss.tokens == expected_loss.tokens
                assert loss.loss_sum_nats == pytest.approx(expected_loss.loss_sum_nats, rel=1e-6)
            assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)


@pytest.mark.parametrize("global_batch", [7, 2], ids=["uneven", "more ranks than samples"])
@pytest.mark.parametrize("engine", ["fsdp2", pytest.param("zero3", marks=SLOW)])
def test_uneven_batches_hang_no_rank_and_change_no_loss(tmp_path: Path, engine: str, global_batch: int) -> None:
    (expected,) = on_ranks(uneven, 1, tmp_path, 2, global_batch)
    for actual in on_ranks(uneven, 3, tmp_path, 2, global_batch, engine=engine):
        assert [step.batch_hash for step in actual] == [step.batch_hash for step in expected]
        assert [step.loss for step in actual] == pytest.approx([step.loss for step in expected], rel=1e-5)


@pytest.mark.kind("tied weights")
@pytest.mark.parametrize(
    ("engine", "tied"),  # DeepSpeed sets up one engine in a process
    [
        ("fsdp2", EMBEDDINGS),
        ("zero3", EMBEDDINGS[2:]),
        pytest.param("ddp", EMBEDDINGS, marks=SLOW),
        *(
            pytest.param(engine, [embeddings], marks=SLOW)
            for engine in ("zero1", "zero2", "zero3")
            for embeddings in EMBEDDINGS
        ),
    ],
)
def test_the_written_model_is_the_trained_one_whether_its_embeddings_are_one_matrix_or_two(
    tmp_path: Path, engine: str, tied: Sequence[str]
) -> None:
    of_main, of_other = on_ranks(written_as_transformers_loads_it, 2, tmp_path, tmp_path, tied, engine=engine)
    for embeddings in tied:
        logits, loaded, texts = of_main[embeddings]
        np.testing.assert_allclose(loaded, logits, rtol=1e-5, atol=1e-6)
        written = load_file(tmp_path / embeddings / "model.safetensors").keys()
        assert ("lm_head.weight" in written) == (embeddings != EMBEDDINGS[0])
        config = json.loads((tmp_path / embeddings / "config.json").read_text())
        assert config["tie_word_embeddings"] == (embeddings == EMBEDDINGS[0])
        (text,) = texts
        assert 1 <= len(text) <= 4  # it may end its document
        assert of_other[embeddings][2] == []


@pytest.mark.parametrize(
    "engine", ["fsdp2", *(pytest.param(engine, marks=SLOW) for engine in ("ddp", "zero2", "zero3"))]
)
def test_experts_are_balanced_alike_on_any_number_of_ranks(tmp_path: Path, engine: str) -> None:
    (alone,) = on_ranks(balanced, 1, tmp_path, tmp_path)
    for steps in on_ranks(balanced, 2, tmp_path, tmp_path, engine=engine):
        for step, expected in zip(steps, alone, strict=True):
            assert step.router_loss == pytest.approx(expected.router_loss, rel=1e-5)
            assert step.loss == pytest.approx(expected.loss, rel=1e-5)
            assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
