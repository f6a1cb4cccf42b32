"""Shares written with the sources: one home for the user, one resolved form."""

from pathlib import Path

import pytest

from tests.recipe.mistakes import edit, line_of, mistakes_in
from trainer.recipe import load_recipe, resolved_yaml

SHARES = {"real": 0.5, "good": 0.3, "bad": 0.2}


@pytest.fixture
def with_shares(tiny_recipe: Path) -> Path:
    """The tiny recipe with a share in each source."""
    edit(tiny_recipe, "  shares: {real: 0.5, good: 0.25, bad: 0.25}\n", "")
    for name, share in SHARES.items():
        kind = "real" if name == "real" else "synthetic"
        edit(tiny_recipe, f"{name}: {{kind: {kind},", f"{name}: {{kind: {kind}, share: {share},")
    return tiny_recipe


def test_shares_written_with_the_sources_are_the_shares_of_the_mixture(with_shares: Path, tmp_path: Path) -> None:
    recipe = load_recipe(with_shares, on_this_machine=False).recipe
    assert recipe.mixture.shares == SHARES
    copy = tmp_path / "copy.yaml"
    copy.write_text(resolved_yaml(recipe))
    assert "  share:" not in copy.read_text()
    assert load_recipe(copy, on_this_machine=False).recipe == recipe


def test_an_override_of_a_sources_share_counts(with_shares: Path) -> None:
    overrides = ["data.sources.good.share=0.4", "data.sources.bad.share=0.1"]
    assert load_recipe(with_shares, overrides, on_this_machine=False).recipe.mixture.shares["good"] == 0.4


def test_shares_that_do_not_sum_to_1_are_one_mistake_that_says_the_sum(with_shares: Path) -> None:
    edit(with_shares, "share: 0.3", "share: 0.4")
    (mistake,) = mistakes_in(with_shares)
    assert "shares must sum to 1 (got 1.1)" in str(mistake)
    assert mistake.line == line_of(with_shares, "sources:")


def test_a_share_in_two_places_is_one_mistake(with_shares: Path) -> None:
    edit(with_shares, "  global_batch: 8\n", "  global_batch: 8\n  shares: {real: 1}\n")
    (mistake,) = mistakes_in(with_shares)
    assert "written twice" in mistake.what
    assert mistake.line == line_of(with_shares, "shares: {real")


def test_a_source_without_a_share_among_others_that_have_one_is_one_mistake(with_shares: Path) -> None:
    edit(with_shares, "share: 0.3, ", "")
    (mistake,) = mistakes_in(with_shares)
    assert mistake.what == "source good without a share"
    assert mistake.line == line_of(with_shares, "good: {")


def test_a_share_that_is_not_one_is_named_at_its_line(with_shares: Path) -> None:
    edit(with_shares, "share: 0.3", "share: lots")
    (mistake,) = mistakes_in(with_shares)
    assert "mixture.shares.good should be a valid number" in mistake.what
    assert mistake.line == line_of(with_shares, "lots")


def test_a_share_below_0_is_named_and_not_the_sum(with_shares: Path) -> None:
    edit(with_shares, "share: 0.3", "share: -0.3")
    (mistake,) = mistakes_in(with_shares)
    assert "shares.good must be in [0, 1], got -0.3" in mistake.what
    assert mistake.line == line_of(with_shares, "share: -0.3")


def test_a_weight_with_a_source_is_one_message_that_says_share(with_shares: Path) -> None:
    edit(with_shares, "share: 0.3", "weight: 0.3")
    (mistake,) = mistakes_in(with_shares)
    assert (mistake.what, mistake.line) == ("unknown key data.sources.good.weight", line_of(with_shares, "weight: 0.3"))
    assert "`share:` with each source" in str(mistake)
