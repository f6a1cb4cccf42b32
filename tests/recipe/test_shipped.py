"""The shipped recipes train: a few steps of each, from the file that people copy."""

import json
from pathlib import Path

import pytest

import trainer
from trainer.recipe import shipped_recipes
from trainer.recipe.shipped import copy_recipes

FEW = ["training.steps=4", "training.schedule={kind: constant}", "evaluation.every_steps=2", "checkpoint.every_steps=4"]
NAMES = [recipe.name for recipe in shipped_recipes()]
OVER_THE_SAMPLE = ("your-own-data", "continued-pretraining")  # no more data than the two small files
AFTER_A_ROUND = ("distilled", "principled", "textbooks-and-rewrites", "verified")  # in test_five_ways


def test_the_shipped_recipes_are_these() -> None:
    assert NAMES == [
        "quickstart", "constant", "continued-pretraining", "distilled", "mostly-synthetic", "parity", "principled",
        "scarce-real", "scheduled", "self-learning", "solver", "textbooks-and-rewrites", "verified", "your-own-data",
    ]  # fmt: skip


def few_steps(recipe: Path | str, run: Path, *overrides: str) -> None:
    outcome = trainer.fit(recipe, [*FEW, "tracking.trackers=[]", *overrides], run=run)
    assert (outcome.state, outcome.step) == ("finished", 4)
    assert (run / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*OVER_THE_SAMPLE, *AFTER_A_ROUND)])
def test_a_recipe_over_the_demo_text_trains(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cache = request.config.cache.mkdir("demo-text") if request.config.cache else tmp_path  # prepared once for all
    few_steps(name, tmp_path / "run", f"data.cache={cache}", "evaluation.validation_documents=16")


def test_your_own_two_files_train(tmp_path: Path) -> None:
    (recipe,) = copy_recipes("your-own-data", tmp_path)
    for name in ("real", "synthetic"):
        rows = (tmp_path / "data" / "sample" / f"{name}.jsonl").read_text().splitlines()
        texts = [json.loads(row)["text"] for row in rows]
        (tmp_path / f"my_{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"extends: {recipe.name}\nname: mine\ndata:\n  cache: cache\n  sources:\n"
        "    real: {path: my_real.jsonl, id_column: null, slice: null}\n"
        "    synthetic: {path: my_synthetic.jsonl, slice: null, provenance: null}\n"
    )
    few_steps(mine, tmp_path / "run")
    assert trainer.open_run(tmp_path / "run").recipe.data.sources["real"].path == str(tmp_path / "my_real.jsonl")


def test_a_pretrained_model_is_trained_further(tmp_path: Path) -> None:
    few_steps("your-own-data", tmp_path / "first", f"data.cache={tmp_path}")
    pretrained = tmp_path / "first" / "model"
    overrides = [f"model.pretrained={pretrained}", f"data.tokenizer.pretrained={pretrained}", "training.precision=fp32"]
    few_steps(
        "continued-pretraining", tmp_path / "second", *overrides, "data.sequence_length=128", f"data.cache={tmp_path}"
    )
