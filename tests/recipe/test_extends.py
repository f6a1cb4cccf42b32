"""`extends`: another recipe with some keys replaced."""

from pathlib import Path

import pytest

from tests.recipe.mistakes import line_of, mistakes_in
from trainer.base.errors import UserError
from trainer.recipe import differences, load_recipe


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_mappings_merge_lists_and_values_replace_and_null_removes(tiny_recipe: Path) -> None:
    text = "extends: tiny\nname: other\ntraining: {steps: 20, schedule: null, betas: [0.8, 0.9]}\n"
    child = write(tiny_recipe.parent / "child.yaml", text)
    old = load_recipe(tiny_recipe, on_this_machine=False).recipe
    new = load_recipe(child, on_this_machine=False).recipe
    assert {change.key: change.new for change in differences(old, new)} == {
        "name": "other",
        "training.steps": 20,
        "training.schedule.warmup_steps": 0,
        "training.betas": [0.8, 0.9],
    }


def test_a_mapping_of_another_kind_replaces_the_whole(tiny_recipe: Path) -> None:
    write(tiny_recipe.parent / "a.yaml", "extends: tiny.yaml\ncontrol: {policy: {kind: feedback, gain_z: 2.0}}\n")
    child = write(tiny_recipe.parent / "b.yaml", "extends: a\ncontrol: {policy: {kind: constant}}\n")
    assert load_recipe(child, on_this_machine=False).recipe.control.policy.kind == "constant"


def test_paths_start_at_the_file_that_wrote_them(tiny_recipe: Path, tmp_path: Path) -> None:
    own = write(tmp_path / "elsewhere" / "own.jsonl", (tiny_recipe.parent / "bad.jsonl").read_text())
    text = f"extends: {tiny_recipe}\ndata: {{sources: {{bad: {{path: own.jsonl}}}}}}\n"
    sources = load_recipe(write(own.parent / "child.yaml", text)).recipe.data.sources
    assert sources["good"].path == str(tiny_recipe.parent / "good.jsonl")
    assert sources["bad"].path == str(own)


def test_a_shipped_recipe_is_extended_by_its_name(tmp_path: Path) -> None:
    child = write(tmp_path / "child.yaml", "extends: quickstart\nseed: 18\n")
    recipe = load_recipe(child, on_this_machine=False).recipe
    assert (recipe.name, recipe.seed) == ("quickstart", 18)


def test_a_mistake_is_named_in_the_file_and_line_that_wrote_it(tiny_recipe: Path) -> None:
    tiny_recipe.write_text(tiny_recipe.read_text().replace("micro_batch: 4", "micro_batch: 4.5"))
    child = write(tiny_recipe.parent / "child.yaml", "extends: tiny\nseed: 3\nevaluation: {evry_steps: 4}\n")
    places = {(str(mistake.file), mistake.line) for mistake in mistakes_in(child)}
    assert places == {(str(tiny_recipe), line_of(tiny_recipe, "4.5")), (str(child), 3)}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("extends: child\n", "goes in a circle: child.yaml -> child.yaml"),
        ("extends: between\n", "goes in a circle: child.yaml -> between.yaml -> child.yaml"),
        ("extends: nowhere\n", "no such recipe: not a file, not a shipped name"),
        ("extends: [tiny]\n", "is not the path or name of a recipe"),
    ],
)
def test_what_cannot_be_extended_is_refused_with_the_line(tiny_recipe: Path, text: str, what: str) -> None:
    between = write(tiny_recipe.parent / "between.yaml", "extends: child\n")
    child = write(tiny_recipe.parent / "child.yaml", text)
    (mistake,) = mistakes_in(child)  # what is missing then may be in the recipe that was not found
    assert what in mistake.what
    assert (str(mistake.file), mistake.line) in {(str(child), 1), (str(between.resolve()), 1)}


def test_a_recipe_may_be_a_mapping_or_a_shipped_name(tiny_recipe: Path) -> None:
    recipe = load_recipe({"extends": str(tiny_recipe), "name": "mapped"}, on_this_machine=False).recipe
    assert recipe.name == "mapped"
    assert load_recipe("parity", on_this_machine=False).recipe.training.steps == 50
    with pytest.raises(UserError, match=r"no such recipe.*Did you mean 'parity'"):
        load_recipe("partiy", on_this_machine=False)
