"""Ten defects in a corpus of many files: each is named with its file, by a refusal or by the account."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks.corpus import Planted, data_section, encoded, plant_defects, rows_of, write_corpus
from tests.cases.commands import Case, Ended, WarmCommands

pytestmark = pytest.mark.kind("ten defects in one corpus")
SIZES = [
    pytest.param((2_000, 40), id="2,000-documents"),
    pytest.param((100_000, 200), id="100,000-documents", marks=pytest.mark.slow),
]
TOGETHER = ("cut gzip file", "cut zstd file", "file without the text column")
QUARANTINED = {
    "unclosed quote": "a quote that opens here is never closed",
    "bad UTF-8": "bad UTF-8",
    "oversized row": "over 4000 bytes",
}


@dataclass(frozen=True)
class Prepared:
    """What the commands said of one corpus, one repair after the other."""

    planted: Planted
    checked: Ended  # with all ten
    refused: Ended  # without the file of the test split
    trained: Ended  # with whole files in place of those refused
    rows: Mapping[str, Any]
    quarantined: list[dict[str, Any]]
    num_files: int


def write_recipe(folder: Path) -> None:
    recipe = {
        "name": "corpus",
        "model": {
            "architecture": "llama",
            "config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
        },
        "data": data_section(),
        "mixture": {"global_batch": 4, "shares": {"corpus": 0.5, "made": 0.5}},
        "training": {"steps": 1, "micro_batch": 4, "learning_rate": 0.001, "precision": "fp32"},
        "tracking": {"trackers": []},
    }
    with (folder / "recipe.yaml").open("w") as stream:
        YAML(typ="safe", pure=True).dump(recipe, stream)


@pytest.fixture(scope="module", params=SIZES)
def prepared(
    request: pytest.FixtureRequest, warm_commands: WarmCommands, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    num_documents, num_files = request.param
    home = tmp_path_factory.mktemp("corpus")
    write_corpus(home / "case", num_documents, num_files)
    planted = plant_defects(home / "case", num_documents, num_files)
    write_recipe(home / "case")
    case, data = Case(warm_commands, home), home / "case" / "data"
    checked = case.check()
    (data / planted.files["test split"]).unlink()
    refused = case.fit()
    for defect in TOGETHER:
        file = data / planted.files[defect]
        stem, _, format = file.name.partition(".")
        file.write_bytes(encoded(rows_of(int(stem.removeprefix("part-")), planted.documents_per_file), format))
    trained = case.fit()
    (store,) = (file.parent for file in (home / "case" / "cache" / "stores").glob("*/store.json"))
    rows = json.loads((store / "store.json").read_text())["rows"]["corpus"]
    lines = [json.loads(line) for line in (store / "quarantine.jsonl").read_text().splitlines()]
    return Prepared(planted, checked, refused, trained, rows, lines, num_files)


def test_a_test_split_is_named_by_check(prepared: Prepared) -> None:
    prepared.checked.refused(prepared.planted.files["test split"])


@pytest.mark.parametrize("defect", TOGETHER)
def test_every_file_that_cannot_be_read_is_named_in_one_message(prepared: Prepared, defect: str) -> None:
    prepared.refused.refused(prepared.planted.files[defect], "data files cannot be read")


def test_an_empty_shard_is_named(prepared: Prepared) -> None:
    prepared.trained.told()
    files = prepared.rows["files"]
    assert (files["without_rows"], files["examples_without_rows"]) == (1, [prepared.planted.files["empty shard"]])


@pytest.mark.parametrize("defect", ["hidden copy", "linked copy"])
def test_a_copy_that_is_left_out_is_named(prepared: Prepared, defect: str) -> None:
    skipped = [file for reason in prepared.rows["files"]["skipped"] for file in reason["examples"]]
    assert any(prepared.planted.files[defect].startswith(file) for file in skipped)
    assert prepared.rows["files"]["read"] == prepared.num_files + 1


@pytest.mark.parametrize("defect", QUARANTINED)
def test_a_row_that_is_not_used_is_named_with_its_file(prepared: Prepared, defect: str) -> None:
    (line,) = (line for line in prepared.quarantined if line["file"] == prepared.planted.files[defect])
    assert QUARANTINED[defect] in line["reason"]


def test_every_row_of_the_repaired_corpus_is_accounted_for(prepared: Prepared) -> None:
    rows = prepared.rows
    assert rows["read"] == prepared.planted.documents_per_file * prepared.num_files
    assert rows["quarantined"] == len(QUARANTINED)
    assert rows["read"] == rows["used"] + rows["held_out"] + rows["quarantined"] + rows["contaminated"]
