"""Generated rows beside their nearest real document."""

import pytest

from trainer.data.shown_rows import ShownRow, beside_nearest


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
