"""Handed cases, tokenizers and models: the model is what it is thought to be, before any data are prepared."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cases.commands import Case
from trainer.tracking.schema import StepLine

BEGIN = 1  # the id that the tokenizer of case 16 prepends
MARKER = 400  # <|im_start|> of case 18, whose <|im_end|> also ends every document


def weights(file: Path) -> dict[str, "np.ndarray"]:
    """The tensors by name, without the prefix of a compiled model."""
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in load_file(file).items()}


@pytest.mark.kind("weights that do not fit the model")
def test_weights_under_other_names_are_refused_before_preparation_or_loaded(case: Case) -> None:
    ended = case.take("13-weights-do-not-fit").fit("--set", "training.learning_rate=1e-12")
    if ended.succeeded():
        given, saved = (weights(folder / "model/model.safetensors") for folder in (case.folder, case.home / "run"))
        for name, tensor in saved.items():
            np.testing.assert_allclose(tensor, given[name], atol=1e-6)
    else:
        ended.refused("model.", "weight")
        assert not case.is_prepared()


@pytest.mark.kind("model that sees the future")
def test_a_model_that_sees_the_future_is_refused_by_check_and_fit(case: Case) -> None:
    case.take("14-model-sees-the-future").check().refused("causal")
    case.fit().refused("causal")
    assert not case.is_prepared()


@pytest.mark.kind("model that sees the future")
def test_the_same_model_as_a_decoder_is_accepted(case: Case) -> None:
    case.take("14-model-sees-the-future").edit("config: {", "config: {is_decoder: true, ").check().told("no mistakes")


@pytest.mark.kind("tokenizer larger than the embedding")
def test_a_token_without_a_row_that_no_text_uses_is_no_obstacle(case: Case) -> None:
    ended = case.take("15-tokenizer-one-larger").fit()
    if not ended.succeeded():
        ended.refused("401", "400")
        assert not case.is_prepared()


@pytest.mark.kind("begin of sequence")
def test_each_document_begins_with_the_token_that_its_tokenizer_prepends(case: Case) -> None:
    case.take("16-begin-of-sequence").fit().told()
    rows = [case.rows(source) for source in ("real", "syn")]
    assert np.count_nonzero(case.training_tokens() == BEGIN) == sum(row["used"] for row in rows)
    assert np.count_nonzero(case.held_out_tokens() == BEGIN) == sum(row["held_out"] for row in rows)


@pytest.mark.kind("tokenizer that loses text")
def test_text_that_the_tokenizer_cannot_spell_is_told_with_its_share_or_refused(case: Case) -> None:
    ended = case.take("17-tokenizer-loses-text").fit()
    if not ended.succeeded():
        ended.refused()
    lines = [line for line in ended.stderr.splitlines() if "tokenizer" in line]
    assert any(re.search(r"\d ?%", line) for line in lines), ended.stderr


@pytest.mark.kind("rendered chat")
def test_markers_that_are_spelled_as_text_are_told(case: Case) -> None:
    case.take("18-rendered-chat").fit().told("<|im_start|>")
    assert not (case.training_tokens() == MARKER).any()


@pytest.mark.kind("rendered chat")
def test_a_source_can_ask_for_its_markers_to_be_read(case: Case) -> None:
    case.take("18-rendered-chat").edit("path: real.jsonl,", "path: real.jsonl, special_tokens: parse,").fit().told()
    rows = [json.loads(line) for line in (case.folder / "real.jsonl").read_text().splitlines()]
    num_markers = sum(row["text"].count("<|im_start|>") for row in rows)
    tokens = np.concatenate([case.training_tokens().ravel(), case.held_out_tokens()])
    assert (tokens == MARKER).sum() == num_markers > 0


@pytest.mark.kind("setting without effect")
def test_the_routers_loss_is_trained_on_or_its_keys_are_refused(case: Case) -> None:
    ended = case.take("19-router-loss").fit(run="with")
    if not ended.succeeded():
        ended.refused("router_aux_loss_coef")
        return
    case.edit(", output_router_logits: true, router_aux_loss_coef: 10.0", "").fit(run="without").told()
    losses = [[line.loss for line in case.journal(run) if isinstance(line, StepLine)] for run in ("with", "without")]
    assert len(losses[0]) == len(losses[1]) == 4
    assert losses[0][1:] != losses[1][1:]
