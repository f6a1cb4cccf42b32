import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.templates import word
from tests.data.corpus import documents, prepared, recipe, write_jsonl
from trainer.base.errors import UserError
from trainer.data.account import FileTally, RowAccount
from trainer.data.account_text import account_lines, loss_warnings


def from_folder(**changes: Any) -> dict[str, Any]:
    tree = recipe()
    tree["sources"]["made"] = {"kind": "synthetic", "path": "made", "id_column": "id", **changes}
    return tree


def test_every_file_of_a_folder_is_read_or_left_out_for_a_reason(folder: Path) -> None:
    (folder / "made" / "more").mkdir(parents=True)
    for number, name in enumerate(["a.jsonl", "more/b.jsonl"]):
        write_jsonl(folder / "made" / name, documents(40, f"made{number}"))
    for name in ("empty.jsonl", ".hidden.jsonl", "README.txt", "more/picture.png", "more/table.xlsx"):
        (folder / "made" / name).write_bytes(b"" if name == "empty.jsonl" else b"not data")
    files = prepared(folder, from_folder()).rows["made"].files
    assert (files.seen, files.read, files.without_rows) == (7, 3, 1)
    assert {skipped.reason: skipped.num_files for skipped in files.skipped} == {
        "not a data format": 2, "hidden": 1, "documentation": 1,
    }  # fmt: skip
    assert files.skipped[0].examples == ("more/picture.png", "more/table.xlsx")
    assert files.num_bytes == sum((folder / "made" / name).stat().st_size for name in ("a.jsonl", "more/b.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "where", "told"),
    [
        ("a.csv", "text,year\nfour words of text,2001\nand four more words,2002\n", {"year": 2001},
         r"year holds text: write '2001' in quotes"),
        ("a.csv", "text,keep\nfour words of text,True\n", {"keep": True}, r"keep: 'True'"),
        ("a.jsonl", '{"text": "four words of text", "year": 2001}\n', {"year": "2001"},
         r"year holds numbers: write 2001 without quotes"),
        ("a.jsonl", '{"text": "four words of text", "topic": "sea"}\n', {"topic": ["see", "lake"]}, r"topic: 'sea'"),
        ("a.jsonl", '{"text": "four words of text", "a": 1, "b": null}\n', {"a": 1, "b": 2}, r"a: 1; b: None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["web", "made"])
def test_a_where_that_leaves_no_row_is_refused_with_the_values_there_are(
    folder: Path, source: str, name: str, content: str, where: dict[str, Any], told: str
) -> None:
    (folder / name).write_text(content)
    tree = recipe()
    tree["sources"][source] = {"kind": tree["sources"][source]["kind"], "path": name, "where": where}
    with pytest.raises(UserError, match=rf"`where` leaves none of the \d rows of source '{source}'.*{told}"):
        prepared(folder, tree)


def long_texts(num: int) -> list[str]:
    """Texts of 40 words that share none."""
    rng = random.Random(num)
    return [" ".join(word(rng, 4) for _ in range(40)) for _ in range(num)]


def with_near_copies(folder: Path, num: int, **changes: Any) -> dict[str, Any]:
    """A recipe with held-out data sets of their own, ``num`` of whose 40 documents are in `web` with a changed word,
    next to 60 others.
    """
    texts = long_texts(100)
    for part, rows in (("validation", texts[:20]), ("test", texts[20:40])):
        write_jsonl(folder / f"{part}.jsonl", [{"text": text} for text in rows])
    copies = [{"id": f"copy{i}", "text": f"changed {text}"} for i, text in enumerate(texts[:num])]
    others = [{"id": f"other{i}", "text": text} for i, text in enumerate(texts[40:])]
    write_jsonl(folder / "web.jsonl", [{"topic": "t", **row} for row in [*copies, *others]])
    own = {part: {"kind": "real", "path": f"{part}.jsonl"} for part in ("validation", "test")}
    return recipe(held_out={"kind": "dataset", **own}, **changes)


def test_real_data_lost_to_near_copies_above_the_limit_stop_preparation_with_the_choice_to_make(folder: Path) -> None:
    tree = with_near_copies(folder, 15)
    with pytest.raises(UserError) as error:
        prepared(folder, tree)
    for words in (
        "15 of 75 documents of source 'web' are copies of held-out documents (0 exact, 15 near, 0 part)",
        "max_lost_share (0.1)", "copy0 is nearly validation.jsonl:1", "data.contamination.threshold (0.6)",
        "raise data.contamination.max_lost_share",
    ):  # fmt: skip
        assert words in str(error.value)
    accepted = prepared(folder, with_near_copies(folder, 15, contamination={"max_lost_share": 0.2})).rows["web"]
    assert (accepted.read, accepted.used, accepted.contaminated, accepted.copies.near) == (75, 60, 15, 15)


def test_ten_lost_documents_are_told_and_do_not_stop_unless_the_limit_is_0(folder: Path) -> None:
    account = prepared(folder, with_near_copies(folder, 10)).rows["web"]
    assert account.contaminated == 10
    (warning,) = loss_warnings({"web": account}, None)
    assert "10 of 70 documents of 'web' (14.3%) are copies of held-out documents" in warning
    with pytest.raises(UserError, match="real data lost above"):
        prepared(folder, with_near_copies(folder, 1, contamination={"max_lost_share": 0}))


def test_synthetic_data_is_lost_to_copies_without_a_limit_but_not_without_a_word(folder: Path) -> None:
    tree = with_near_copies(folder, 0)
    write_jsonl(folder / "made.jsonl", [{"id": f"m{i}", "text": f"{t} more"} for i, t in enumerate(long_texts(100))])
    data = prepared(folder, tree)
    assert data.rows["made"].contaminated == 40
    assert any("40 of 100 documents of 'made'" in warning for warning in loss_warnings(data.rows, data.folder))


def test_the_lines_of_an_account_name_every_reason_and_neutralize_what_data_brings(folder: Path) -> None:
    rows = [{"id": "a\x1b[2Jb", "text": text} for text in long_texts(100)[:2]]
    tree = with_near_copies(folder, 0)
    tree["sources"]["made"] |= {
        "where": {"topic": "sea"},
        "max_documents": 3,
        "filters": [{"kind": "length", "min_words": 4}],
    }
    more = [{"id": "x", "text": text} for text in ("too short", *(f"{i} of {i} is one {i}" for i in range(5)))]
    write_jsonl(
        folder / "made.jsonl",
        [*({"topic": "sea", **row} for row in [*rows, *more]), {"topic": "lake", "text": "x"}, b"{"],
    )
    (line,) = account_lines({"made": prepared(folder, tree).rows["made"]})
    assert line == (
        "made: 10 rows of 1 file: 3 used, 7 dropped: 1 malformed (bad JSON 1); 1 not selected by `where`; 2 copies of "
        f"held-out documents (2 exact, such as a [2Jb is validation.jsonl:1: {rows[0]['text'][:50]}...); 2 after "
        "`max_documents`; 1 by the filter length (fewer than 4 words)"
    )


def test_an_account_is_the_same_after_it_was_saved(folder: Path) -> None:
    account = prepared(folder, recipe()).rows["web"]
    tally = FileTally()
    tally.skip("hidden", ".a")
    assert RowAccount.from_json(account.to_json()) == account
    assert tally.skipped[0].examples == (".a",)


def test_the_warning_of_malformed_rows_names_the_file_that_lists_them(folder: Path) -> None:
    write_jsonl(folder / "web.jsonl", [*documents(200, "web"), *[b"{"] * 4])
    write_jsonl(folder / "made.jsonl", [*documents(60, "made"), b""])
    data = prepared(folder, recipe())
    (warning,) = loss_warnings(data.rows, data.folder)
    file = data.folder / "quarantine.jsonl"
    assert warning.startswith("4 of 204 rows of 'web' (2.0%) are malformed")
    assert warning.endswith(f"listed in {file}")
    assert len(file.read_text().splitlines()) == 4
    assert "listed in" not in next(loss_warnings(data.rows, None)), "of a run whose data are not in a store"
