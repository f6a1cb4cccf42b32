"""What is in a pool, what of it is read, and what a kill leaves of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthesis.pools import publish, record, row
from trainer.base.errors import UserError
from trainer.data.find import content_hash, find_files
from trainer.data.pool_manifest import Manifest, ShardFact
from trainer.data.source_config import SourceConfig
from trainer.synthesis.pool import Pool, rows_of

# A pool's life: two shards of a generation, another generation, its quarantine, a takedown. Each can be done again.
LIFE = """
import os, signal, sys
import pandas, pyarrow.dataset  # which pyarrow imports at its first table: once, not in each child
from pathlib import Path
from tests.synthesis.pools import publish, record, row
from trainer.synthesis.lineage import Origin, take_down
from trainer.synthesis.pool import Pool

def live(folder):
    publish(folder, 1, [row("a"), row("b", source_id="b2", parents=["books:b2"])], shards=2)
    publish(folder, 1, [row("c")], shard=1, shards=2)
    publish(folder, 2, [row("d", 2, parents=["1-b"], source_id="b3")])
    Pool(folder).quarantine(2, by="guard", reason="worse")
    take_down(Pool(folder), Origin(document="books:b2"), "asked")

def killed_at(count, folder):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir") and str(folder) in str(arguments[:2]):
            seen += 1
            if seen > count:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    live(folder)

if __name__ == "__main__":
    base, count = Path(sys.argv[1]), 0
    while True:
        folder = base / str(count)
        child = os.fork()
        if not child:
            killed_at(count, folder)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(count)
            break
        count += 1
"""


def as_it_is(folder: Path, newest: int | None = None) -> dict[str, Any]:
    view = Manifest(folder).view(newest)
    rows = {name: [found["id"] for found in rows_of(folder / "rows" / name)] for name in view.files}
    return {"rows": rows, "left_out": dict(view.left_out), "taken_down": sorted(view.taken_down)}


def test_a_kill_between_any_two_file_operations_loses_nothing_and_adds_nothing_twice(tmp_path: Path) -> None:
    script = tmp_path / "life.py"
    script.write_text(LIFE)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], cwd=root, env={"PYTHONPATH": root}, capture_output=True,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    operations = int(done.stdout)
    assert operations > 40
    whole = as_it_is(tmp_path / str(operations))
    assert whole["taken_down"] == ["1-b"]
    assert Manifest(tmp_path / str(operations)).taken_down == {"1-b", "2-d"}
    texts = {"generation-0001.shard-0-of-2.parquet": ["1-a", "1-b"], "generation-0001.shard-1-of-2.parquet": ["1-c"]}
    assert whole["rows"] == texts
    texts["generation-0002.shard-0-of-1.parquet"] = ["2-d"]
    assert list(whole["left_out"].values()) == ["of a quarantined generation of the pool"]
    names: dict[str, Any] = {"__name__": "life"}
    exec(compile(LIFE, "life", "exec"), names)
    num_facts = 0
    for count in range(operations):
        folder = tmp_path / str(count)
        before = as_it_is(folder)
        assert before["rows"].items() <= texts.items(), "whole or absent"
        assert len(Manifest(folder).facts) >= num_facts, "what is a fact stays one"
        num_facts = len(Manifest(folder).facts)
        names["live"](folder)
        assert as_it_is(folder) == whole
        assert len(Manifest(folder).facts) == 5, "nothing twice"


def test_a_file_that_no_fact_names_is_not_read(tmp_path: Path) -> None:
    publish(tmp_path, 1, [row("a")])
    first = tmp_path / "rows" / "generation-0001.shard-0-of-1.parquet"
    (tmp_path / "rows" / "generation-0002.shard-0-of-1.parquet").write_bytes(first.read_bytes())
    found = find_files(source(tmp_path), tmp_path)
    assert [file.name for file in found.files] == [first.name]
    assert [skipped.reason for skipped in found.skipped] == ["not in the pool's manifest"]


def source(folder: Path, **keys: Any) -> SourceConfig:
    return SourceConfig(kind="synthetic", path=str(folder / "rows"), **keys)


def generations_read(folder: Path, **keys: Any) -> list[int]:
    return [int(Path(file.path).name[11:15]) for file in find_files(source(folder, **keys), folder).files]


@given(
    states=st.lists(st.sampled_from(["good", "gate", "guard", "released", "half"]), min_size=1, max_size=6),
    window=st.integers(1, 4),
)
@settings(max_examples=15, deadline=None)
def test_a_mode_reads_the_newest_whole_generations_that_are_not_quarantined(
    tmp_path_factory: pytest.TempPathFactory, states: list[str], window: int
) -> None:
    folder = tmp_path_factory.mktemp("pool")
    for number, state in enumerate(states, start=1):
        quarantined = "one text" if state == "gate" else None
        publish(folder, number, [row("a", number)], shards=1 + (state == "half"), quarantined=quarantined)
        if state in ("guard", "released"):
            Pool(folder).quarantine(number, by="guard", reason="worse")
        if state == "released":
            Pool(folder).release(number, by="user", reason="looked at")
    good = [number for number, state in enumerate(states, start=1) if state in ("good", "released")]
    if not good:
        with pytest.raises(UserError, match="a source has no files"):
            generations_read(folder)
        return
    assert generations_read(folder) == generations_read(folder, generations="accumulate") == good
    assert generations_read(folder, generations="replace") == good[-1:]
    assert generations_read(folder, generations={"window": window}) == good[-window:]


def test_a_generation_is_whole_when_its_last_shard_is_there(tmp_path: Path) -> None:
    publish(tmp_path, 1, [row("a")])
    publish(tmp_path, 2, [row("b", 2)], shard=1, shards=2)
    assert Pool(tmp_path).next_generation() == 2
    assert generations_read(tmp_path) == [1]
    publish(tmp_path, 2, [row("c", 2)], shard=0, shards=2)
    assert generations_read(tmp_path) == [1, 2, 2]
    assert Pool(tmp_path).next_generation() == 3


def test_shards_of_one_generation_come_from_one_recipe(tmp_path: Path) -> None:
    publish(tmp_path, 1, [row("a")], shards=2, recipe="one")
    with pytest.raises(UserError, match="begun by another recipe"):
        publish(tmp_path, 1, [row("b")], shard=1, shards=2, recipe="other")


def test_generations_has_an_effect_only_on_a_pool(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="has an effect only on a pool"):
        find_files(source(tmp_path, generations="replace"), tmp_path)


def test_the_folder_above_the_rows_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, 1, [row("a")])
    with pytest.raises(UserError, match="names a pool, not its rows"):
        find_files(SourceConfig(kind="synthetic", path=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("fault", ["missing", "cut", "fact"])
def test_a_pool_that_is_not_what_was_written_is_refused(tmp_path: Path, fault: str) -> None:
    publish(tmp_path, 1, [row("a")])
    publish(tmp_path, 2, [row("b", 2)])
    file = tmp_path / "rows" / "generation-0001.shard-0-of-1.parquet"
    if fault == "missing":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:50])
    else:
        (tmp_path / "manifest" / "000001.json").write_text("{}")
    with pytest.raises(UserError, match=r"missing|damaged"):
        find_files(source(tmp_path), tmp_path)


def test_writers_at_the_same_time_lose_no_fact(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.synthesis.pools import publish, row; n = int(sys.argv[2])\n"
        "for g in range(1, 9): publish(Path(sys.argv[1]), g, [row('a', g)], shard=n, shards=4)"
    )
    root = str(Path(__file__).parents[2])
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], cwd=root, env={"PYTHONPATH": root})
        for n in range(4)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    shards = [(shard.generation, shard.shard) for shard in Manifest(tmp_path).shards]
    assert shards == [(generation, shard) for generation in range(1, 9) for shard in range(4)]


def test_of_two_processes_that_make_a_shard_at_once_neither_writes_over_what_the_other_published(
    tmp_path: Path,
) -> None:
    class Overtaken(Pool):
        def shard(self, generation: int, number: int) -> ShardFact | None:
            before = super().shard(generation, number)
            publish(tmp_path, 1, [row("a")])  # the other one publishes after this one has looked
            return before

    Overtaken(tmp_path).publish(record(1, 1), [row("b")], [])
    (shard,) = Manifest(tmp_path).shards
    assert content_hash(tmp_path / "rows" / shard.file) == shard.sha256
    assert as_it_is(tmp_path)["rows"] == {shard.file: ["1-a"]}


def test_other_rows_that_a_kill_left_under_a_shards_name_are_not_taken_for_its_own(tmp_path: Path) -> None:
    publish(tmp_path / "other", 1, [row("b")])
    name = "generation-0001.shard-0-of-1.parquet"
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / name).write_bytes((tmp_path / "other" / "rows" / name).read_bytes())
    publish(tmp_path, 1, [row("a")])
    assert list(as_it_is(tmp_path)["rows"].values()) == [["1-a"]]
