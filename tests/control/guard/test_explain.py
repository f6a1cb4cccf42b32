"""The guard's evidence is explained in words with figures: how much there is against its limits, and from where."""

from typing import Any

import pytest

from trainer.base.records import Decision
from trainer.control.guard.explain import explain

LIMITS = {"nats_per_token": 4.0, "num_evaluations": 20, "warn_at": 10, "alarm_at": 3000}


def statistic(evidence: float, z: float) -> dict[str, float]:
    return {"value": 4.1, "expected": 4.05, "jitter_sd": 0.012, "correlation": 0.4, "z": z, "evidence": evidence}


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"usable": False}, "it could not judge the evaluation."),
        (LIMITS | {"num_evaluations": 1}, "one evaluation is too little to judge by."),
        (LIMITS | {"num_evaluations": 3}, "3 evaluations are too few to judge by."),
        (
            LIMITS | {"evidence": 0.5},
            "nothing to object to: there is 5 % of the evidence of harm that a warning takes.",
        ),
        (
            LIMITS | {"evidence": 300.0},
            "not certain: there is more evidence of harm than a warning takes, 10 % of an alarm's",
        ),
        (LIMITS | {"evidence": 3000.0}, "an alarm: there is more evidence of harm than an alarm takes."),
        (LIMITS | {"evidence": 1.0, "risen_slices": ["law"]}, "an alarm: the loss of law has risen."),
    ],
)
def test_the_verdict_is_the_evidence_against_its_limits(figures: dict[str, Any], verdict: str) -> None:
    assert explain(figures)[0].startswith(f"Guard: {verdict}")


def test_statistics_slices_and_what_was_not_judged_are_explained() -> None:
    figures = LIMITS | {
        "last_healthy_step": 100, "expected_nats_per_token": 3.95, "jitter_sd": 0.012, "z": 1.5, "evidence": 12.0,
        "strongest": "tail", "statistics": {"mean": statistic(2.0, 0.5), "tail": statistic(40.0, 2.25)},
        "slices": {"art": 0.02, "law": 7.0, "food": 0.001}, "slice_alarm_at": 300.0, "alarm_count": 2,
        "not_judged": {"gap": "no loss on synthetic text was measured"},
    }  # fmt: skip
    assert explain(figures)[1:] == [
        "  Held-out loss 4, expected 3.95 nats per token, checkpoint jitter 0.012, z 1.50; evidence of harm"
        " 12 (warns at 10, alarms at 3,000), most of it from the tail loss (worst 10 %).",
        "  statistic               now  expected  jitter  z     evidence",
        "  tail loss (worst 10 %)  4.1  4.05      0.012   2.25  40",
        "  mean of all documents   4.1  4.05      0.012   0.50  2",
        "  Slices, 3 judged, evidence of a rise: law 7, art 0.02; an alarm takes 300 of one.",
        "  Not judged: gap to synthetic loss (no loss on synthetic text was measured).",
        "  alarm count: 2",
    ]


def test_of_a_guard_that_ran_all_evidence_is_explained_once(decisions: list[Decision]) -> None:
    figures = decisions[-1].evidence["guard"]
    text = "\n".join(explain(figures))
    assert text.count("progress against forecast") == 2  # in the line and in the table
    assert "Not judged: gap to synthetic loss" in text
    assert "statistics" not in text
    assert all(f"{name}:" not in text for name in figures)
