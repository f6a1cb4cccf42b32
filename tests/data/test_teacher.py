"""A teacher's distributions stand beside the prepared tokens, from the store to the rows that a rank is handed."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.data.corpus import prepared, recipe
from tests.synthesis.chat_model import write_model
from trainer.base.errors import UserError
from trainer.data.batch_hash import batch_hash
from trainer.data.loader import StepBatch, Stream
from trainer.data.store import PreparedData
from trainer.data.store_files import DamagedStoreError
from trainer.data.teacher_columns import LOG_PROBABILITIES
from trainer.data.whole import open_whole
from trainer.mixture.ledger import BatchSize, Ledger, Segment, Shares
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan

TOP_K = 5


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_model(folder)
    return folder


def taught(folder: Path, teacher: Path | None, tokenizer: Path, **changes: Any) -> dict[str, Any]:
    """The small recipe under the tokenizer in a folder, with a teacher of its synthetic source."""
    section = {"model": str(teacher), "top_k": TOP_K, "sources": ["made"], "batch": 3, **changes}
    return recipe(tokenizer={"pretrained": str(tokenizer)}, **({} if teacher is None else {"teacher": section}))


@cache
def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def expected_of(teacher: Path, ids: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """By transformers alone: the likeliest tokens after each token, log-probabilities of these and of the rest."""
    with torch.no_grad():
        log_probabilities = torch.log_softmax(loaded(teacher)(input_ids=torch.from_numpy(ids)).logits, -1)
    values, likeliest = log_probabilities.topk(TOP_K, -1)
    return likeliest, torch.cat([values, torch.log1p(-values.exp().sum(-1, keepdim=True))], -1)


def test_each_token_of_a_taught_source_has_what_the_teacher_expects_after_it(folder: Path, teacher: Path) -> None:
    data = prepared(folder, taught(folder, teacher, teacher))
    assert data.sources["web"].segments[0].teacher is None
    segment = data.sources["made"].segments[0]
    assert segment.teacher is not None
    samples = np.arange(segment.num_samples)
    ids, log_probabilities = segment.teacher.gather(samples)
    likeliest, expected = expected_of(teacher, segment.gather(samples).astype(np.int64))
    assert ids.dtype == np.uint16
    assert np.array_equal(ids, likeliest.numpy())
    np.testing.assert_allclose(log_probabilities, expected.numpy(), rtol=2e-3, atol=2e-3)


def batches(data: PreparedData, rank: int = 0, world_size: int = 1) -> tuple[list[StepBatch], Any]:
    plan = Plan(
        3,
        Ledger([
            *(
                Segment(step=1, source=name, kind=kind, segment=0, num_samples=data.segments[name][0].num_samples)  # type: ignore[arg-type]
                for name, kind in (("web", "real"), ("made", "synthetic"))
            ),
            BatchSize(step=1, global_batch=7),
            Shares(step=1, shares={"web": 400_000, "made": 600_000}),
        ]),
    )  # fmt: skip
    stream = Stream(
        plan,
        {(name, 0): data.segments[name][0] for name in ("web", "made")},
        state=plan.start(),
        partition=RankPartition(rank=rank, world_size=world_size, micro_batch=2),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
    )
    steps = [stream.next() for _ in range(6)]
    stream.close()
    return steps, {(0, 0): data.segments["web"][0], (1, 0): data.segments["made"][0]}


def test_every_rank_is_handed_its_rows_with_the_distributions_of_the_same_rows(folder: Path, teacher: Path) -> None:
    data, taught_tokens = prepared(folder, taught(folder, teacher, teacher)), [0] * 6
    for rank in range(2):
        for number, step in enumerate(batches(data, rank, 2)[0]):
            row_sources = iter(step.row_sources.tolist())
            for micro in step.micro_batches:
                assert micro.teacher is not None
                for row, valid in enumerate(micro.num_valid.tolist()):
                    is_taught = next(row_sources) == 1
                    assert bool(micro.teacher.is_given[row]) == is_taught
                    if is_taught:
                        likeliest, _ = expected_of(teacher, micro.input_ids[row : row + 1].numpy())
                        assert torch.equal(micro.teacher.ids[row, :valid].long(), likeliest[0, :valid])
                        taught_tokens[number] += valid - 1
    assert [step.taught_tokens for step in batches(data)[0]] == taught_tokens


def test_a_teacher_changes_no_batch_and_no_hash_of_one(folder: Path, teacher: Path) -> None:
    with_teacher, stores = batches(prepared(folder, taught(folder, teacher, teacher)))
    without, _ = batches(prepared(folder, taught(folder, None, teacher)))
    assert [step.batch_hash for step in with_teacher] == [step.batch_hash for step in without]
    assert [batch_hash(step.plan, stores) for step in with_teacher] == [step.batch_hash for step in with_teacher]
    assert all(step.taught_tokens is None and step.micro_batches[0].teacher is None for step in without)


def test_a_store_whose_distributions_have_changed_is_damaged(folder: Path, teacher: Path) -> None:
    data = prepared(folder, taught(folder, teacher, teacher))
    file = data.segments["made"][0].folder / LOG_PROBABILITIES
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedStoreError, match=LOG_PROBABILITIES):
        open_whole(data.folder)


def test_other_weights_of_the_teacher_are_another_store_and_another_batch_size_is_not(
    folder: Path, teacher: Path, tmp_path: Path
) -> None:
    first = prepared(folder, taught(folder, teacher, teacher))
    assert prepared(folder, taught(folder, teacher, teacher, batch=1)).folder == first.folder
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert prepared(folder, taught(folder, other, teacher)).folder != first.folder


def test_a_teacher_with_another_tokenizer_is_refused_with_the_first_token_that_differs(
    folder: Path, teacher: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"another tokenizer than the recipe.*token 'a'"):
        prepared(folder, taught(folder, other, teacher))


def test_a_teacher_that_cuts_texts_otherwise_is_refused_though_its_tokens_are_the_same(
    folder: Path, teacher: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="another normalizer"):
        prepared(folder, taught(folder, other, teacher))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"top_k": 1000}, "leaves no token for the rest"), ({"sources": ["mode"]}, "'mode' is not a source")],
)
def test_a_teacher_that_cannot_be_is_refused(
    folder: Path, teacher: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UserError, ValidationError), match=message):
        prepared(folder, taught(folder, teacher, teacher, **changes))


def test_a_context_shorter_than_a_sample_is_refused(folder: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match="context is shorter than a sample"):
        prepared(folder, {**taught(folder, teacher, teacher), "sequence_length": 512})


def test_a_teacher_beside_a_tokenizer_that_is_trained_anew_is_refused(folder: Path, teacher: Path) -> None:
    with pytest.raises(ValidationError, match="its own tokenizer"):
        prepared(folder, recipe(teacher={"model": str(teacher)}))
