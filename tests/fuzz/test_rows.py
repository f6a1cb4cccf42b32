"""Every row of random files is accounted for, in every format and compression."""

import json
from pathlib import Path

import pytest

from tests.fuzz.rows import BINARY_FORMATS, COMPRESSIONS, LINE_FORMATS, write_rows
from trainer.data.account import RowAccount
from trainer.data.prepare import prepare
from trainer.data.readers import formats_by_suffix

TEXT_FORMATS = [format for format in (*LINE_FORMATS, "json") if f".{format}" in formats_by_suffix()]
KINDS = [(format, compression) for format in TEXT_FORMATS for compression in COMPRESSIONS]
KINDS += [(format, "") for format in BINARY_FORMATS]


def assert_all_rows_are_accounted_for(folder: Path, *, seed: int, format: str, compression: str, num_rows: int) -> None:
    config, fates = write_rows(folder, seed=seed, format=format, compression=compression, num_rows=num_rows)
    data = prepare(config, seed=seed, base=folder)
    manifest = json.loads((data.folder / "store.json").read_text())
    account = RowAccount.from_json(manifest["rows"]["real"])
    assert account.read == account.used + sum(account.dropped.values())
    counts = {name: getattr(account, name) for name in fates.counts}
    assert counts == dict(fates.counts)
    assert account.read == fates.read
    assert account.files.read == (1 if format == "saved" else 4)
    assert {files.reason for files in account.files.skipped} <= {"about a saved data set"}
    assert account.files.without_rows >= (format != "saved")
    lines = [json.loads(line) for line in (data.folder / "quarantine.jsonl").read_text().splitlines()]
    if format == "saved":  # its rows are named by the file that holds them, which the library chooses
        assert {line["line"] for line in lines} == {line for _, line in fates.malformed}
    else:
        assert {(Path(line["file"]).name, line["line"]) for line in lines} == fates.malformed
    assert len(lines) == account.quarantined


@pytest.mark.kind("random rows in every format")
@pytest.mark.parametrize(("format", "compression"), KINDS)
def test_every_row_of_a_few_hundred_is_used_or_dropped_for_its_reason(
    format: str, compression: str, tmp_path: Path
) -> None:
    seed = KINDS.index((format, compression))
    assert_all_rows_are_accounted_for(tmp_path, seed=seed, format=format, compression=compression, num_rows=300)


@pytest.mark.slow
@pytest.mark.kind("random rows in every format")
@pytest.mark.parametrize(("format", "compression"), KINDS)
def test_every_row_of_ten_thousand_is_used_or_dropped_for_its_reason(
    format: str, compression: str, tmp_path: Path
) -> None:
    seed = 1000 + KINDS.index((format, compression))
    assert_all_rows_are_accounted_for(tmp_path, seed=seed, format=format, compression=compression, num_rows=10_000)
