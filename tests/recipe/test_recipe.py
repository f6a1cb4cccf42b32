import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.recipe.mistakes import edit, line_of, mistakes_in
from tests.recipe.test_shipped import AFTER_A_ROUND
from trainer.base.errors import UserError
from trainer.data.source_config import SourceConfig
from trainer.recipe import (
    RecipeError,
    differences,
    load_recipe,
    recipe_schema,
    resolved_yaml,
    shipped_folder,
    shipped_recipes,
)
from trainer.recipe.shipped import copy_recipes, shipped_path


def test_five_different_mistakes_are_five_messages_with_their_lines_in_one_go(tiny_recipe: Path) -> None:
    edit(tiny_recipe, "micro_batch: 4", "micro_bacth: 4")
    edit(tiny_recipe, "sequence_length: 16", 'sequence_length: "16"')
    edit(tiny_recipe, "shares: {real: 0.5, good: 0.25, bad: 0.25}", "shares: {real: 0.5, god: 0.25, bad: 0.25}")
    edit(tiny_recipe, "precision: fp32", "precision: fp23")
    edit(tiny_recipe, "seed: 3\n", "seed: 3\nseed: 4\n")
    mistakes = mistakes_in(tiny_recipe)
    texts = {mistake.line: str(mistake) for mistake in mistakes if "is missing" not in mistake.what}
    at = {word: texts[line_of(tiny_recipe, word)] for word in ("micro_bacth", '"16"', "god", "fp23", "seed: 4")}
    assert "unknown key training.micro_bacth" in at["micro_bacth"]
    assert "Did you mean 'micro_batch'?" in at["micro_bacth"]
    assert "should be a valid integer" in at['"16"']
    assert "without quotes" in at['"16"']
    assert "good has no share" in " ".join(map(str, mistakes))
    assert any("Did you mean 'good'?" in str(item) for item in mistakes)
    assert "Did you mean 'fp32'?" in at["fp23"]
    assert "seed is written twice" in at["seed: 4"]
    assert all(str(mistake).startswith(f"{tiny_recipe}:{mistake.line}: ") for mistake in mistakes)


@pytest.mark.parametrize(
    ("old", "new", "what", "remedy"),
    [
        (
            "kind: synthetic, path: good.jsonl",
            "kind: sythetic, path: good.jsonl",
            "sources.good.kind is none of",
            "synthetic",
        ),
        ("path: good.jsonl,", "path: good.jsonl, lisense: MIT,", "unknown key data.sources.good.lisense", "license"),
        (
            "global_batch: 8",
            "global_batch: 8\n  learning_rate: 1",
            "unknown key mixture.learning_rate",
            "under `training:`",
        ),
        ("good: 0.25", "good: 0.35", "shares must sum to 1", "1.1"),
        ("source: real,", "source: good,", "held-out documents must be real", "real"),
        ("source: real,", "source: reel,", "held_out.source", "real"),
        ("micro_batch: 4", "micro_batch: 16", "micro_batch is larger than the global batch", "8"),
        ("warmup_steps: 2", "warmup_steps: 12", "warmup_steps", "12"),
        ("steps: 12\n", "steps: true\n", "training.steps should be a valid integer", ""),
        ("seed: 3", "seed: !!python/name:os.system 3", "seed carries a YAML tag", "plain value"),
        ("name: tiny", "name: a/b", "name should match", ""),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tiny_recipe: Path, old: str, new: str, what: str, remedy: str) -> None:
    edit(tiny_recipe, old, new)
    line = line_of(tiny_recipe, new.split("\n")[-1 if "\n  " in new else 0].strip())
    mistakes = mistakes_in(tiny_recipe)
    assert len(mistakes) == 1, [str(mistake) for mistake in mistakes]
    assert what in mistakes[0].what
    assert remedy in str(mistakes[0])
    assert mistakes[0].line == line


def test_an_unknown_policy_is_answered_with_the_nearest_one(tiny_recipe: Path) -> None:
    (mistake,) = mistakes_in(tiny_recipe, "control.policy.kind=fedback")
    assert "control.policy.kind is none of" in mistake.what
    assert mistake.remedy == "Did you mean 'feedback'?"


def test_names_of_sources_are_checked_wherever_they_stand(tiny_recipe: Path) -> None:
    mistakes = mistakes_in(
        tiny_recipe,
        "mixture.max_epochs={reel: 2}",
        "control.policy={kind: schedule, points: [{at: 0.5, shares: {real: 0.5, goood: 0.5}}]}",
    )
    texts = " ".join(str(mistake) for mistake in mistakes)
    assert "mixture.max_epochs: reel is not a source. Did you mean 'real'?" in texts
    assert "points.0.shares: goood is not a source. Did you mean 'good'?" in texts
    assert "points.0.shares has no share for good, bad" in texts


def test_what_the_policy_refuses_to_start_with_is_a_mistake_of_the_recipe(tiny_recipe: Path) -> None:
    (mistake,) = mistakes_in(tiny_recipe, "control.policy={kind: feedback, floors: {bad: 0.5}}")
    assert "bad" in mistake.what
    assert "floor" in mistake.what


@pytest.mark.parametrize(
    ("overrides", "what", "remedy"),
    [
        (
            ["control.policy={kind: aioli}", "evaluation.source_value={enabled: off}"],
            "need the source value",
            "Set it to auto",
        ),
        (
            [
                "control.policy={kind: priced, estimators: [dither], real_epochs: 1}",
                "evaluation.source_value={enabled: off}",
            ],
            "need the source value",
            "Set it to auto",
        ),
        (["control.policy={kind: feedback, warm_up: 0.7}"], "ends before the policy first asks", "Raise it"),
        (["control.policy={kind: doremi, targets: {real: 3, good: 3, bda: 3}}"], "bda is not a source", "'bad'"),
        (["control.policy={kind: doremi, targets: {real: 3, good: 3}}"], "has no loss for bad", "fitted"),
        (["control.policy={kind: doremi}"], "either targets or fit_until", ""),
        (["control.policy={kind: odm, ceilings: {bad: 0.1}}"], "outside its floor and ceiling", "bounds"),
    ],
)
def test_a_policy_that_cannot_have_what_it_needs_is_refused(tiny_recipe, overrides, what, remedy) -> None:
    (mistake,) = mistakes_in(tiny_recipe, *overrides)
    assert what in mistake.what
    assert remedy in (mistake.remedy or "")
    assert mistake.line or "--set" in str(mistake.file)


JOINS = """\
    good:
      kind: synthetic
      path: good.jsonl
      license: CC0-1.0
      joins:
        - {from_step: 5, path: bad.jsonl}
        - {from_step: 9, where: {topic: towns}, retires: true}
"""


@pytest.fixture
def joining(tiny_recipe: Path) -> Path:
    """The tiny recipe with two more segments of a source."""
    edit(tiny_recipe, "    good: {kind: synthetic, path: good.jsonl, license: CC0-1.0}\n", JOINS)
    return tiny_recipe


@pytest.mark.parametrize(
    ("old", "new", "what", "got"),
    [
        ("from_step: 9", "from_step: 13", "joins.1.from_step comes after the last step", "13"),
        ("from_step: 9", "from_step: 4", "joins.1.from_step must be above 5", "got 4"),
        ("from_step: 5", "from_step: 1", "joins.0.from_step should be greater than or equal to 2", "1"),
        ("path: bad.jsonl}", "paht: bad.jsonl}", "unknown key data.sources.good.joins.0.paht", "path"),
        ("path: bad.jsonl}", "path: bad.jsonl, hub: some/id}", "joins.0: a source needs exactly one of", ""),
        ("path: bad.jsonl}", "path: good.jsonl}", "joins.0 has the rows of a segment that is drawn already", ""),
        ("path: bad.jsonl}", "license: MIT}", "unknown key data.sources.good.joins.0.license", ""),
    ],
)
def test_a_mistake_in_a_join_is_named_at_its_line(joining: Path, old: str, new: str, what: str, got: str) -> None:
    edit(joining, old, new)
    (mistake,) = mistakes_in(joining)
    assert what in mistake.what
    assert got in str(mistake)
    assert mistake.line == line_of(joining, new)


def test_a_missing_file_of_a_join_is_named_at_its_line(joining: Path) -> None:
    edit(joining, "5, path: bad.jsonl", "5, path: gone.jsonl")
    with pytest.raises(RecipeError) as caught:
        load_recipe(joining)
    (mistake,) = caught.value.mistakes
    assert "data.sources.good.joins.0: a source has no files" in mistake.what
    assert mistake.line == line_of(joining, "gone.jsonl")


def test_held_out_data_cannot_join(tiny_recipe: Path) -> None:
    part = "{kind: real, path: real.jsonl, joins: [{from_step: 2, path: bad.jsonl}]}"
    override = f"data.held_out={{kind: dataset, validation: {part}, test: {{kind: real, path: bad.jsonl}}}}"
    (mistake,) = mistakes_in(tiny_recipe, override)
    assert "validation.joins has no effect" in mistake.what


def test_a_join_takes_from_its_source_what_it_does_not_say(joining: Path, tmp_path: Path) -> None:
    loaded = load_recipe(joining, on_this_machine=False)
    first, second, third = loaded.recipe.data.sources["good"].segments
    assert (first.path, second.path, third.path) == tuple(str(tmp_path / f"{n}.jsonl") for n in ("good", "bad", "good"))
    assert [segment.where for segment in (first, second, third)] == [{}, {}, {"topic": "towns"}]
    assert {segment.kind for segment in (first, second, third)} == {"synthetic"}
    copy = tmp_path / "elsewhere" / "recipe.yaml"
    copy.parent.mkdir()
    copy.write_text(resolved_yaml(loaded.recipe))
    assert load_recipe(copy, on_this_machine=False).recipe == loaded.recipe


def test_the_place_of_a_join_is_a_whole() -> None:
    tree = {"kind": "real", "package": "somewhere", "path": "a.jsonl", "joins": [{"from_step": 2, "path": "b.jsonl"}]}
    assert SourceConfig.model_validate(tree).segments[1].package is None
    tree["joins"] = [{"from_step": 2, "hub": "some/id"}]
    assert (tree_of := SourceConfig.model_validate(tree).segments[1]).path is None
    assert tree_of.hub == "some/id"


def test_joins_are_among_what_a_run_may_change(joining: Path) -> None:
    old = load_recipe(joining, on_this_machine=False).recipe
    edit(joining, "from_step: 9", "from_step: 10")
    changed = differences(old, load_recipe(joining, on_this_machine=False).recipe)
    assert [(difference.key, difference.allowed) for difference in changed] == [("data.sources.good.joins", True)]


def test_an_override_replaces_a_value_and_is_named_when_it_is_wrong(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, ["training.steps=99", "control.policy={kind: feedback, gain_z: 2}"]).recipe
    assert recipe.training.steps == 99
    assert recipe.control.policy.kind == "feedback"
    wrong = ["training.stepz=99", "training.steps.x=1", "nonsense", "training.learning_rate=[1"]
    mistakes = mistakes_in(tiny_recipe, *wrong)
    assert [mistake.file for mistake in mistakes] == [f"--set {wrong[index]}" for index in (1, 2, 3, 0)]
    assert "Did you mean 'steps'?" in str(mistakes[-1])


def test_numbers_with_exponents_are_numbers_and_words_are_words(tiny_recipe: Path) -> None:
    edit(tiny_recipe, "learning_rate: 1.0e-3", "learning_rate: 2e-3")
    edit(tiny_recipe, "name: tiny", "name: no")
    recipe = load_recipe(tiny_recipe, on_this_machine=False).recipe
    assert (recipe.training.learning_rate, recipe.name) == (0.002, "no")


@pytest.mark.parametrize("text", ["", "- a\n", "a: [1\n", "a: b: c\n", "\x00", "a: &x [*x]\n"])
def test_a_file_that_is_no_recipe_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(file))):
        load_recipe(file, on_this_machine=False)


def test_missing_data_files_and_unknown_model_keys_are_all_named(tiny_recipe: Path) -> None:
    edit(tiny_recipe, "path: good.jsonl", "path: gone.jsonl")
    edit(tiny_recipe, "    hidden_size: 16", "    hiden_size: 16\n    num_layer: 3")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tiny_recipe)
    lines = {mistake.line: str(mistake) for mistake in caught.value.mistakes}
    assert "gone.jsonl" in lines[line_of(tiny_recipe, "gone.jsonl")]
    assert "hidden_size" in lines[line_of(tiny_recipe, "hiden_size")]
    assert "num_layer" in lines[line_of(tiny_recipe, "num_layer")]


def test_the_resolved_recipe_loads_to_the_same_recipe_from_another_folder(tiny_recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(tiny_recipe, on_this_machine=False)
    copy = tmp_path / "elsewhere" / "recipe.yaml"
    copy.parent.mkdir()
    copy.write_text(resolved_yaml(loaded.recipe))
    again = load_recipe(copy)
    assert again.recipe == loaded.recipe
    assert resolved_yaml(again.recipe) == resolved_yaml(loaded.recipe)
    assert loaded.recipe.data.sources["good"].path == str(tiny_recipe.parent / "good.jsonl")


def test_differences_tell_what_a_run_may_change_from_what_it_may_not(tiny_recipe: Path) -> None:
    old = load_recipe(tiny_recipe, on_this_machine=False).recipe
    changes = [
        "training.steps=20",
        "mixture.global_batch=16",
        "checkpoint.keep=5",
        "seed=4",
        "training.learning_rate=1",
    ]
    new = load_recipe(tiny_recipe, changes, on_this_machine=False).recipe
    assert differences(old, old) == []
    assert {difference.key: difference.allowed for difference in differences(old, new)} == {
        "checkpoint.keep": True,
        "mixture.global_batch": True,
        "seed": False,
        "training.learning_rate": False,
        "training.steps": True,
    }


def test_every_shipped_recipe_opens_with_its_command_loads_and_fits_the_schema() -> None:
    shipped = shipped_recipes()
    assert next(recipe.name for recipe in shipped) == "quickstart"
    assert len(shipped) >= 4
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for recipe in shipped:
        text = recipe.path.read_text()
        assert text.startswith(f"# trainer fit recipes/{recipe.name}.yaml\n")
        is_whole = recipe.name not in AFTER_A_ROUND  # the pool of the others is made first
        assert load_recipe(recipe.path, on_this_machine=is_whole).recipe.name == recipe.name
        jsonschema.validate(YAML(typ="safe", pure=True).load(text), schema)


def test_the_schema_refuses_an_unknown_key(tiny_recipe: Path) -> None:
    tree = YAML(typ="safe", pure=True).load(tiny_recipe.read_text())
    jsonschema.validate(tree, recipe_schema())
    tree["training"]["stepz"] = 3
    with pytest.raises(jsonschema.ValidationError, match="stepz"):
        jsonschema.validate(tree, recipe_schema())


def test_recipes_and_launch_files_hold_no_code() -> None:
    for kind in ("recipes", "launch"):
        assert not list(shipped_folder(kind).rglob("*.py"))


def test_a_copied_recipe_brings_its_data_and_is_never_overwritten(tmp_path: Path) -> None:
    (copy,) = copy_recipes("quickstart", tmp_path)
    assert load_recipe(copy).recipe.data.sources["written"].path == str(tmp_path / "data" / "written.jsonl.xz")
    with pytest.raises(UserError, match="overwritten"):
        copy_recipes("quickstart", tmp_path)


def test_a_misspelt_shipped_recipe_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="quickstart"):
        shipped_path("quikstart")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("training.learning_rate=.inf", "training.learning_rate should be a finite number"),
        ("mixture.shares.real=.nan", "mixture.shares.real should be a finite number"),
        ("training.betas=[0.9, 1.0]", "should be less than 1"),
        ("training.betas=[-0.1, 0.95]", "should be greater than or equal to 0"),
    ],
)
def test_numbers_that_no_training_survives_are_mistakes(tiny_recipe: Path, override: str, what: str) -> None:
    assert what in " ".join(map(str, mistakes_in(tiny_recipe, override)))


def test_an_engine_that_is_not_installed_is_a_mistake_with_the_remedy(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.recipe.checks.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"Lightning is not installed .* pip install 'hybrid-trainer\[lightning\]'"):
        load_recipe(tiny_recipe, ["engine=lightning"])


def test_a_mapping_may_hold_numbers_of_numpy_and_nothing_that_a_file_cannot(tiny_recipe: Path) -> None:
    given = {"extends": str(tiny_recipe), "training": {"steps": np.int64(30), "learning_rate": np.float32(0.5)}}
    training = load_recipe(given, on_this_machine=False).recipe.training
    assert (training.steps, training.learning_rate) == (30, 0.5)
    with pytest.raises(UserError, match="not a set"):
        load_recipe({"extends": str(tiny_recipe), "tracking": {"trackers": {"wandb"}}}, on_this_machine=False)


def test_overrides_that_are_one_text_are_refused(tiny_recipe: Path) -> None:
    with pytest.raises(UserError, match="overrides is not a list"):
        load_recipe(tiny_recipe, "training.steps=3", on_this_machine=False)  # type: ignore[arg-type]
