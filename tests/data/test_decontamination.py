import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.corpus import wiki_texts
from trainer.data.decontamination import HeldOutIndex, jaccard, shingle


def word_shingles(text: str, size: int = 3) -> set[tuple[str, ...]]:
    """The plain definition, for ASCII words between single spaces."""
    words = text.split(" ")
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if len(words) >= size else {tuple(words)}


def plain_jaccard(left: str, right: str) -> float:
    a, b = word_shingles(left), word_shingles(right)
    return len(a & b) / len(a | b)


def similarity(left: str, right: str) -> float:
    pair = shingle([left, right])
    return jaccard(pair.of(0), pair.of(1))


def edited(text: str, num_edits: int, rng: random.Random) -> str:
    words = text.split()
    for _ in range(num_edits):
        place = rng.randrange(len(words))
        kind = rng.choice(["replace", "drop", "insert"])
        if kind == "drop" and len(words) > 1:
            del words[place]
        else:
            words[place : place + (kind == "replace")] = [f"changed{rng.randrange(10**9)}"]
    return " ".join(words)


@pytest.fixture(scope="module")
def wiki() -> Sequence[str]:
    return wiki_texts()


words = st.lists(st.sampled_from(["a", "bc", "d", "efg", "h1"]), min_size=1, max_size=30).map(" ".join)


@given(left=words, right=words)
@settings(max_examples=300, deadline=None)
def test_the_hashed_jaccard_is_the_plain_one(left: str, right: str) -> None:
    assert similarity(left, right) == pytest.approx(plain_jaccard(left, right))


@given(texts=st.lists(st.text(max_size=60), max_size=12), cut=st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_a_batch_gives_each_text_what_it_gets_alone(texts: list[str], cut: int) -> None:
    whole = shingle(texts)
    for place, text in enumerate(texts):
        alone = shingle([text])
        assert whole.of(place).tolist() == alone.of(0).tolist()
        assert whole.exact[place] == alone.exact[0]


def test_case_punctuation_and_white_space_do_not_hide_an_exact_copy(wiki: Sequence[str]) -> None:
    held_out = list(dict.fromkeys(wiki[:500]))
    disguised = [
        f"  {text.upper()} ".replace(" ", " \n ").replace(",", " ; ").replace("-", "\u2013") for text in held_out
    ]
    matched = [match for match in HeldOutIndex([held_out]).match(disguised) if match.kind == "exact"]
    assert [match.document for match in matched] == list(range(len(held_out)))


def test_every_planted_copy_is_found_and_names_its_document(wiki: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(wiki))
    held_out, training = distinct[:1000], distinct[1000:2000]
    planted = [text for pair in zip(training, held_out, strict=True) for text in pair]
    matched = HeldOutIndex([held_out[:300], held_out[300:]]).match(planted)
    assert {match.document: match.held_out for match in matched if match.kind == "exact"} == {
        2 * i + 1: i for i in range(1000)
    }


def test_nine_in_ten_near_duplicates_from_jaccard_eight_tenths_are_found(wiki: Sequence[str]) -> None:
    rng = random.Random(5)
    held_out = list(wiki[:2000])
    copies = [edited(text, rng.randint(1, 6), rng) for text in held_out]
    scores = [similarity(left, right) for left, right in zip(held_out, copies, strict=True)]
    near = {place for place, score in enumerate(scores) if 0.8 <= score < 1}
    far = {place for place, score in enumerate(scores) if score < 0.8}
    matched = {match.document for match in HeldOutIndex([held_out]).match(copies)}
    assert len(near) > 300
    assert len(far) > 300
    assert len(near & matched) >= 0.9 * len(near)
    assert len(far & matched) <= 0.001 * len(held_out)


def test_false_alarms_on_real_text_are_at_most_one_in_a_thousand(wiki: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(wiki))
    held_out, training = distinct[::5], [text for place, text in enumerate(distinct) if place % 5]
    index = HeldOutIndex([held_out])
    alarms = [match for start in range(0, len(training), 1000) for match in index.match(training[start : start + 1000])]
    assert len(training) > 8000
    assert len(alarms) <= 0.001 * len(training)


def test_text_without_spaces_is_compared_by_its_characters() -> None:
    text = (
        "\u6f22\u5b57\u3068\u4eee\u540d\u3092\u4f7f\u3063\u3066\u66f8\u304b\u308c\u305f\u6587\u7ae0\u3067\u3059\u3002"
        * 2
    )
    changed = text[:-4] + "\u308b" + text[-3:]
    assert 0.5 < similarity(text, changed) < 1
    (match,) = HeldOutIndex([[text]], threshold=0.5).match([changed])
    assert match.kind == "near"


def test_texts_without_words_match_only_themselves() -> None:
    index = HeldOutIndex([["!!!", "a b", "one two three four"]])
    matched = index.match(["???", " !!! ", "b a", "A, b.", ""])
    assert [(match.document, match.held_out, match.kind) for match in matched] == [(1, 0, "exact"), (3, 1, "exact")]


def test_an_empty_index_finds_nothing() -> None:
    assert HeldOutIndex([]).match(["anything at all"]) == []
    assert HeldOutIndex([["some text here"]]).match([]) == []


def test_a_threshold_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold must be in"):
        HeldOutIndex([], threshold=0.0)
