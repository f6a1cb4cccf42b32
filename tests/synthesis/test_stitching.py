"""Texts made of one document become one long document that names its parts."""

from hypothesis import given
from hypothesis import strategies as st

from tests.synthesis.pools import row
from trainer.synthesis.stitching import SEPARATOR, stitched


@given(documents=st.lists(st.integers(0, 3), max_size=20), most=st.integers(2, 6))
def test_every_text_is_once_in_a_document_of_its_own_origin(documents: list[int], most: int) -> None:
    rows = [
        row(str(place), source_id=f"b{document}", parents=[f"books:b{document}"])
        for place, document in enumerate(documents)
    ]
    whole, parts = stitched(rows, most)
    texts = [(text, found["source_id"]) for found in whole for text in found["text"].split(SEPARATOR)]
    assert sorted(texts) == sorted((found["text"], found["source_id"]) for found in rows)
    assert len({found["id"] for found in [*whole, *parts]}) == len(whole) + len(parts)
    for found in whole:
        own = [part for part in parts if part["id"] in found["parents"]]
        assert len(own) <= most
        if own:
            assert found["text"] == SEPARATOR.join(part["text"] for part in own)
            assert found["completion_tokens"] == 8 * len(own)
    assert len(whole) == sum(-(-documents.count(document) // most) for document in set(documents))


def test_a_stitched_row_has_what_holds_of_all_its_parts() -> None:
    parts = [
        row("a", scores={"quality": 0.9, "length": 1.0}, filters=["length", "regex"], license="MIT", cost=1.0),
        row(
            "b", scores={"quality": 0.2}, filters=["length"], license="CC-BY-4.0", cost=None, tokens_counted="estimated"
        ),
    ]
    (whole,), _ = stitched(parts, 32)
    assert whole["scores"] == {"quality": 0.2, "length": 1.0}
    assert whole["filters"] == ["length"]
    assert whole["license"] == "MIT AND CC-BY-4.0"
    assert whole["cost"] == 1.0
    assert whole["tokens_counted"] == "estimated"
    assert whole["parents"] == ["books:b1", "1-a", "1-b"]


def test_texts_of_different_prompts_stay_apart() -> None:
    rows = [row("a"), row("b", prompt_name="textbook"), row("c")]
    whole, parts = stitched(rows, 32)
    assert [(found["prompt_name"], found["text"].count(SEPARATOR)) for found in whole] == [
        ("rephrase", 1),
        ("textbook", 0),
    ]
    assert [part["id"] for part in parts] == [rows[0]["id"], rows[2]["id"]]
