"""Texts of a model in batches: what a batch holds changes no text, and no weight is random."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.synthesis.chat_model import write_model
from trainer.base.errors import UserError
from trainer.model.writer import Writer, Written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer") / "model"
    write_model(folder)
    return folder


def written(folder: Path, *prompts: str, tokens: int = 12) -> list[Written]:
    return Writer(str(folder)).write(prompts, temperature=0.0, top_p=1.0, max_new_tokens=tokens, seed=3)


def renamed(folder: Path, to: Path, rename: dict[str, str | None]) -> Path:
    """A copy whose weights have other names; those named None are left out."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    weights = load_file(to / "model.safetensors")
    kept = {rename.get(name, name): weight for name, weight in weights.items() if rename.get(name, name) is not None}
    save_file(kept, to / "model.safetensors", metadata={"format": "pt"})  # type: ignore[arg-type]
    return to


def test_a_greedy_text_is_the_same_alone_and_padded_in_a_batch(folder: Path) -> None:
    alone = [written(folder, prompt)[0] for prompt in ("short", "a prompt of many more letters than the other")]
    together = written(folder, "short", "a prompt of many more letters than the other")
    assert together == alone


def test_a_prompt_that_leaves_no_room_is_not_written_and_the_others_are(folder: Path) -> None:
    long, short = written(folder, "x" * 300, "short")
    assert (long.text, long.is_too_long) == ("", True)
    assert short == written(folder, "short")[0]


def test_sampling_leaves_the_callers_random_state_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    texts = [
        Writer(str(folder)).write(["a"], temperature=1.0, top_p=0.9, max_new_tokens=8, seed=seed)[0].text
        for seed in (1, 1, 2)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert texts[0] == texts[1] != texts[2]


def test_the_prefix_of_a_wrapper_is_taken_off(folder: Path, tmp_path: Path) -> None:
    names = load_file(folder / "model.safetensors")
    wrapped = renamed(folder, tmp_path / "wrapped", {name: f"module.{name}" for name in names})
    assert written(wrapped, "short") == written(folder, "short")


def test_a_weight_that_is_in_no_file_is_refused(folder: Path, tmp_path: Path) -> None:
    name = next(name for name in load_file(folder / "model.safetensors") if "mlp" in name)
    broken = renamed(folder, tmp_path / "broken", {name: None})
    with pytest.raises(UserError, match="mlp"):
        written(broken, "short")


def test_a_model_saved_with_its_cache_off_reads_each_token_once(folder: Path, tmp_path: Path) -> None:
    copy = renamed(folder, tmp_path / "off", {})
    settings = copy / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "use_cache": False}))
    writer, lengths = Writer(str(copy)), []
    writer.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: lengths.append(ids[0].shape[1]))
    writer.write(["short"], temperature=0.0, top_p=1.0, max_new_tokens=6, seed=3)
    assert set(lengths[1:]) == {1}
