"""The text laboratory's bookkeeping: which static share is chosen, what a regret is, when a bad source was gone."""

import json

import pytest

from experiments import text
from experiments.scenarios import SCENARIOS, TURNING, TURNS_BAD_AT, cells
from experiments.text_table import evaluations_until_gone, interval, table


def cell(validation: float, test: float, **more: object) -> dict[str, object]:
    return {
        "commit": "0" * 12,
        "validation_nats_per_token": validation,
        "test_nats_per_token": test,
        "worst_slice": {"name": "Arts", "bits_per_byte": 2.5},
        "epochs": {"real": 3.0},
        "moves": [],
        **more,
    }


def test_the_static_share_is_chosen_by_the_validation_documents_and_scored_on_the_report_documents() -> None:
    stored = {}
    for seed in (17, 18):
        stored[f"tenth/static-0.5/{seed}"] = cell(4.0, 4.0 + 0.002 * (seed - 17))
        stored[f"tenth/static-0.3/{seed}"] = cell(3.9, 4.2)
        stored[f"tenth/priced/{seed}"] = cell(9.9, 4.1 + 0.01 * (seed - 17))
    rows = table(stored)
    assert any(row.startswith("| static-0.3 |") and "| chosen |" in row for row in rows)
    assert any(row.startswith("| priced |") and "| -0.095 [" in row for row in rows)
    (overview,) = [row for row in rows if row.startswith("| tenth |") and "| 0.3 |" in row]
    assert all(part in overview for part in ("| 4 |", "| -0.095 [", "| -2.26 |"))


def test_the_interval_is_students() -> None:
    assert interval([0.0, 1.0]) == "+0.500 [-5.853, +6.853]"  # t of 1 degree of freedom is 12.71
    assert interval([0.25]) == "+0.250"


def test_a_bad_source_is_gone_after_the_evaluations_up_to_the_decision_that_cut_it() -> None:
    steps = list(range(25, 301, 25))
    moves = [
        {"step": 150, "action": "move", "shares": {TURNING: 200_000}},
        {"step": 225, "action": "cut", "shares": {TURNING: 0}},
    ]
    figures = cell(4.0, 4.0, evaluation_steps=steps, moves=moves)
    assert TURNS_BAD_AT == 151
    assert evaluations_until_gone(figures) == 3  # 175, 200, 225
    assert evaluations_until_gone({**figures, "moves": moves[:1]}) is None


def test_every_cell_says_its_seed_and_its_sources_and_no_two_are_the_same() -> None:
    plan = cells()
    assert len({json.dumps(overrides) for overrides in plan.values()}) == len(plan)
    for name, overrides in plan.items():
        assert f"seed={name.rpartition('/')[2]}" in overrides
        assert any(override.startswith("data.sources=") for override in overrides)
    assert {name.partition("/")[0] for name in plan} == set(SCENARIOS)


def test_a_missing_cell_fails(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stored = {name: cell(4.0, 4.0 + 0.01 * number, evaluation_steps=[]) for number, name in enumerate(cells())}
    monkeypatch.setattr(text, "RESULTS", tmp_path / "text.json")
    monkeypatch.setattr("sys.argv", ["text"])
    (tmp_path / "text.json").write_text(json.dumps(stored))
    assert text.main() == 0
    stored.pop("scarce/priced/19")
    (tmp_path / "text.json").write_text(json.dumps(stored))
    assert text.main() == 1
    assert "missing: scarce/priced/19" in capsys.readouterr().out
