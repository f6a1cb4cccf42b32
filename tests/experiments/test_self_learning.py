"""Self-learning: what each generation trains on and writes, what is measured of it, and what the table claims."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from experiments import generated_text
from experiments import self_learning as lab
from experiments.self_learning_table import claims, differences, plot, table
from trainer.data.documents import bucket_of
from trainer.recipe import Recipe, load_recipe


def recipe_of(name: str) -> Recipe:
    return load_recipe(lab.RECIPE, lab.cells()[name].training(), on_this_machine=False).recipe


def writing_of(name: str) -> Any:
    return load_recipe(lab.RECIPE, lab.cells()[name].writing(), on_this_machine=False).recipe


def test_the_cells_are_one_first_generation_five_of_three_arms_and_one_of_the_pretrained_writer_for_each_seed() -> None:
    names = list(lab.cells())
    assert names[:3] == ["real-0/17", "real-0/18", "real-0/19"]
    assert len(names) == 3 * (1 + 3 * 5 + 1)


def test_every_generation_trains_on_what_its_arm_says() -> None:
    recipes = {arm: recipe_of(f"{arm}-3/17") for arm in ("replace", "accumulate", "ours")}
    read = {arm: recipe.data.sources["pool"].generations for arm, recipe in recipes.items()}
    assert read == {"replace": "replace", "accumulate": "accumulate", "ours": "accumulate"}
    shares = {arm: recipe.mixture.shares["real"] for arm, recipe in recipes.items()}
    assert shares == {"replace": 0, "accumulate": pytest.approx(0.25), "ours": lab.ARMS["ours"].real_share}
    assert [arm for arm, recipe in recipes.items() if recipe.control.guard.enabled] == ["ours"]


def test_the_pretrained_writer_gives_no_text_of_other_real_documents() -> None:
    assert recipe_of("smollm2-1/17").data.sources["pool"].where == {"prompt_name": "entry"}
    assert writing_of("smollm2-1/17").synthesis.generator.kind == "files"


def test_every_generation_is_written_by_the_one_before_it() -> None:
    cells = lab.cells()
    assert cells["ours-1/18"].before == cells["real-0/18"]
    assert cells["ours-4/18"].before == cells["ours-3/18"]
    assert str(writing_of("ours-4/18").synthesis.pool) == str(lab.RUNS / "pools" / "ours-18")


def test_all_cells_train_on_equally_many_tokens_of_one_vocabulary_and_one_held_out_set() -> None:
    first = recipe_of("real-0/17")
    for name, cell in lab.cells().items():
        recipe = recipe_of(name)
        assert (recipe.training, recipe.mixture.global_batch) == (first.training, first.mixture.global_batch)
        assert recipe.data.held_out == first.data.held_out
        assert recipe.seed % 1000 == cell.seed
        if cell.arm != lab.FIRST:
            assert recipe.data.tokenizer.pretrained == str(lab.RUNS / f"real-0/{cell.seed}/model")


def test_no_held_out_title_of_the_project_is_trained_on_or_prompted() -> None:
    sample = writing_of("ours-3/17").data.sources["real"].sample
    titles = [f"title {number}" for number in range(2000)]
    used = [title for title in titles if bucket_of(title, sample.of) in sample.buckets]
    assert used
    assert {bucket_of(title, 10) for title in used}.isdisjoint({8, 9})


def test_distinct_counts_different_pairs_within_documents() -> None:
    texts = ["a b a b", "a b", "c", "d e"]
    assert generated_text.distinct(texts, num_words=2, num_grams=100) == 3 / 5
    assert generated_text.distinct(texts, num_words=2, num_grams=4) == 2 / 4
    assert generated_text.distinct(texts, num_words=1, num_grams=100) == 5 / 9


def test_the_tail_is_the_rarest_fifth_of_what_is_repeated_with_all_words_of_one_frequency() -> None:
    texts = ["the " * 16 + "moss moss fern fern", "once twice"]  # a fifth of 20 running words: 4 of them
    assert generated_text.rare_words(texts) == {"fern", "moss"}
    assert generated_text.rare_words(["the the the the the the fern fern moss moss"]) == {"fern", "moss"}
    assert generated_text.words_covered(["the fern", "the moss"], {"fern", "moss"}, num_words=3) == 1 / 2


def stored(arm: str, generation: int, seed: int, loss: float, *, real: float = 1.0) -> dict[str, Any]:
    return {
        f"{arm}-{generation}/{seed}": {
            "seed": seed,
            "test_nats_per_token": loss,
            "test_slices": {"a": loss - 0.1, "b": loss + 0.2},
            "drawn": {"real": real, "pool": 1 - real},
            "text": {"distinct": 0.5, "tail_coverage": 0.25},
        }
    }


def story(*, ours: float, pool: float, other: tuple[float, float]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for seed, first in ((17, 5.0), (18, 6.0)):
        cells |= stored("real", 0, seed, first)
        for generation in range(1, 6):
            cells |= stored("replace", generation, seed, first + 0.1 * generation, real=0.0)
            cells |= stored("ours", generation, seed, first + ours, real=1 - pool)
        cells |= stored("smollm2", 1, seed, first + other[seed - 17], real=0.5)
    return cells


def test_differences_are_taken_from_the_real_run_of_the_same_seed() -> None:
    cells = story(ours=-0.02, pool=0.3, other=(-0.5, -0.4))
    assert differences(cells, [cells["replace-5/17"], cells["replace-5/18"]]) == pytest.approx([0.5, 0.5])
    [row] = [row for row in table(cells) if row.startswith("| replace | 5 ")]
    assert row == "| replace | 5 | 2 | 6.000 ± 0.500 | 0.500 ± 0.000 | 6.200 ± 0.500 | 100% | 0.500 | 0.250 |"


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({}, None),
        ({"ours": 0.01}, "does not end above"),
        ({"pool": 0.1}, "come from the pool"),
        ({"other": (-0.5, 0.1)}, "pretrained generator"),
    ],
)
def test_a_claim_that_the_figures_do_not_bear_is_not_held(changed: dict[str, Any], lost: str | None) -> None:
    held = claims(story(**({"ours": -0.02, "pool": 0.3, "other": (-0.5, -0.4)} | changed)))
    assert len(held) == 4
    assert [lost in words for words, holds in held.items() if not holds] == ([] if lost is None else [True])


def test_the_plot_is_an_svg_with_a_line_for_every_arm_in_four_panels(tmp_path: Path) -> None:
    plot(story(ours=-0.02, pool=0.3, other=(-0.5, -0.4)), tmp_path / "plot.svg")
    root = ET.parse(tmp_path / "plot.svg").getroot()
    lines = [
        line for line in root.iter("{http://www.w3.org/2000/svg}polyline") if "stroke-dasharray" not in line.attrib
    ]
    assert len(lines) == 4 * 3


def test_a_cell_that_is_missing_is_named_and_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "self_learning.json"
    results.write_text(json.dumps(story(ours=-0.02, pool=0.3, other=(-0.5, -0.4))))
    assert lab.main([], results) == 1
    assert "missing: real-0/19" in capsys.readouterr().out
