"""Filters that look at words: near duplicates, languages, personal data, and those of datatrove."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.data.corpus import documents, prepared, recipe, wiki_texts, write_jsonl
from trainer.base.errors import UserError
from trainer.data.account import RowAccount
from trainer.data.account_text import account_in_words
from trainer.data.filters import FilterChain, FilterConfig
from trainer.data.filters.near_duplicates import NearDuplicates
from trainer.data.filters.personal_data import is_iban, luhn


def chain(*filters: Mapping[str, Any]) -> FilterChain:
    return FilterChain(TypeAdapter(FilterConfig).validate_python(each) for each in filters)


def reason(keys: Mapping[str, Any], text: str) -> str | None:
    verdict = chain(keys).dropped_by(text, {})
    return verdict[1] if verdict else None


def words(rng: random.Random, num: int) -> list[str]:
    return ["".join(rng.choices("abcdefgh", k=6)) for _ in range(num)]


def changed(rng: random.Random, text: list[str], share: float) -> str:
    return " ".join(*[[word if rng.random() >= share else "other" for word in text]])


def test_near_duplicates_are_told_from_texts_that_are_half_the_same() -> None:
    rng = random.Random(0)
    texts = [words(rng, 200) for _ in range(100)]
    seen = NearDuplicates(0.8, 3)
    assert all(seen.add(" ".join(text)) for text in texts)
    similar = [" ".join([*text[:196], *words(rng, 4)]) for text in texts]  # 3-grams: 194 of 202 shared, 0.96
    assert not any(seen.add(text) for text in similar)
    assert all(seen.has(text) for text in similar)
    half = [" ".join([*text[:140], *words(rng, 60)]) for text in texts]  # 138 of 258 shared, 0.53
    assert not any(seen.has(text) for text in half)
    assert all(seen.add(text) for text in half)


def test_texts_shorter_than_an_ngram_are_compared_by_their_words() -> None:
    keys = {"kind": "near_duplicate", "threshold": 0.9}
    filters = chain(keys)
    assert [filters.dropped_by(text, {}) is None for text in ("Two words", "two  words", "two others", "")] == [
        True,
        False,
        True,
        True,
    ]


def test_a_language_filter_keeps_the_languages_named() -> None:
    keys = {"kind": "language", "keep": ["en"]}
    english = "The river rises in the hills, passes two mills and a small town, and then meets the sea."
    german = "Der Fluss entspringt in den Hügeln, fließt an zwei Mühlen vorbei und mündet dann in das Meer."
    assert reason(keys, english) is None
    assert reason(keys, german) == "in the language de"
    assert reason({**keys, "keep": ["en", "de"]}, german) is None
    assert reason(keys, "Der Fluss") is None  # too short to tell
    with pytest.raises(UserError, match="no language of py3langid: english"):
        reason({**keys, "keep": ["english"]}, english)


PERSONAL = {
    "write to mary.jones+x@mail.example-shop.co.uk today": "a mail address",
    "call +44 20 7946 0958 before noon": "a telephone number",
    "paid with 4111 1111 1111 1111 at the desk": "a card number",
    "transfer to GB82 WEST 1234 5698 7654 32 AND NOTHING ELSE": "an IBAN",
    "came from 8.8.8.8, twice": "a public IP address",
    "or from 2001:4860:4860::8888": "a public IP address",
}
NOBODYS = (
    "write to someone@example.com or me@host",
    "paid with 4111 1111 1111 1112 at the desk",  # wrong check digit
    "GB82 WEST 1234 5698 7654 33",  # wrong check digits
    "the router is 192.168.0.1, version 1.2.3",
    "in 1914 1918 1939 1945 and at 12:30:45",
    "pi is 3.14159265358979323846 and 0000000000000000 is zero",
    "between 1,234,567 and 9.876.543 people",
)


@pytest.mark.parametrize(("text", "found"), PERSONAL.items())
def test_personal_data_are_found(text: str, found: str) -> None:
    assert reason({"kind": "personal_data"}, text) == f"holds {found}"


@pytest.mark.parametrize("text", NOBODYS)
def test_what_only_looks_like_personal_data_is_kept(text: str) -> None:
    assert reason({"kind": "personal_data"}, text) is None


def test_national_telephone_numbers_count_where_their_country_is_named() -> None:
    text = "call (650) 253-0000 today"
    assert reason({"kind": "personal_data"}, text) is None
    assert reason({"kind": "personal_data", "phone_region": "US"}, text) == "holds a telephone number"


def test_check_digits_refuse_every_single_wrong_digit() -> None:
    card, iban = "4111111111111111", "DE89370400440532013000"
    assert luhn(card)
    assert is_iban(iban)
    for place in range(len(card)):
        assert not luhn(card[:place] + str((int(card[place]) + 1) % 10) + card[place + 1 :])
    for place in range(4, len(iban)):
        assert not is_iban(iban[:place] + str((int(iban[place]) + 1) % 10) + iban[place + 1 :])


def test_few_introductions_of_wikipedia_hold_personal_data() -> None:
    filters = chain({"kind": "personal_data", "phone_region": "US"})
    found = [text for text in wiki_texts() if filters.dropped_by(text, {})]
    assert len(found) <= 2, found


def test_a_filter_that_only_counts_drops_nothing_and_is_told(folder: Path) -> None:
    rows = [*documents(50, "made"), {"id": "x", "text": "write to mary@shop.com of the made number 3 birds"}]
    write_jsonl(folder / "made.jsonl", rows)
    tree = recipe()
    tree["sources"]["made"]["filters"] = [{"kind": "personal_data", "action": "count"}]
    account = prepared(folder, tree).rows["made"]
    assert account.filtered == 0
    (noted,) = account.noted
    assert (noted.filter, noted.reason, noted.num_rows) == ("personal_data", "holds a mail address", 1)
    assert noted.examples[0].id == "x"
    assert "kept and counted: 1 by the filter personal_data (holds a mail address)" in account_in_words(account)
    assert RowAccount.from_json(account.to_json()) == account


DATATROVE = {
    "GopherQualityFilter": {"min_doc_words": 20},
    "GopherRepetitionFilter": {},
    "FineWebQualityFilter": {"short_line_thr": 0.5},
    "C4QualityFilter": {"min_num_sentences": 3},
}


def test_filters_of_datatrove_decide_as_datatrove_does() -> None:
    module = pytest.importorskip("datatrove.pipeline.filters")
    document = pytest.importorskip("datatrove.data").Document
    rng = random.Random(1)
    texts = rng.sample(wiki_texts(), 60)
    texts += [" ".join([*text.split()[:6]] * 12) for text in texts[:20]]  # repeats
    texts += ["\n".join(text.split()[:20]) for text in texts[:20]]  # lists
    for name, arguments in DATATROVE.items():
        ours, theirs = (
            chain({"kind": "datatrove", "name": name, "edited": "keep", **arguments}),
            getattr(module, name)(**arguments),
        )
        for text in texts:
            verdict = theirs.filter(document(text=text, id=""))
            expected = None if verdict is True else (f"datatrove {name}", verdict[1])
            assert ours.dropped_by(text, {}) == expected


def test_a_document_that_datatrove_would_edit_is_not_edited_in_silence() -> None:
    text = "A whole sentence stands here. And one more. And three.\nNo full stop"
    keys = {"kind": "datatrove", "name": "C4QualityFilter", "min_num_sentences": 2}
    with pytest.raises(UserError, match=r"would keep a document in part.*edited: keep"):
        reason(keys, text)
    assert reason({**keys, "edited": "keep"}, text) is None
    assert reason({**keys, "edited": "drop"}, text) == "would be kept in part only"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "GopherQuality"}, r"no filter of this name.*GopherQualityFilter"),
        ({"name": "GopherQualityFilter", "min_words": 3}, r"takes no such argument.*min_doc_words"),
    ],
)
def test_a_wrong_name_or_argument_of_datatrove_is_refused_with_the_nearest(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chain({"kind": "datatrove", **keys})
