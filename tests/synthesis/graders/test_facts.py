"""What counts as the same name, number or date, and what is planted into real rows."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthesis.graders.rivers import row
from trainer.synthesis.graders.config import FAULTS, Fault
from trainer.synthesis.graders.facts import Held, facts_of
from trainer.synthesis.graders.planted import planted

SOURCE = (
    "Roger II ruled Sicily from 1130. He had 1200 ships and 5,213,000 subjects, and died on 26 February 1154 with "
    "twenty-three heirs. The United Nations honored the Chinese scholar Li Wei."
)


@pytest.mark.parametrize(
    "text",
    [
        "In 1130 Roger II ruled.", "The Sicilian king Roger had 1,200 ships.", "About 5.2 million people lived there.",
        "February 26, 1154 was cold.", "It was in the 1150s.", "There were 23 heirs.", "The UN met in China with Wei.",
        "However, it was large. Many came.", "",
    ],
)  # fmt: skip
def test_what_the_source_holds_in_other_words_is_held(text: str) -> None:
    assert Held(SOURCE).missing(facts_of(text)) == {"names": [], "numbers": []}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("In 1131 it began.", "1131"), ("He met Frederick there.", "Frederick"), ("It had 1,300 ships.", "1300"),
        ("About 5.3 million people.", "5300000"), ("In the 1160s it fell.", "1160s"), ("It had 24 heirs.", "24"),
        ("The King of Norway wrote.", "King of Norway"), ("It had 5 million people.", "5000000"),
    ],
)  # fmt: skip
def test_what_the_source_does_not_hold_is_named(text: str, missing: str) -> None:
    found = Held(SOURCE).missing(facts_of(text))
    named = [str(int(Decimal(value))) if value[-1].isdigit() else value for value in found["numbers"]]
    assert missing in [*found["names"], *named]


@given(st.integers(0, 10**12))
def test_a_number_is_the_same_however_its_digits_are_grouped(number: int) -> None:
    assert not Held(f"of {number:,} kinds").missing(facts_of(f"of {number} kinds"))["numbers"]
    assert not Held(f"of {number} kinds").missing(facts_of(f"of {number:,}.0 kinds"))["numbers"]
    rounds = number % 10 == 9  # 110 rounds 109
    assert rounds or Held(f"of {number} kinds").missing(facts_of(f"of {number + 1} kinds"))["numbers"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_has_facts_and_its_own_are_held(text: str, other: str) -> None:
    facts_of(other)
    missing = Held(text).missing(facts_of(text))
    assert missing["numbers"] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_the_same_for_the_same_seed(fault: Fault) -> None:
    text, others = row(1)["text"], [row(number)["text"] for number in range(2, 9)]
    bad = planted(fault, text, others, seed=1, key="a")
    assert bad == planted(fault, text, others, seed=1, key="a") != text
    assert bad != planted(fault, text, others, seed=2, key="a")


@given(st.integers(0, 10**6))
def test_planted_faults_are_what_they_are_called(seed: int) -> None:
    text, others = row(seed % 50)["text"], [row(number)["text"] for number in range(50, 60)]
    made = {fault: planted(fault, text, others, seed=seed, key="a") or "" for fault in FAULTS}
    assert sorted(made["shuffled"].split()) == sorted(text.split())
    assert not facts_of(made["swapped"]).numbers & facts_of(text).numbers or len(facts_of(text).numbers) > 2
    assert text.startswith(made["truncated"])
    assert not made["truncated"].rstrip().endswith(".")
    assert made["other"] in others
    assert len(set(made["repeated"].split(". "))) <= 2


@given(st.text(max_size=60), st.sampled_from(FAULTS), st.integers(0, 100))
def test_a_text_that_cannot_have_a_fault_has_none(text: str, fault: Fault, seed: int) -> None:
    bad = planted(fault, text, [], seed=seed, key="a")
    assert bad is None or bad.split() != text.split()
