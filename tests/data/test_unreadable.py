"""Files that cannot be read: one ends the preparation at once, several are named in one message."""

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.corpus import prepared, recipe, small_files
from trainer.base.errors import DataError

Damage = Callable[[Path], Path]


def cut_line(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:-9])
    return file


def cut_gzip(file: Path) -> Path:
    packed = file.with_name(f"{file.name}.gz")
    packed.write_bytes(gzip.compress(file.read_bytes())[:-200])
    file.unlink()
    return packed


def cut_parquet(file: Path) -> Path:
    whole = file.with_name(f"{file.stem}.parquet")
    whole.write_bytes(b"PAR1" + file.read_bytes()[:500])
    file.unlink()
    return whole


def refusal(folder: Path, **damages: Damage) -> DataError:
    small_files(folder)
    tree = recipe()
    for source, damage in damages.items():
        tree["sources"][source]["path"] = damage(folder / f"{source}.jsonl").name
    with pytest.raises(DataError) as caught:
        prepared(folder, tree)
    return caught.value


@pytest.mark.parametrize("damage", [cut_line, cut_gzip, cut_parquet])
@pytest.mark.parametrize("source", ["web", "made"])
def test_one_file_that_cannot_be_read_ends_the_preparation_and_is_no_cause_of_itself(
    tmp_path: Path, damage: Damage, source: str
) -> None:
    error = refusal(tmp_path, **{source: damage})
    assert source in str(error)
    assert error.__cause__ is not error
    assert error.__context__ is not error


def test_the_first_file_that_cannot_be_read_is_told_before_the_rest_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        error = refusal(tmp_path, web=cut_line, made=cut_gzip)
    assert str(error).startswith("2 data files cannot be read:")
    [told] = [record.message for record in caplog.records if "Reading on" in record.message]
    assert "web.jsonl" in told
    assert "made.jsonl" not in told
