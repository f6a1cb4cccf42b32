"""Texts of the model that is trained are the same however it lies on the ranks, and training does not notice them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.gloo import on_ranks
from tests.engines.steps import bench
from tests.engines.tour import held
from trainer.engines.writing import TextBatch

END = 0
# Three batches: on two ranks one of them has nothing to write in the second turn, and no two take as many forwards.
BATCHES = [
    TextBatch(prompts=[[0, 5, 9], [0, 7]], temperature=1.0, top_p=0.95, max_new_tokens=9, seed=3),
    TextBatch(prompts=[[0, 11]], temperature=0.0, top_p=1.0, max_new_tokens=3, seed=4),
    TextBatch(prompts=[[0, 3], [0, 4], [0, 1, 2, 3]], temperature=0.7, top_p=1.0, max_new_tokens=6, seed=5),
]


def wrote() -> dict[str, Any]:
    """The texts of each batch, what the rank held before and after, and its next step."""
    with bench(micro_batch=2, global_batch=8) as on:
        on.step()
        before, texts = held(on), dict[int, Any]()
        for first in range(0, len(BATCHES), on.engine.world_size):
            number = first + on.engine.rank
            own = BATCHES[number] if number < len(BATCHES) else None
            new = on.engine.write_texts(own, end=END)
            assert (own is None) == (new == [])
            if own is not None:
                texts[number] = new
        after = held(on)
        figures = on.step()
        return {"texts": texts, "before": before, "after": after, "loss": figures.loss, "norm": figures.grad_norm}


def not_wrote() -> float:
    with bench(micro_batch=2, global_batch=8) as on:
        on.step()
        return float(on.step().loss)


def texts_of(ranks: list[dict[str, Any]]) -> dict[int, Any]:
    return {number: new for rank in ranks for number, new in rank["texts"].items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (only,) = on_ranks(wrote, 1, tmp_path_factory.mktemp("alone"))
    return only


def test_a_text_ends_at_its_end_or_its_limit_and_sampling_follows_the_seed(alone: dict[str, Any]) -> None:
    for number, batch in enumerate(BATCHES):
        new = alone["texts"][number]
        assert len(new) == len(batch.prompts)
        assert all(len(tokens) <= batch.max_new_tokens and END not in tokens for tokens in new)
    assert len({tuple(tokens) for new in alone["texts"].values() for tokens in new}) > 3


def test_training_goes_on_as_if_nothing_had_been_written(tmp_path: Path, alone: dict[str, Any]) -> None:
    (loss,) = on_ranks(not_wrote, 1, tmp_path)
    assert alone["loss"] == loss


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero3", pytest.param("zero2", marks=pytest.mark.slow)])
def test_two_ranks_write_what_one_writes(tmp_path: Path, alone: dict[str, Any], engine: str) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed", reason="NOT TESTED: deepspeed is not installed")
    ranks = on_ranks(wrote, 2, tmp_path, engine=engine)
    assert texts_of(ranks) == alone["texts"]
    for rank in ranks:
        assert rank["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert all(np.array_equal(a, b) for a, b in zip(rank["before"], rank["after"], strict=True))
