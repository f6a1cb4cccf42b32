import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.templates import FORMS, templated
from tests.data.corpus import wiki_texts
from trainer.data.decontamination import HeldOutIndex
from trainer.data.shingles import shingle


def word_shingles(text: str, size: int = 3) -> set[tuple[str, ...]]:
    """The plain definition, for ASCII words between single spaces."""
    words = text.split(" ")
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if len(words) >= size else {tuple(words)}


def plain_jaccard(left: str, right: str) -> float:
    a, b = word_shingles(left), word_shingles(right)
    return len(a & b) / len(a | b)


def similarity(left: str, right: str) -> float:
    pair = shingle([left, right])
    left_hashes, right_hashes = set(pair.of(0).tolist()), set(pair.of(1).tolist())
    union = left_hashes | right_hashes
    return len(left_hashes & right_hashes) / len(union) if union else 0.0


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
    matched = [match for match in HeldOutIndex([held_out]).match(disguised).copies if match.kind == "exact"]
    assert [match.document for match in matched] == list(range(len(held_out)))


def test_every_planted_copy_is_found_and_names_its_document(wiki: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(wiki))
    held_out, training = distinct[:1000], distinct[1000:2000]
    planted = [text for pair in zip(training, held_out, strict=True) for text in pair]
    matched = HeldOutIndex([held_out[:300], held_out[300:]]).match(planted).copies
    assert {match.document: match.held_out for match in matched if match.kind == "exact"} == {
        2 * i + 1: i for i in range(1000)
    }


def with_changed_words(text: str, share: float, rng: random.Random) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = f"changed{rng.randrange(10**9)}"
    return " ".join(words)


def half(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2])


@pytest.mark.parametrize(
    ("change", "recall"),
    [
        (lambda text, rng: edited(text, 1, rng), 0.99),
        (lambda text, rng: with_changed_words(text, 0.01, rng), 0.99),
        (lambda text, rng: with_changed_words(text, 0.04, rng), 0.99),
        (lambda text, rng: with_changed_words(text, 0.10, rng), 0.97),
        (lambda text, rng: half(text), 0.93),
        (lambda text, rng: f"{with_changed_words(text, 1, rng)} {text} {with_changed_words(text, 1, rng)}", 0.97),
        (lambda text, rng: with_changed_words(half(text), 0.04, rng), 0.88),
    ],
    ids=["one-edit", "1-percent", "4-percent", "10-percent", "half", "inside-longer-text", "half-edited"],
)
def test_copies_are_found_though_words_were_changed_or_a_half_was_taken(
    wiki: Sequence[str], change: Callable[[str, random.Random], str], recall: float
) -> None:
    rng, texts = random.Random(5), list(dict.fromkeys(wiki))[:2000]
    held_out, training = texts[:1000], texts[1000:]
    copies = [change(text, rng) for text in held_out]
    matched = HeldOutIndex([held_out], sample=[training]).match(copies).copies
    assert len(matched) >= recall * len(held_out)
    assert sum(match.held_out == match.document for match in matched) >= 0.99 * len(matched)


@pytest.mark.parametrize("kind", FORMS)
def test_two_documents_of_one_form_are_two_documents(wiki: Sequence[str], kind: str) -> None:
    """A tenth is held out of a corpus that is mostly of the form; documents have nothing else in common."""
    texts = [*templated(kind, 300), *list(dict.fromkeys(wiki))[:100]]
    random.Random(3).shuffle(texts)
    held_out, training = texts[:40], texts[40:]
    found = HeldOutIndex([held_out], sample=[training]).match(training)
    assert found.copies == []


def test_documents_that_share_a_form_only_are_counted_and_kept() -> None:
    letters = templated("letter", 60)
    found = HeldOutIndex([letters[:10]], sample=[letters[10:]]).match(letters[10:])
    assert (found.copies, found.num_same_form) == ([], 50)


def test_a_light_edit_of_a_letter_with_much_of_its_own_is_found_among_letters_of_its_form() -> None:
    rng = random.Random(1)
    own = [" ".join(f"{rng.choice('abcdefgh')}{rng.randrange(10**6)}" for _ in range(40)) for _ in range(60)]
    letters = [f"{form} {words}" for form, words in zip(templated("letter", 60), own, strict=True)]
    copies = [with_changed_words(letter, 0.02, rng) for letter in letters[:10]]
    found = HeldOutIndex([letters[:10]], sample=[letters[10:]]).match([*copies, *letters[10:]])
    assert [match.document for match in found.copies] == list(range(10))


def test_words_that_fewer_real_documents_share_than_make_a_form_are_a_documents_own() -> None:
    letters = templated("letter", 3)
    assert len(HeldOutIndex([letters[:1]], sample=[letters[1:]]).match(letters[1:]).copies) == 2
    assert HeldOutIndex([letters[:1]], sample=[letters[1:]], form_documents=3).match(letters[1:]).copies == []


def test_equal_documents_are_one_when_a_form_is_counted(wiki: Sequence[str]) -> None:
    text = max(wiki, key=len)
    near = with_changed_words(text, 0.02, random.Random(2))
    assert len(HeldOutIndex([[text, text]], sample=[[text] * 10]).match([near]).copies) == 1


def test_false_alarms_on_real_text_are_at_most_one_in_a_thousand(wiki: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(wiki))
    held_out, training = distinct[::5], [text for place, text in enumerate(distinct) if place % 5]
    index = HeldOutIndex([held_out])
    alarms = [
        match for start in range(0, len(training), 1000) for match in index.match(training[start : start + 1000]).copies
    ]
    assert len(training) > 8000
    assert len(alarms) <= 0.001 * len(training)


def test_text_without_spaces_is_compared_by_its_characters() -> None:
    text = (
        "\u6f22\u5b57\u3068\u4eee\u540d\u3092\u4f7f\u3063\u3066\u66f8\u304b\u308c\u305f\u6587\u7ae0\u3067\u3059\u3002"
        * 2
    )
    changed = text[:-4] + "\u308b" + text[-3:]
    assert 0.5 < similarity(text, changed) < 1
    (match,) = HeldOutIndex([[text]], threshold=0.5).match([changed]).copies
    assert match.kind == "near"


def test_texts_without_words_match_only_themselves() -> None:
    index = HeldOutIndex([["!!!", "a b", "one two three four"]])
    matched = index.match(["???", " !!! ", "b a", "A, b.", ""]).copies
    assert [(match.document, match.held_out, match.kind) for match in matched] == [(1, 0, "exact"), (3, 1, "exact")]


def test_an_empty_index_finds_nothing() -> None:
    assert HeldOutIndex([]).match(["anything at all"]).copies == []
    assert HeldOutIndex([["some text here"]]).match([]).copies == []


def test_a_threshold_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold must be in"):
        HeldOutIndex([], threshold=0.0)
