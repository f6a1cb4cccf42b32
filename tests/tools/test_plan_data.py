"""What a plan says of the data: rows counted from the files, and held-out documents that the run would refuse."""

import json
import random
import re
from pathlib import Path

import pytest

from benchmarks.templates import word
from tests.tools.plans import planned
from trainer.data.prepare import prepare
from trainer.recipe import load_recipe

BY_SHARE = "{kind: share, source: real, validation: 0.1, test: 0.1}"


def small_recipe(folder: Path, *, held_out: str = BY_SHARE) -> Path:
    """A recipe whose policy measures source value, with 60 real documents of 40 words."""
    rng = random.Random(1)
    for name, number in (("real", 60), ("syn", 40)):
        (folder / name).mkdir(exist_ok=True)
        rows = [{"text": " ".join(word(rng, 4) for _ in range(40))} for _ in range(number)]
        (folder / name / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "real" / ".b.jsonl").write_text("not read")
    file = folder / "recipe.yaml"
    file.write_text(f"""
name: small
model:
  architecture: llama
  config: {{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}
data:
  sequence_length: 32
  tokenizer: {{train_bpe: 300}}
  sources:
    real: {{kind: real, path: real, license: CC0-1.0}}
    syn: {{kind: synthetic, path: syn, license: CC0-1.0}}
  held_out: {held_out}
  cache: cache
mixture: {{global_batch: 16, shares: {{real: 0.5, syn: 0.5}}}}
control: {{policy: {{kind: feedback}}}}
evaluation: {{every_steps: 5}}
training: {{steps: 100, micro_batch: 8, learning_rate: 1.0e-3}}
checkpoint: {{every_steps: 50}}
""")
    return file


def test_too_few_validation_documents_are_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    plan = planned(small_recipe(tmp_path))
    (refusal,) = plan.refusals
    needed = f"trial steps need at least {plan.fewest_validation_documents}"
    assert f"it has {plan.data.held_out.validation} documents, {needed}" in refusal
    assert not (tmp_path / "cache").exists()
    assert planned(small_recipe(tmp_path), "control.policy={kind: constant}").refusals == ()


def test_a_prepared_recipe_is_refused_in_the_words_of_the_run(tmp_path: Path) -> None:
    loaded = load_recipe(small_recipe(tmp_path), [])
    prepare(loaded.recipe.data, seed=loaded.recipe.seed, base=loaded.folder)
    plan = planned(tmp_path / "recipe.yaml")
    (refusal,) = plan.refusals
    assert re.search(
        r"too small to measure source values .*tokens, at most 33 counted of each; \d+ are needed", refusal
    )
    assert plan.data.held_out.known_by == "prepared"
    assert plan.data.lines()[0].startswith("real: 60 rows of 1 file (1 more skipped: hidden, such as .b.jsonl): ")


@pytest.mark.parametrize(
    ("held_out", "overrides", "told"),
    [
        (BY_SHARE, ["evaluation.validation_documents=500"],
         "evaluation.validation_documents is more than the held-out validation part has (got 500)"),
        ("{kind: bucket, source: real, by: text, of: 1000000, validation: [1], test: [2]}", [],
         "the held-out part `validation` has no documents"),
        ("{kind: bucket, source: real, by: title, of: 10, validation: [1], test: [2]}", [],
         "source 'real' has no row with this column"),
        (BY_SHARE, ["data.sources.real.where={topic: sea}"],
         "source 'real' has no row with this column"),
    ],
)  # fmt: skip
def test_held_out_data_that_the_run_would_refuse_is_refused(
    tmp_path: Path, held_out: str, overrides: list[str], told: str
) -> None:
    plan = planned(small_recipe(tmp_path, held_out=held_out), "control.policy={kind: constant}", *overrides)
    assert any(told in refusal for refusal in plan.refusals)


def test_what_is_too_large_to_count_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.tools.plan.data.COUNTED_BYTES", 1000)
    plan = planned(small_recipe(tmp_path))
    assert (plan.data.held_out, plan.refusals) == (None, ())
    assert plan.data.lines() == [
        "real: 1 file (1 more skipped: hidden, such as .b.jsonl); rows are counted at preparation",
        "syn: 1 file; rows are counted at preparation",
    ]
