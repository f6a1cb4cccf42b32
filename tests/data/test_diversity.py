"""Diversity of texts, and rows beside their nearest real document."""

import pytest

from trainer.data import diversity as measures
from trainer.data.shown_rows import ShownRow, beside_nearest


def test_distinct_counts_different_pairs_within_documents() -> None:
    texts = ["a b a b", "a b", "c", "d e"]
    assert measures.distinct(texts, num_words=2, num_grams=100) == 3 / 5
    assert measures.distinct(texts, num_words=2, num_grams=4) == 2 / 4
    assert measures.distinct(texts, num_words=1, num_grams=100) == 5 / 9


def test_the_tail_is_the_rarest_fifth_of_what_is_repeated_with_all_words_of_one_frequency() -> None:
    texts = ["the " * 16 + "moss moss fern fern", "once twice"]  # a fifth of 20 running words: 4 of them
    assert measures.rare_words(texts) == {"fern", "moss"}
    assert measures.rare_words(["the the the the the the fern fern moss moss"]) == {"fern", "moss"}
    assert measures.words_covered(["the fern", "the moss"], {"fern", "moss"}, num_words=3) == 1 / 2


def test_both_texts_are_cut_to_equally_many_words() -> None:
    measured = measures.diversity(["a b c d"], ["a a b b a a b b"], most_words=100)
    assert measured["distinct_1"] == 1.0
    assert measured["distinct_1_real"] == 2 / 4
    assert measured["rare_words"] == 1.0
    assert measures.diversity([], ["a"], most_words=10) == {}


def test_a_row_stands_beside_the_document_that_has_most_of_its_words_and_pairs() -> None:
    real = {"w:1": "the cat sat on the mat", "w:2": "a dog sat", "w:3": "mat the on sat cat the"}
    rows = [{"id": "1-a", "text": "The cat sat", "source": "w", "source_id": "2"}]
    [shown] = beside_nearest(rows, real)
    assert (shown.nearest, shown.made_from, shown.overlap) == ("w:1", "w:2", 1.0)
    assert ShownRow.from_json(shown.to_json()) == shown


@pytest.mark.parametrize(("num_rows", "ids"), [(2, "01"), (8, "0246"), (0, "")])
def test_the_rows_that_are_shown_are_spread_over_all(num_rows: int, ids: str) -> None:
    rows = [{"id": str(n), "text": "a", "source": "w", "source_id": "1"} for n in range(num_rows)]
    assert "".join(row.id for row in beside_nearest(rows, {"w:1": ""})) == ids
