"""Rounds of synthesis in report, explanation and W&B: what a pool and a journal recorded, and nothing where none is."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.journals import step_line
from tests.report.test_html import ATTACK, charts_of, made
from trainer.data.pool_manifest import QuarantineFact
from trainer.data.shown_rows import ShownRow
from trainer.mixture.ledger import Shares
from trainer.report.explain import explain
from trainer.report.history import read_history
from trainer.report.rounds import generations, round_rows
from trainer.synthesis.diversity import Diversity
from trainer.synthesis.gate_record import GateRecord
from trainer.synthesis.graders.record import Estimate, GraderRecord, ReliabilityBin
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.tracking.journal import Journal
from trainer.tracking.record import JournalLine
from trainer.tracking.round_line import RoundLine

DROPPED = {"generator: cut off at max_new_tokens": 6, "duplicate: same words as an earlier row of the pool": 2}
JUDGE = GraderRecord(
    name="judge",
    kind="judge",
    has_vote=False,
    lost_vote_for=("length bias 0.61 [0.52, 0.70]",),
    agreement=Estimate(value=0.71, low=0.62, high=0.79),
    length_bias=Estimate(value=0.61, low=0.52, high=0.7),
    reliability=(ReliabilityBin(belief=0.2, good=0.3, rows=10), ReliabilityBin(belief=0.9, good=0.6, rows=10)),
    graded=34,
)
FUNNEL = (
    "a-pool 2 writer (01234567) 80 68 34 64 (80%) 6,400 of 8,000 1 EUR (156.2 per M kept); v 0.2, w 0.8; 1,400 J "
    "3 min 00 s in the pool"
)
SHOWN = ShownRow(id="2-ab", text=ATTACK, made_from="w:Moss", nearest="w:Fern", nearest_text="of ferns", overlap=0.37)


def diverse(distinct: float) -> Diversity:
    return Diversity(distinct=distinct, self_bleu=0.2, vendi=20.0, tail_coverage=None)


def gate(distinct: float) -> GateRecord:
    return GateRecord(rows=40, diversity=diverse(distinct), real=diverse(0.95), memorization=None, failed=())


def record(generation: int, shard: int = 0, shards: int = 1, **changed: Any) -> RoundRecord:
    settings: dict[str, Any] = {
        "generator": "writer",
        "generator_weights": "0123456789abcdef",
        "requests": 40,
        "accepted": 32,
        "dropped": DROPPED,
        "completion_tokens": 4000,
        "accepted_tokens": 3200,
        "seconds": 90.0,
        "cost": 0.5,
        "currency": "EUR",
        "cost_by_source": {"w": 0.4, "v": 0.1},
        "joules": 700.0,
        "gate": gate(0.9 - 0.1 * generation),
    }
    return RoundRecord(generation=generation, shard=shard, shards=shards, **(settings | changed))


def with_pool(folder: Path, pool: Pool) -> Path:
    """The run with a recipe that reads the pool."""
    sources = {"wikipedia": {"path": "real.jsonl"}, "made": {"path": str(pool.rows)}}
    (folder / "recipe.yaml").write_text(json.dumps({"data": {"sources": sources}}))
    return folder


def published(folder: Path) -> Pool:
    pool = Pool(folder)
    pool.publish(record(1), [], [])
    for shard in (0, 1):
        pool.publish(record(2, shard, 2, graders=(JUDGE,), shown=(SHOWN,)), [], [])
    return pool


def test_the_page_has_funnel_reasons_graders_rows_beside_real_ones_and_their_charts(
    tell: Callable[..., Path], tmp_path: Path
) -> None:
    folder = with_pool(tell(), published(tmp_path / "a-pool"))
    page = made([folder], tmp_path / "report.html")
    assert FUNNEL in page.text
    assert "generator: cut off at max_new_tokens 6 12" in page.text
    assert "2 judge lost: length bias 0.61 [0.52, 0.70] 0.71 [0.62, 0.79]" in page.text
    assert "w:Fern , overlap 37 % of ferns" in page.text
    assert "img" not in page.tags
    charts = charts_of(page)
    bars = {trace["name"]: trace["y"] for trace in charts["run0-funnel"]["data"]}
    assert bars == {"kept": [32, 64], "dropped by generator": [6, 12], "dropped by duplicate": [2, 4]}
    lines = {trace["name"]: trace["y"] for trace in charts["run0-diversity"]["data"]}
    assert lines["distinct-3"] == [0.8, 0.7]
    assert "tail coverage" not in lines
    assert charts["run0-calibration"]["data"][1]["y"] == [0.3, 0.6]


def test_a_run_without_a_pool_says_nothing_of_synthesis(tell: Callable[..., Path], tmp_path: Path) -> None:
    assert "Synthetic data" not in made([tell()], tmp_path / "report.html").text


def test_a_generation_says_why_it_is_not_trained_on(tell: Callable[..., Path], tmp_path: Path) -> None:
    pool = published(tmp_path / "a-pool")
    pool.publish(record(3, 0, 2), [], [])
    pool.manifest().append(lambda _: QuarantineFact(generation=1, by="guard", reason="held-out loss rose"))
    run = read_history(with_pool(tell(), pool))
    fates = [row["fate"] for row in round_rows(run, generations(run))]
    assert fates == ["guard: held-out loss rose", "in the pool", "not whole yet"]


def test_a_damaged_pool_costs_its_section_not_the_page(tell: Callable[..., Path], tmp_path: Path) -> None:
    pool = published(tmp_path / "a-pool")
    next((pool.folder / "manifest").glob("*.json")).write_text("{")
    assert "Synthetic data" not in made([with_pool(tell(), pool)], tmp_path / "report.html").text


def round_line(step: int, state: str, reason: str, **more: Any) -> RoundLine:
    return RoundLine(step=step, generation=2, state=state, source="made", reason=reason, **more)


def test_the_runs_own_pool_tells_when_a_generation_joined(tell: Callable[..., Path]) -> None:
    folder = tell()
    published(folder / "pool")
    journal = Journal(folder / "journal.jsonl")
    journal.write(round_line(400, "joined", "drawn from step 401 on, as segment 1 of made"))
    journal.close()
    run = read_history(folder)
    second = list(round_rows(run, generations(run)))[1]
    assert second["fate"] == "joined after step 400: drawn from step 401 on, as segment 1 of made"


def test_the_explanation_says_when_a_generation_joined_and_why() -> None:
    before, after = {"a": 1_000_000, "made": 0}, {"a": 750_000, "made": 250_000}
    lines: list[JournalLine] = [
        *(step_line(step, shares=before if step < 9 else after, counts={"a": 4}) for step in range(1, 13)),
        round_line(4, "begun", "every 4 steps"),
        round_line(7, "ended", "32 of 40 rows passed, 12 samples"),
        round_line(8, "joined", "drawn from step 9 on, as segment 0 of made"),
    ]
    shares = [Shares(step=0, shares=before, reason="recipe"), Shares(step=9, shares=after, reason="joined")]
    text = explain(lines, shares, 12)
    assert "generation 2 of made joined; drawn from step 9 on, as segment 0 of made." in text
    assert "after step 4, begun: every 4 steps" in text
    assert "after step 7, ended: 32 of 40 rows passed, 12 samples" in text


def test_a_round_is_plotted_with_funnel_reasons_and_diversity() -> None:
    metrics = round_line(7, "ended", "", record=asdict(record(2))).metrics()
    assert metrics["synthesis/requests"] == 40
    assert metrics["synthesis/accepted_share"] == 0.8
    assert metrics["synthesis/dropped/generator: cut off at max_new_tokens"] == 6
    assert metrics["synthesis/diversity/distinct"] == 0.7
    assert metrics["synthesis/generation"] == 2
