"""Which files a source is read from: links, hidden and temporary folders, saved data sets, patterns, splits."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from tests.data.corpus import write_jsonl
from tests.data.test_readers import data, read, reasons, texts
from trainer.base.errors import DataError
from trainer.data.find import FoundFiles, find_files


def lay(folder: Path, *names: str) -> None:
    """A file of one row under each name; its text is the name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            parquet.write_table(pyarrow.table({"text": [name]}), folder / name)
        else:
            write_jsonl(folder / name, [{"text": name}])


def found(folder: Path, path: str = "repo", **keys: Any) -> FoundFiles:
    return find_files(data(path=path, **keys).sources["web"], folder)


def names(folder: Path, path: str = "repo", **keys: Any) -> list[str]:
    return [file.name for file in found(folder, path, **keys).files]


def skipped(folder: Path, path: str = "repo", **keys: Any) -> dict[str, int]:
    return {files.reason: files.num_files for files in found(folder, path, **keys).skipped}


HIDDEN = [
    ".ipynb_checkpoints/a-checkpoint.jsonl",
    ".cache/huggingface/a.jsonl",
    ".git/objects/b.jsonl",
    "deep/.git/c.jsonl",
    "_temporary/0/part-0.jsonl",
    "_delta_log/000.json",
    "_SUCCESS.json",
    "__MACOSX/a.jsonl",
    "tmp/a.jsonl",
    "part-3.jsonl.tmp/a.jsonl",
    "checkpoint-500/trainer_state.json",
    "checkpoints/a.jsonl",
]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_temporary_and_checkpoint_folders_are_skipped_and_counted(tmp_path: Path, hidden: str) -> None:
    lay(tmp_path / "repo", "a.jsonl", "deep/b.jsonl", hidden)
    assert names(tmp_path) == ["a.jsonl", "deep/b.jsonl"]
    assert names(tmp_path, "repo/**/*.jsonl") == ["a.jsonl", "deep/b.jsonl"]
    assert sum(skipped(tmp_path).values()) == 1
    assert [files.examples for files in found(tmp_path).skipped] == [(hidden,)]


def test_a_hidden_folder_is_read_where_the_recipe_names_it(tmp_path: Path) -> None:
    lay(tmp_path / "repo", ".hidden/a.jsonl", "checkpoint-5/b.jsonl", "_made/c.jsonl")
    assert names(tmp_path, "repo/.hidden") == ["a.jsonl"]
    assert names(tmp_path, "repo/.hidden/*.jsonl") == ["a.jsonl"]
    assert names(tmp_path, "repo/checkpoint-*/*.jsonl") == ["checkpoint-5/b.jsonl"]
    assert names(tmp_path, "repo/_m*/*.jsonl") == ["_made/c.jsonl"]


def test_a_folder_without_data_says_what_was_left_out(tmp_path: Path) -> None:
    lay(tmp_path / "repo", ".cache/a.jsonl", "notes.pdf")
    with pytest.raises(DataError, match=r"has no files.*1 hidden, 1 not a data format"):
        found(tmp_path)


def test_a_hubs_cache_is_read_by_the_names_of_its_links(tmp_path: Path) -> None:
    lay(tmp_path / "hub/blobs", "9f86d081", "60303ae2")
    snapshot = tmp_path / "hub/snapshots/main"
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "a.jsonl").symlink_to("../../blobs/9f86d081")
    (snapshot / "data/b.jsonl").symlink_to("../../../blobs/60303ae2")
    for path in ("hub/snapshots/main", "hub/snapshots/main/**/*.jsonl"):
        assert names(tmp_path, path) == ["a.jsonl", "data/b.jsonl"]
        assert texts(read(tmp_path, path=path)) == ["9f86d081", "60303ae2"]
    assert names(tmp_path, "hub/snapshots/main/a.jsonl") == ["a.jsonl"]


@pytest.mark.parametrize("path", ["repo", "repo/**/*.jsonl", "repo/*/*.jsonl"])
def test_linked_folders_are_entered(tmp_path: Path, path: str) -> None:
    lay(tmp_path, "repo/a/a.jsonl", "elsewhere/b.jsonl")
    (tmp_path / "repo/b").symlink_to("../elsewhere")
    assert names(tmp_path, path) == ["a/a.jsonl", "b/b.jsonl"]


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    lay(tmp_path, "repo/a/a.jsonl", "beside.jsonl")
    for name, target in (("loop", "."), ("up", ".."), ("a/far", "../.."), ("a/root", "/"), ("again", "a")):
        (tmp_path / "repo" / name).symlink_to(target)
    assert names(tmp_path) == ["a/a.jsonl"]
    assert skipped(tmp_path) == {"a link to a folder above": 4, "a link to a folder that is read already": 1}


@pytest.mark.parametrize("is_hard", [False, True])
def test_a_file_under_two_names_is_read_once_under_its_own(tmp_path: Path, is_hard: bool) -> None:
    lay(tmp_path, "repo/b.jsonl", "elsewhere/c.jsonl")
    if is_hard:
        os.link(tmp_path / "repo/b.jsonl", tmp_path / "repo/latest.jsonl")
    else:
        (tmp_path / "repo/a-latest.jsonl").symlink_to("b.jsonl")  # comes first, and is a link all the same
    (tmp_path / "repo/x.jsonl").symlink_to("../elsewhere/c.jsonl")
    (tmp_path / "repo/y.jsonl").symlink_to("../elsewhere/c.jsonl")
    assert names(tmp_path) == ["b.jsonl", "x.jsonl"]
    assert skipped(tmp_path) == {"the same file as another": 2}


@pytest.mark.parametrize("path", ["repo", "repo/*.jsonl", "repo/b.jsonl"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, path: str) -> None:
    lay(tmp_path / "repo", "a.jsonl")
    (tmp_path / "repo/b.jsonl").symlink_to("../blobs/gone")
    with pytest.raises(DataError, match=r"b\.jsonl: a link leads nowhere \(got '../blobs/gone'\)"):
        found(tmp_path, path)


@pytest.mark.parametrize("path", ["repo", "repo/*"])
def test_a_broken_link_that_is_not_data_is_left_alone_and_counted(tmp_path: Path, path: str) -> None:
    lay(tmp_path / "repo", "a.jsonl")
    for name in (".lock", "README.md", "img.png", "images"):
        (tmp_path / "repo" / name).symlink_to("gone")
    assert names(tmp_path, path) == ["a.jsonl"]
    assert skipped(tmp_path)["a link that leads nowhere"] == 3


def test_a_file_beside_its_compressed_form_is_refused(tmp_path: Path) -> None:
    lay(tmp_path / "repo", "a.jsonl", "a.jsonl.gz")
    with pytest.raises(DataError, match="next to its compressed form"):
        found(tmp_path)
    assert names(tmp_path, "repo/*.jsonl") == ["a.jsonl"]


@pytest.mark.parametrize("folder", ["br[1] dir", "a*b", "what?"])
def test_signs_of_a_pattern_in_a_folders_name_are_not_a_pattern(tmp_path: Path, folder: str) -> None:
    base = tmp_path / folder
    lay(base, "real-1.jsonl", "real-2.jsonl", "d[2]/x.jsonl")
    lay(tmp_path, "br1 dir/real-9.jsonl", "axb/real-9.jsonl")
    assert names(base, "real-*.jsonl") == ["real-1.jsonl", "real-2.jsonl"]
    assert names(base, "d[2]/*.jsonl") == ["x.jsonl"]
    assert names(tmp_path, f"{base}/real-[2].jsonl") == ["real-2.jsonl"]


def test_ids_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    lay(tmp_path / "repo", "2020/part-0.jsonl", "2021/part-0.jsonl")
    for path in ("repo", "repo/*/part-0.jsonl", "repo/202?/*"):
        assert [row.file for row in read(tmp_path, path=path)] == ["2020/part-0.jsonl", "2021/part-0.jsonl"]


HUB = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"]
LAYOUTS = {
    "hub": HUB,
    "folders": ["train/0.jsonl", "train/test_of_time.jsonl", "test/0.jsonl"],
    "names": ["my_train.jsonl", "web.training.jsonl", "my_test.jsonl"],
    "dev": ["TRAIN.jsonl", "train-2.jsonl", "dev.jsonl"],
}


def of(split: str, layout: Iterable[str]) -> list[str]:
    words = {"train": ("train", "TRAIN"), "test": ("test/", "test-", "_test", "dev")}[split]
    picked = [name for name in layout if any(word in name for word in words) and not name.endswith("time.jsonl")]
    return sorted(picked + [name for name in layout if name.endswith("time.jsonl") and split == "train"])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_the_split_of_a_file_is_told_by_its_name_or_its_folder(tmp_path: Path, layout: list[str]) -> None:
    lay(tmp_path / "repo", *layout)
    held_out = "validation" if "dev.jsonl" in layout else "test"
    assert names(tmp_path, split="train") == of("train", layout)
    assert names(tmp_path, split=held_out) == of("test", layout)
    assert sum(skipped(tmp_path, split="train").values()) == 1
    assert len(names(tmp_path, split="all")) == 3
    with pytest.raises(DataError, match=r"several splits.*train: 2"):
        found(tmp_path)


def test_a_held_out_split_beside_files_of_no_split_is_refused_and_training_files_are_not(tmp_path: Path) -> None:
    lay(tmp_path / "repo", "a.jsonl", "b.jsonl", "train.jsonl")
    assert len(names(tmp_path)) == 3
    lay(tmp_path / "repo", "validation.jsonl")
    with pytest.raises(DataError, match="several splits"):
        found(tmp_path)
    assert names(tmp_path, "repo/[a-t]*.jsonl") == ["a.jsonl", "b.jsonl", "train.jsonl"]
    assert names(tmp_path, "repo/validation.jsonl") == ["validation.jsonl"]


def test_words_that_only_hold_the_name_of_a_split_are_none(tmp_path: Path) -> None:
    lay(tmp_path / "repo", "a.jsonl", "contest.jsonl", "valley.jsonl", "attestation.jsonl", "retrain.jsonl")
    assert len(names(tmp_path)) == 5


@pytest.mark.parametrize(
    "name",
    [
        "val-d-isere.txt",
        "validation-notes.jsonl",
        "dev.blog.jsonl",
        "test_drive-2020.jsonl.gz",
        "eval-facade.txt",
        "test-kitchen/a.txt",
        f"test{'-00' * 40}-x.txt",
    ],
)
def test_an_ordinary_word_of_a_name_is_no_split(tmp_path: Path, name: str) -> None:
    lay(tmp_path / "repo", "paris.txt", name)
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(
    "name",
    [
        "data_test.jsonl",
        "wiki.test.txt",
        "wiki.test",
        "test_3.txt",
        "test3.jsonl.gz",
        "validation-0001.txt",
        "test-00000-of-00002-a09b74b3ef9c3b56.parquet",
        "test_part_1.txt",
        "test.v1.0.jsonl",
        "my-test/a.jsonl",
    ],
)
def test_a_word_before_nothing_but_the_number_of_a_shard_is_a_split(tmp_path: Path, name: str) -> None:
    lay(tmp_path / "repo", "paris.txt", name)
    with pytest.raises(DataError, match="several splits"):
        found(tmp_path, "repo/**", format="text")


@pytest.mark.parametrize("other", ["train{}", "validation{}", "deep/train{}"])
@pytest.mark.parametrize("rest", [".en.jsonl", "-clean-0.jsonl", "_set.txt", "-clean/a.txt"])
def test_names_that_differ_in_the_word_of_a_split_alone_tell_it(tmp_path: Path, rest: str, other: str) -> None:
    test = ("deep/test{}" if "deep" in other else "test{}").format(rest)
    lay(tmp_path / "repo", test, other.format(rest), other.format(rest.replace("0", "1")))
    with pytest.raises(DataError, match="several splits"):
        found(tmp_path)
    assert names(tmp_path, split="test") == [test]


def test_a_split_without_effect_is_refused(tmp_path: Path) -> None:
    lay(tmp_path / "repo", "a.jsonl", "b.jsonl")
    for path in ("repo", "repo/*.jsonl", "repo/a.jsonl"):
        with pytest.raises(DataError, match=r"no file of a source is of this split.*leave `split` out"):
            found(tmp_path, path, split="train")
    lay(tmp_path / "other", "test.jsonl")
    with pytest.raises(DataError, match=r"no file of a source is of this split.*tell test"):
        found(tmp_path, "other", split="train")
    lay(tmp_path / "train", "a.jsonl")
    assert names(tmp_path, "train", split="train") == ["a.jsonl"]


def test_a_split_of_any_name_is_taken_by_that_name(tmp_path: Path) -> None:
    lay(tmp_path / "repo", "data/en-00000-of-00001.parquet", "data/eng-00000-of-00001.parquet")
    assert names(tmp_path, split="en") == ["data/en-00000-of-00001.parquet"]


def saved(folder: Path, **splits: list[str]) -> None:
    """A data set in one split, or several, as `save_to_disk` writes it."""
    sets = {name: datasets.Dataset.from_dict({"text": rows}) for name, rows in splits.items()}
    whole = datasets.DatasetDict(sets) if len(sets) > 1 else next(iter(sets.values()))
    whole.save_to_disk(str(folder))


def test_a_saved_data_set_is_recognized_without_a_format(tmp_path: Path) -> None:
    saved(tmp_path / "one", only=["a", "b"])
    saved(tmp_path / "more", train=["a", "b"], test=["c"], rest=["d"])
    (tmp_path / "one/cache-0123456789abcdef.arrow").write_bytes(b"of another transformation")
    assert texts(read(tmp_path, path="one")) == ["a", "b"]
    assert texts(read(tmp_path, path="one", format="arrow")) == ["a", "b"]
    assert texts(read(tmp_path, path="more", split="train")) == ["a", "b"]
    assert texts(read(tmp_path, path="more", split="rest")) == ["d"]
    assert sorted(texts(read(tmp_path, path="more", split="all"))) == ["a", "b", "c", "d"]
    with pytest.raises(DataError, match="several splits"):
        read(tmp_path, path="more")
    with pytest.raises(DataError, match="rest, test, train"):
        read(tmp_path, path="more", split="validation")


def test_a_saved_data_set_that_is_not_whole_is_refused_and_one_without_rows_has_no_files(tmp_path: Path) -> None:
    saved(tmp_path / "none", only=[])
    with pytest.raises(DataError, match="has no files"):
        read(tmp_path, path="none")
    saved(tmp_path / "more", train=["a", "b"], test=[])
    assert texts(read(tmp_path, path="more")) == ["a", "b"]
    shard = tmp_path / "more/train/data-00000-of-00001.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8])
    with pytest.raises(DataError, match="cannot be read to its end"):
        read(tmp_path, path="more", split="train")
    shard.unlink()
    with pytest.raises(DataError, match="a file of a saved data set is missing"):
        read(tmp_path, path="more", split="train")
    (tmp_path / "more/train/state.json").write_text("{")
    with pytest.raises(DataError, match="a saved data set cannot be opened"):
        read(tmp_path, path="more", split="train")


def test_a_cache_of_datasets_is_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    files = str(tmp_path / "a.jsonl")
    datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"), split="train").map(
        lambda row: {"text": row["text"] * 2}
    )
    folder = next((tmp_path / "cache").glob("json/*/*/*/"))
    assert texts(read(tmp_path, path=str(folder))) == ["a", "b"]
    assert texts(read(tmp_path, path=str(folder), format="arrow")) == ["a", "b"]


def test_a_folder_of_state_names_may_hold_data_called_state(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/state.json").write_text(json.dumps([{"text": "Ohio"}]))
    assert texts(read(tmp_path, path="repo")) == ["Ohio"]
    assert reasons(read(tmp_path, path="repo")) == []
