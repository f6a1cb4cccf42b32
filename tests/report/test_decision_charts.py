"""The charts of what decisions rested on draw what the journal's decisions say, and only where they say it."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.journals import written
from trainer.base.records import Decision
from trainer.report import decision_charts
from trainer.report.charts import figures
from trainer.report.history import read_history
from trainer.report.html import write_report
from trainer.report.plotly_figures import Figure, Trace
from trainer.report.titles import TITLES

KINDS = {"real": "real", "made": "synthetic", "spam": "synthetic"}
GROUNDS = {"value", "significance", "price", "budget", "harm", "slice-harm"}


def said(value: float, error: float, share: float, pull: float, **alone: tuple[float, float]) -> dict[str, Any]:
    estimators = {
        estimator: {"value": estimated_value, "standard_error": wrong}
        for estimator, (estimated_value, wrong) in alone.items()
    }
    return {"value": value, "standard_error": error, "share_by_value": share, "pull": pull, "estimators": estimators}


def budget(used: float, share: float | None) -> dict[str, Any]:
    return {
        "samples": 800, "used_samples": 200 * used, "used_epochs": used, "planned_epochs": 4.0, "planned_share": share,
        "value_of_repeat": 0.82, "value_of_new_sample": 0.43,
    }  # fmt: skip


def priced(sources: Mapping[str, Any], price: float, budget: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sources": sources, "price": price, "budget": budget, "limits": [], "threshold": 1.5, "trust_region": None,
        "real_advantage": sources["real"]["value"] if sources else None,
    }  # fmt: skip


def judged(evidence: float, **more: Any) -> dict[str, Any]:
    return {"nats_per_token": 4.0, "warn_at": 10, "alarm_at": 3000, "evidence": evidence, **more}


def decision(step: int, policy: Mapping[str, Any], guard: Mapping[str, Any]) -> Decision:
    shares = {"real": 400_000, "made": 400_000, "spam": 200_000}
    evidence = {"policy": policy, "guard": guard, "shares_before": shares, "progress": 0.5}
    return Decision(
        from_step=step + 1, action="keep", shares=shares, reason="stated", policy="priced", evidence=evidence
    )


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, Figure]:
    """The charts of three decisions: nothing known, then two sources, then the price too."""
    early = priced({}, 0.0, budget(1.0, None))
    # two sources: what an estimator says against the plain mean of the others is what it says by share
    forgetting = {
        "real": said(0.4, 0.1, 0.6, 0.05, dither=(0.5, 0.2), source_value=(0.3, 0.2)),
        "made": said(-0.4, 0.1, 0.4, -0.05, dither=(-0.5, 0.2), source_value=(-0.3, 0.2)),
    }
    later = {
        "real": said(0.2, 0.4, 0.7, 0.0, source_value=(0.2, 0.4)),
        "made": said(-0.2, 0.4, 0.3, 0.0, source_value=(-0.2, 0.4)),
    }
    statistics = {"mean": {"evidence": 0.5}, "progress": {"evidence": 90.0}}
    decisions = [
        decision(10, early, {"nats_per_token": 4.2, "num_evaluations": 3, "warn_at": 10, "alarm_at": 3000}),
        decision(20, priced(forgetting, 0.0, budget(2.0, 0.3)), judged(0.25, slices={"art": 0.02, "law": 7.0})),
        decision(30, priced(later, 0.15, budget(3.0, 0.2)), judged(30.0, statistics=statistics, slices={"art": 0.1})
                 | {"slice_alarm_at": 200.0}),
        decision(40, {}, {"usable": False}),
    ]  # fmt: skip
    return figures(read_history(written(tmp_path / "run", decisions, KINDS)))


def traces(figure: Figure) -> dict[str, Trace]:
    return {trace["name"]: trace for trace in figure["data"]}


def points(figure: Figure) -> dict[str, list[tuple[float, float | None]]]:
    return {name: list(zip(trace["x"], trace["y"], strict=True)) for name, trace in traces(figure).items()}


def test_values_are_drawn_with_their_errors_and_each_estimator_alone(drawn: dict[str, Figure]) -> None:
    curves = traces(drawn["value"])
    assert set(curves) == {
        "real", "real: dither", "real: source_value", "made", "made: dither", "made: source_value", "dither alone",
        "source_value alone",
    }  # fmt: skip
    assert points(drawn["value"])["made"] == [(20, -0.4), (30, -0.2)]
    assert curves["made"]["error_y"]["array"] == [0.1, 0.4]
    assert points(drawn["value"])["real: dither"] == [(20, 0.5), (30, None)]
    assert points(drawn["value"])["real: source_value"] == [(20, 0.3), (30, 0.2)]
    assert curves["real: dither"]["marker"]["symbol"] != curves["real: source_value"]["marker"]["symbol"]
    assert drawn["value"]["layout"]["yaxis"]["zeroline"] is True


def test_an_error_bar_far_beyond_all_others_does_not_flatten_the_values(tmp_path: Path) -> None:
    errors = [900.0] + [0.1] * 30
    decisions = [
        decision(10 * i, priced({"real": said(1.0, error, 0.5, 0.0)}, 0.0, budget(1.0, None)), {})
        for i, error in enumerate(errors)
    ]
    chart = decision_charts.value(read_history(written(tmp_path, decisions, KINDS)))
    assert chart is not None
    assert 1.0 < chart["layout"]["yaxis"]["range"][1] < 2.0


def test_evidence_on_a_source_is_its_value_with_the_pull_in_standard_errors(drawn: dict[str, Figure]) -> None:
    drawn_points = points(drawn["significance"])
    assert drawn_points["real"] == [(20, pytest.approx(0.45 / 0.1)), (30, pytest.approx(0.2 / 0.4))]
    assert drawn_points["made"] == drawn_points["real"]
    assert drawn_points["counts beyond 1.5"] == [(20, 1.5), (30, 1.5)]


def test_the_price_is_drawn_with_the_advantage_of_real_data(drawn: dict[str, Figure]) -> None:
    drawn_points = points(drawn["price"])
    assert drawn_points["price of a real token"] == [(10, 0.0), (20, 0.0), (30, 0.15)]
    assert drawn_points["advantage of real data"] == [(10, None), (20, 0.4), (30, 0.2)]


def test_a_price_out_of_reach_leaves_the_others_readable(decisions: list[Decision], tmp_path: Path) -> None:
    run = read_history(written(tmp_path, decisions, {"real": "real", "synthetic": "synthetic"}))
    chart = decision_charts.price(run)
    assert chart is not None
    assert max(traces(chart)["price of a real token"]["y"]) > 1e12
    source_value = [one for one in traces(chart)["advantage of real data"]["y"] if one is not None]
    assert max(source_value) < chart["layout"]["yaxis"]["range"][1] < 5 * max(source_value)


def test_planned_real_data_are_drawn_with_those_used(drawn: dict[str, Figure]) -> None:
    drawn_points = points(drawn["budget"])
    assert drawn_points["epochs used"] == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert drawn_points["epochs planned"] == [(10, 4.0), (20, 4.0), (30, 4.0)]
    assert drawn_points["share the budget allows"] == [(10, None), (20, 30.0), (30, 20.0)]
    assert drawn_points["share by value"] == [(10, None), (20, 60.0), (30, 70.0)]
    assert drawn_points["real share in force"] == [(10, 40.0), (20, 40.0), (30, 40.0)]
    below = {name for name, trace in traces(drawn["budget"]).items() if trace.get("yaxis") == "y2"}
    assert below == {"real share in force", "share the budget allows", "share by value"}


def test_a_run_without_a_budget_of_real_data_has_no_chart_of_it(tmp_path: Path) -> None:
    free = priced({}, 0.0, budget(1.0, None) | {"samples": None, "planned_epochs": None})
    run = read_history(written(tmp_path, [decision(10, free, {})], KINDS))
    assert set(figures(run)) == {"price"}


def test_the_guards_evidence_is_drawn_against_its_limits(drawn: dict[str, Figure]) -> None:
    drawn_points = points(drawn["harm"])
    assert drawn_points == {
        "all together": [(20, 0.25), (30, 30.0)],
        "mean of all documents": [(30, 0.5)],
        "progress against forecast": [(30, 90.0)],
        "warns at 10": [(20, 10.0), (30, 10.0)],
        "alarms at 3,000": [(20, 3000.0), (30, 3000.0)],
    }
    axis = drawn["harm"]["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert axis["range"][0] <= math.log10(0.25)
    assert axis["range"][1] > math.log10(3000)


def test_slices_are_drawn_against_their_bound_where_it_is_recorded(drawn: dict[str, Figure]) -> None:
    assert points(drawn["slice-harm"]) == {
        "law": [(20, 7.0)], "art": [(20, 0.02), (30, 0.1)], "one alone has risen at 200": [(30, 200.0)],
    }  # fmt: skip


def test_a_run_of_priced_under_a_guard_has_all_charts_of_its_grounds(decisions: list[Decision], tmp_path: Path) -> None:
    folder = written(tmp_path / "run", decisions, {"real": "real", "synthetic": "synthetic"})
    assert GROUNDS - {"slice-harm"} <= set(figures(read_history(folder)))  # this world has one slice
    write_report([folder], tmp_path / "report.html")


def test_of_feedback_the_advantage_is_drawn_and_how_far_it_lies_behind_the_margin(tell: Callable[..., Path]) -> None:
    drawn = figures(read_history(tell(steps=50)))
    assert set(drawn) & GROUNDS == {"value", "significance", "harm"}
    assert points(drawn["value"]) == {"spam": [(25, -0.95), (50, -0.95)]}
    behind = pytest.approx((0.95 - 0.25) / 0.14, rel=1e-5)
    assert points(drawn["significance"])["spam"] == [(25, behind), (50, behind)]
    assert "counts beyond 3" in traces(drawn["significance"])
    assert points(drawn["harm"])["warns at 10"] == [(25, 10.0), (50, 10.0)]


@pytest.mark.parametrize(
    ("policy", "evidence"),
    [
        ("priced", {}),
        ("priced", {"usable": False}),
        ("odm", {"policy": {"sources": {"a": {"weight": 0.5}}}, "guard": {}}),
        ("feedback", {"policy": {}, "guard": {}}),
    ],
)
def test_other_policies_and_unusable_evaluations_have_none_of_these_charts(
    tmp_path: Path, policy: str, evidence: dict[str, Any]
) -> None:
    unusable = Decision(
        from_step=11, action="keep", shares={"a": 1_000_000}, reason="none", policy=policy, evidence=evidence
    )
    assert figures(read_history(written(tmp_path, [unusable], {"a": "real"}))) == {}


def test_figures_that_are_no_numbers_leave_a_report(tmp_path: Path) -> None:
    nan, endless = float("nan"), float("inf")
    sources = {"real": said(nan, endless, 0.5, 0.0, dither=(nan, nan)), "made": said(nan, nan, 0.5, 0.0)}
    decisions = [decision(10, priced(sources, endless, budget(nan, nan)), judged(nan, slices={"art": nan}))]
    folder = written(tmp_path / "run", decisions, KINDS)
    assert set(figures(read_history(folder))) >= GROUNDS
    write_report([folder], tmp_path / "report.html")


def test_every_chart_has_a_caption_of_one_sentence(drawn: dict[str, Figure]) -> None:
    assert set(drawn) >= GROUNDS
    for name in drawn:
        caption = TITLES[name][1]
        assert caption.endswith(".")
        assert caption.count(". ") == 0
