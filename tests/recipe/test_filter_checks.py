from pathlib import Path

import pytest

from tests.recipe.mistakes import edit, line_of
from trainer.recipe import RecipeError, load_recipe, resolved_yaml


def test_filters_that_cannot_be_made_are_mistakes_of_the_recipe_at_their_lines(tiny_recipe: Path) -> None:
    filters = """
  filters:
    - {kind: language, keep: [english]}
    - {kind: datatrove, name: GopherQuality}
    - {kind: datatrove, name: GopherQualityFilter, min_words: 3}
    - {kind: length, min_words: 1}"""
    edit(tiny_recipe, "sequence_length: 16", f"sequence_length: 16{filters}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tiny_recipe, [])
    texts = {mistake.line: str(mistake) for mistake in caught.value.mistakes if "filters" in mistake.what}
    assert "no language of py3langid: english" in texts[line_of(tiny_recipe, "kind: language")]
    assert "Did you mean GopherQualityFilter?" in texts[line_of(tiny_recipe, "name: GopherQuality}")]
    assert "Did you mean min_doc_words?" in texts[line_of(tiny_recipe, "min_words: 3}")]
    assert len(texts) == 3


def test_the_arguments_of_a_datatrove_filter_stand_in_the_resolved_recipe(tiny_recipe: Path) -> None:
    keys = "{kind: datatrove, name: GopherQualityFilter, min_doc_words: 30}"
    edit(tiny_recipe, "sequence_length: 16", f"sequence_length: 16\n  filters: [{keys}]")
    resolved = tiny_recipe.with_name("resolved.yaml")
    resolved.write_text(resolved_yaml(load_recipe(tiny_recipe, []).recipe))
    (again,) = load_recipe(resolved, []).recipe.data.filters
    assert again.arguments == {"min_doc_words": 30}


@pytest.mark.parametrize("kind", ["{a: 1}", "[length]", "3", "null"])
def test_a_kind_of_filter_that_is_no_word_is_a_mistake(tiny_recipe: Path, kind: str) -> None:
    edit(tiny_recipe, "sequence_length: 16", f"sequence_length: 16\n  filters: [{{kind: {kind}, min_words: 3}}]")
    with pytest.raises(RecipeError, match="filters"):
        load_recipe(tiny_recipe, [])


@pytest.mark.parametrize("name", ["{a: 1}", "[real]", "3"])
def test_a_source_of_prompts_that_is_no_word_is_a_mistake(tiny_recipe: Path, name: str) -> None:
    keys = f"{{pool: pool, sources: [{name}], prompts: [{{template: rephrase}}], generator: {{kind: run}}}}"
    tiny_recipe.write_text(f"{tiny_recipe.read_text()}\nsynthesis: {keys}\n")
    with pytest.raises(RecipeError, match="sources"):
        load_recipe(tiny_recipe, [])
