from pathlib import Path
from typing import Any

import pytest

from tests.data.corpus import documents, prepared, recipe, small_files, write_jsonl
from trainer.data.account import FileTally, RowAccount


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_files(tmp_path)
    return tmp_path


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


def test_an_account_is_the_same_after_it_was_saved(folder: Path) -> None:
    account = prepared(folder, recipe()).rows["web"]
    tally = FileTally()
    tally.skip("hidden", ".a")
    assert RowAccount.from_json(account.to_json()) == account
    assert tally.skipped[0].examples == (".a",)
