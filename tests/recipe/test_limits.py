"""What no recipe holds is one message: values that are no setting, numbers that no run has, sizes that no file has."""

import time
from pathlib import Path

import pytest

from trainer.base.errors import RecipeError, UserError
from trainer.recipe import load_recipe
from trainer.recipe.loading import MAX_MISTAKES

LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


def mistakes(recipe: Path, *sets: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe, list(sets))
    error = caught.value
    return [str(mistake) for mistake in error.mistakes] if isinstance(error, RecipeError) else [str(error)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.sequence_length=.inf", "data.sequence_length should be a finite number"),
        ("data.sequence_length=.nan", "data.sequence_length should be a finite number"),
        ("training.learning_rate=-.inf", "training.learning_rate should be a finite number"),
        ("data.tokenizer={train_bpe: .inf}", "data.tokenizer.train_bpe should be a finite number"),
        ("model.config.hidden_size=.nan", "model.config.hidden_size should be a finite number"),
        ("data.sources.real.path=~nosuchuser/x.jsonl", "data.sources.real.path: the path begins with a home folder"),
        ("data.cache=~nosuchuser/cache", "data.cache: the path begins with a home folder"),
        ("data.tokenizer={pretrained: ~nosuchuser}", "data.tokenizer.pretrained: the path begins with a home folder"),
        ("model={pretrained: ~nosuchuser/model}", "model.pretrained: the path begins with a home folder"),
        ("extends=~nosuchuser/recipe", "unknown key extends"),
        ("data.sources.real={kind: real, package: __main__, path: x.jsonl, license: CC0-1.0, share: .5}", "shares"),
        ("data.sources.good={kind: synthetic, package: __main__, path: x.jsonl, license: CC0}", "is not installed"),
        ('data.sources.real.path="a\\0b.jsonl"', "data.sources.real.path holds a control character"),
        ('name="a\\e[2J"', "name holds a control character"),
        ('data.sources.real.slice="\\ud800"', "data.sources.real.slice holds a control character"),
        (f"data.sources.real.path={'x' * 5000}.jsonl", "File name too long"),
        (f"model={{pretrained: {'x' * 5000}}}", "File name too long"),
        (f"seed={'9' * 5000}", "seed is not of the YAML kind int"),
        (f"seed=0x{'f' * 5000}", "seed is larger than any setting can be"),
        ("seed=!!int abc", "seed is not of the YAML kind int"),
        ("seed=!!bool abc", "seed is not of the YAML kind bool"),
        ("data=!!python/object:os.system {a: 1}", "data carries a YAML tag"),
        ("training.betas=!!python/tuple [0.9, 0.95]", "training.betas carries a YAML tag"),
        ("training.betas=!!set {0.9, 0.95}", "training.betas carries a YAML tag"),
        ("tracking={!!python/name:os.system x: 1}", "a key must be a plain word"),
        ("x=" + "[" * 3000, "larger than a recipe can be"),
        ("x=" + "{a: " * 2000, "larger than a recipe can be"),
    ],
    ids=lambda text: text[:50],
)
def test_a_value_that_is_no_setting_is_one_message(tiny_recipe: Path, override: str, words: str) -> None:
    messages = mistakes(tiny_recipe, override)
    assert [message for message in messages if words in message], messages


@pytest.mark.parametrize(
    "override",
    [
        "data.num_proc=9223372036854775808",
        "data.num_proc=100000",
        "training.learning_rate=1e300",
        "training.learning_rate=1e-200",
        "training.epsilon=9223372036854775808",
        "training.epsilon=1.0e+9",
        "training.max_grad_norm=1e-40",
        "training.timeout_s=1e12",
        "training.steps=1000000000000000",
        "training.weight_decay=1e9",
        "mixture.global_batch=1000000000000000000",
        "mixture.global_batch=100000000",
        "mixture.max_epochs={real: 1e300}",
        "model.config.hidden_size=0",
        "model.config.num_hidden_layers=-1",
        "model.config.num_attention_heads=2.5",
        "model.config.intermediate_size=1000000000000000",
        "control={policy: {kind: feedback, z: 1e-300}}",
        "control={policy: {kind: priced, advanced: {z: 1e-300}}}",
        "control.guard={warn_at: 1e200, alarm_at: 1e250}",
        "evaluation.every_steps=9223372036854775807",
        "checkpoint.keep=4611686018427387904",
    ],
)
def test_a_number_that_no_run_can_have_is_one_message_that_names_it(tiny_recipe: Path, override: str) -> None:
    key = override.partition("=")[0]
    [message] = mistakes(tiny_recipe, override)
    assert key in message


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "x: " + "[" * 3000,
        "".join(" " * depth + "a:\n" for depth in range(2000)),
        "- " * 3000,
        "".join(f"key{number}: 1\n" for number in range(50_000)),
        "name: " + "x" * 2_000_000,
        "#\n" * 2_000_000,
    ],
    ids=["aliases", "brackets", "mappings", "lists", "keys", "text", "comments"],
)
def test_a_bomb_is_one_short_message(tmp_path: Path, text: str) -> None:
    bomb, around = tmp_path / "bomb.yaml", tmp_path / "around.yaml"
    bomb.write_text(text)
    around.write_text("extends: bomb.yaml\n")
    for recipe in (bomb, around):
        before_s = time.process_time()
        [message] = mistakes(recipe)
        assert time.process_time() - before_s < 30  # twenty times what it takes
        assert len(message) < 400
        assert "larger than a recipe can be" in message


def test_thousands_of_unknown_keys_are_not_thousands_of_messages(tiny_recipe: Path) -> None:
    with tiny_recipe.open("a") as file:
        file.writelines(f"unknown{number}: 1\n" for number in range(8000))
    messages = mistakes(tiny_recipe)
    assert len(messages) == MAX_MISTAKES + 1
    assert "there are further mistakes" in messages[-1]


def test_a_mapping_that_holds_itself_is_one_message() -> None:
    recipe: dict[str, object] = {"name": "x"}
    recipe["data"] = recipe
    with pytest.raises(UserError, match="larger than a recipe can be"):
        load_recipe(recipe)


def test_a_mapping_with_a_number_that_is_not_finite_is_one_message() -> None:
    with pytest.raises(RecipeError, match="seed should be a finite number"):
        load_recipe({"name": "x", "seed": float("nan")})


def test_a_long_chain_of_recipes_is_one_message(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"r{number}.yaml").write_text(f"extends: r{number + 1}.yaml\n")
    assert [message for message in mistakes(tmp_path / "r0.yaml") if "more than 20 recipes" in message]


def test_three_hundred_sources_with_every_default_written_out_are_a_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    from trainer.recipe.recipe import resolved_yaml

    sources = ", ".join(
        f"s{n}: {{kind: real, path: real.jsonl, license: CC0-1.0, share: {0.003333 if n else 0.003433}}}"
        for n in range(300)
    )
    text = tiny_recipe.read_text().partition("  sources:")
    held_out = text[2][text[2].index("  held_out:") :].replace("source: real", "source: s0")
    held_out = held_out.replace("  shares: {real: 0.5, good: 0.25, bad: 0.25}\n", "")
    tiny_recipe.write_text(f"{text[0]}  sources: {{{sources}}}\n{held_out}")
    loaded = load_recipe(tiny_recipe, on_this_machine=False)
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(loaded.recipe))
    assert load_recipe(again, on_this_machine=False).recipe == loaded.recipe
