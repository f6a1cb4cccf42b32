"""The peers do the work that ours does, and results say where they come from."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import figures, loader, overhead, planner, resume
from benchmarks.segments import write_segment
from trainer.data.prepare import prepare
from trainer.mixture.ledger import Ledger, from_record
from trainer.mixture.plan import Plan
from trainer.recipe import load_recipe

SAMPLES, LENGTH, BATCH = 24, 8, 6
SOURCES = ("a", "b")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> loader.Spec:
    folder = tmp_path_factory.mktemp("loader")
    segments = loader.write_data(folder, num_samples=SAMPLES, sequence_length=LENGTH, sources=SOURCES)
    return loader.Spec(folder, segments, dict.fromkeys(SOURCES, 0.5), BATCH, once=True)


def epoch(spec: loader.Spec, family: str, variant: str) -> list[list[int]]:
    batches = list(loader.variants()[family][variant](spec))
    assert all(batch.dtype == torch.int64 for batch in batches)
    assert all(batch.shape[1] == LENGTH for batch in batches)
    return sorted(row for batch in batches for row in batch.tolist())


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("datasets map", "batched, 0 workers"),
        ("datasets map", "rows, 0 workers"),
        ("datasets stream", "batched, 0 workers"),
        ("datasets stream", "rows, 0 workers"),
        ("grain", "0 threads"),
        ("grain", "2 threads"),
    ],
)
def test_every_loader_delivers_the_samples_of_an_epoch_that_ours_delivers(
    spec: loader.Spec, family: str, variant: str
) -> None:
    mine = epoch(spec, "ours", "one thread")
    assert len(mine) == SAMPLES * len(SOURCES)
    assert epoch(spec, family, variant) == mine


def test_a_written_result_names_machine_versions_date_and_command(tmp_path: Path) -> None:
    result = figures.Result(
        title="a ratio",
        figures=[
            figures.figure("met", [1.0, 2.0, 3.0], "ratio", at_least=2),
            figures.figure("missed", [9.0], "ms", at_most=1),
        ],
    )
    table = figures.write([figures.record("probe", result)], tmp_path)
    saved = json.loads((tmp_path / "probe.json").read_text())
    assert saved["command"] == "python -m benchmarks probe"
    assert {"cpu", "cores", "load_average", "device"} <= set(saved["machine"])
    assert set(figures.PACKAGES) < set(saved["versions"])
    assert saved["date"].startswith("2")
    assert [(figure["value"], figure["low"], figure["high"], figure["is_met"]) for figure in saved["figures"]] == [
        (2.0, 1.0, 3.0, True),
        (9.0, 9.0, 9.0, False),
    ]
    assert "| probe | missed | 9 ms |  | 1 | <= 1 | **missed** |" in table
    assert table in (tmp_path / "README.md").read_text()


def test_turns_alternate_so_that_nobody_always_goes_first() -> None:
    order: list[str] = []
    measures = {name: (lambda name=name: order.append(name) or 1.0) for name in ("a", "b")}
    assert figures.alternated(measures, 3) == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_a_resume_keeps_a_ledger_whose_batches_are_those_of_the_whole_one(tmp_path: Path) -> None:
    segments = {
        name: write_segment(tmp_path / name, num_samples=50, sequence_length=8, seed=seed)
        for seed, name in enumerate(resume.SHARES)
    }
    saved = resume.write_run(tmp_path / "run", segments, 30_000)
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    assert sum('"fact":"snapshot"' in line for line in lines) == 30
    ledger = resume.open_run(tmp_path / "run", segments, saved)
    whole = [from_record(json.loads(line)) for line in lines]
    assert len(ledger.facts) < len(whole)
    kept, every = Plan(0, ledger), Plan(0, Ledger(whole))
    for step in (saved.step + 1, saved.step - 5_000):
        assert kept.batch(step).sample.tolist() == every.batch(step).sample.tolist()


def test_the_planner_keeps_no_memory_that_grows_with_the_data() -> None:
    small, large = (planner.peak_bytes(size) for size in (planner.SMALL, planner.LARGE))
    assert large < 1.2 * small


def test_costs_are_counted_in_tokens_trained(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, []).recipe
    result = overhead.costs(recipe, prepare(recipe.data, seed=recipe.seed, base=tiny_recipe.parent))
    evaluation, evidence, alignment, aligned, trial_steps = result.figures
    assert result.details["interval_tokens"] == 8 * 16 * 4
    assert evaluation.value == pytest.approx(result.details["evaluation_cost_tokens"] / 512)
    assert evidence.value == alignment.value == 0  # the policy is constant: nobody asks for evidence
    assert aligned.value == trial_steps.value == evaluation.value
