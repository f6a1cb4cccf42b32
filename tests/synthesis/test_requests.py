"""What a round asks for is a pure function of recipe, generation and data."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.base.errors import UserError
from trainer.data.documents import Document
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.entities import group_of, names_in
from trainer.synthesis.generators import Identity
from trainer.synthesis.prompts import TEMPLATES
from trainer.synthesis.requests import Asked, PromptRow, chosen, part_of, plan_round, set_aside

IDENTITY = Identity(name="writer", weights="abc", license="MIT")


def rows(*slices: str) -> list[PromptRow]:
    return [
        PromptRow(
            source="real",
            license="CC0-1.0",
            document=Document(
                text=f"text {number}", num_bytes=6, id=f"d{number}", slice=name, file="f", line=number, part="train"
            ),
        )
        for number, name in enumerate(slices)
    ]


def config(**changes: object) -> SynthesisConfig:
    section = {
        "pool": "pool",
        "sources": ["real"],
        "prompts": [{"template": "rephrase"}, {"template": "{{ id }} is", "name": "title"}],
        "generator": {"kind": "transformers", "model": "m", "batch": 4},
        "requests": 24,
        **changes,
    }
    return SynthesisConfig.model_validate(section)


def planned(wanted: SynthesisConfig, given_rows: list[PromptRow], **changes: object) -> list[Asked]:
    settings: dict[str, object] = {"seed": 3, "generation": 1, **changes}
    return plan_round(wanted, given_rows, IDENTITY, **settings)  # type: ignore[arg-type]


def test_a_request_with_another_system_message_has_another_name() -> None:
    plain, friendly = (
        {item.request.id for item in planned(config(generator={"kind": "transformers", "system": system}), rows("a"))}
        for system in (None, "Be friendly.")
    )
    assert not plain & friendly


@pytest.mark.parametrize("template", ["{{ text + 1 }}", "{{ 1 / 0 }}", "{{ text.nothing }}", "{{ missing }}"])
def test_a_template_that_cannot_be_rendered_is_a_mistake_of_the_recipe(template: str) -> None:
    with pytest.raises(UserError, match="a prompt's template does not fit the row 'd0'"):
        planned(config(prompts=[{"template": template}]), rows("a"))


def test_every_slice_gets_as_many_prompts_however_rare_it_is() -> None:
    asked = planned(config(), rows(*["common"] * 50, *["rare"] * 2))
    assert Counter(item.slice for item in asked) == {"common": 12, "rare": 12}


def test_unbalanced_slices_get_prompts_as_they_have_rows() -> None:
    asked = planned(config(balance_slices=False, requests=52), rows(*["common"] * 50, *["rare"] * 2))
    assert Counter(item.slice for item in asked) == {"common": 50, "rare": 2}


@given(st.integers(1, 40), st.integers(1, 90))
def test_no_row_is_a_prompt_twice_before_all_were_once(num_rows: int, num_requests: int) -> None:
    asked = planned(config(requests=num_requests), rows(*["all"] * num_rows))
    counts = Counter(item.prompt_id for item in asked)
    assert max(counts.values()) - min(counts.get(f"d{number}", 0) for number in range(num_rows)) <= 1


@given(st.integers(1, 9))
def test_the_shards_of_a_round_are_its_requests_each_once(of: int) -> None:
    asked = planned(config(), rows(*["a"] * 5, *["b"] * 3))
    parts = [item for shard in range(of) for item in part_of(asked, shard, of)]
    assert sorted(item.request.id for item in parts) == sorted(item.request.id for item in asked)
    assert len({item.request.id for item in asked}) == len(asked)


def test_templates_and_sampling_are_swept_evenly() -> None:
    asked = planned(config(sampling={"temperature": [0.5, 1.0], "top_p": [0.9, 1.0]}, requests=16), rows(*["a"] * 16))
    ways = Counter(
        (item.prompt_label, item.request.sampling.temperature, item.request.sampling.top_p) for item in asked
    )
    assert len(ways) == 8
    assert set(ways.values()) == {2}


def test_the_name_of_a_text_leaves_out_what_changes_no_text() -> None:
    names = [item.request.id for item in planned(config(), rows("a", "b"))]
    faster = config(generator={"kind": "transformers", "model": "m", "batch": 64}, pool="elsewhere")
    assert [item.request.id for item in planned(faster, rows("a", "b"))] == names


def test_another_generation_seed_or_weights_asks_for_other_texts() -> None:
    names = {item.request.id for item in planned(config(), rows("a", "b"))}
    for changes in ({"generation": 2}, {"seed": 4}):
        assert not names & {item.request.id for item in planned(config(), rows("a", "b"), **changes)}
    other = Identity(name="writer", weights="other", license="MIT")
    assert not names & {item.request.id for item in plan_round(config(), rows("a"), other, seed=3, generation=1)}


def test_the_prompt_is_the_template_of_the_row() -> None:
    asked = planned(config(requests=2), rows("a"))
    assert [item.request.prompt.splitlines()[-1] for item in asked] == ["text 0", "d0 is"]


def test_no_more_rows_of_a_slice_are_held_than_are_asked_about() -> None:
    many = rows(*["common"] * 50, *["rare"] * 2)
    kept = chosen(config(requests=6), many, 3, 1)
    assert Counter(row.document.slice for row in kept) == {"common": 6, "rare": 2}
    assert [row.document.line for row in kept] == sorted(row.document.line for row in kept)
    assert {row.document.id for row in kept} <= {row.document.id for row in chosen(config(requests=9), many, 3, 1)}
    assert kept != chosen(config(requests=6), many, 3, 2), "another generation asks about other rows"


def test_rows_that_graders_are_graded_on_are_set_aside_from_the_prompts() -> None:
    all_rows = rows(*["one"] * 100)
    graded = config(graders=[{"kind": "grounding"}], grading={"rows": 20})
    aside, prompts = set_aside(graded, all_rows, 3, 1)
    assert len(aside) == 20
    assert sorted(row.document.id for row in (*aside, *prompts)) == sorted(row.document.id for row in all_rows)
    assert set_aside(graded, all_rows[::-1], 3, 1)[0] == aside[::-1], "whatever their order"
    assert set_aside(graded, all_rows, 3, 2)[0] != aside
    assert len(set_aside(graded, all_rows[:40], 3, 1)[0]) == 10, "at most a quarter"
    assert set_aside(config(), all_rows, 3, 1) == ([], all_rows)


def test_names_are_those_of_the_text_and_words_that_only_begin_sentences_are_none() -> None:
    text = "The Tower of London stands on the Thames. It was built by William. Many kings feared William. The river"
    assert set(names_in(text)) == {"The Tower of London", "Thames", "William"}


@given(st.integers(0, 10_000))
def test_a_group_of_names_holds_different_names_of_its_text(seed: int) -> None:
    text = "In Paris they met Curie, who knew Planck and Bohr. Later Bohr wrote to Curie about Planck."
    group = group_of(text, 3, np.random.default_rng(seed))
    first, last = group.rsplit(" and ", 1)
    names = [*first.split(", "), last]
    assert len(set(names)) == 3
    assert set(names) <= set(names_in(text))
    assert group_of("no names here", 2, np.random.default_rng(seed)) == "its main subjects"


def test_every_built_in_template_can_be_rendered_over_a_row() -> None:
    for name in TEMPLATES:
        prompts = [{"template": name, "principles": ["Be short."]}]
        asked = planned(config(prompts=prompts, requests=2), rows("a", "b"))
        assert all("{{" not in item.request.prompt for item in asked)
