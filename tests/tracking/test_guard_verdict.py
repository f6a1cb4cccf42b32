"""The guard's silence is shown with its reason: all was well, or it could not see."""

from typing import Any

import pytest

from trainer.tracking.guard_verdict import guard_verdict
from trainer.tracking.schema import DecisionLine, StartLine

BLIND = "the guard will not judge held-out loss: 8 documents are evaluated, it needs 30"


def start(blind: str | None = None) -> StartLine:
    return StartLine(
        step=0, recipe_name="x", world_size=1, parameters=1, resumed_from=None, sources={}, validation_documents=8,
        environment={}, guard_blind=blind,
    )  # fmt: skip


def decision(step: int, action: Any = "keep", *, judged: bool, usable: bool = False) -> DecisionLine:
    guard = (
        {"evidence": 0.1, "nats_per_token": 4.0} if judged else {"num_evaluations": 3} if usable else {"usable": False}
    )
    return DecisionLine(
        step=step, policy="constant", from_step=step + 1, action=action, shares={}, reason="", evidence={"guard": guard}
    )


@pytest.mark.parametrize(
    ("lines", "short", "words", "could_see"),
    [
        ([start(BLIND), decision(1, judged=False)], "could not see", "8 documents are evaluated", False),
        ([start("control.guard.enabled is false")], "could not see", "control.guard.enabled is false", False),
        ([start(), decision(1, judged=False)], "could not see", "no evaluation could be judged yet", False),
        (
            [start(), decision(1, judged=False), decision(2, judged=True)],
            "silent, all well",
            "1 of 2 evaluations",
            True,
        ),
        ([start(), decision(1, "cut", judged=True)], "acted", "1 cut", True),
        ([start(), decision(1, "move", judged=True)], "silent, all well", "1 of 1", True),
        ([], "could not see", "no evaluation", False),
    ],
)
def test_the_verdict_tells_silence_from_blindness(lines: list[Any], short: str, words: str, could_see: bool) -> None:
    verdict = guard_verdict(lines)
    assert (verdict.short, verdict.could_see) == (short, could_see)
    assert words in verdict.text


@pytest.mark.parametrize(
    ("early", "unusable", "judged", "reasons"),
    [
        (10, 0, 1, "at 10 it had too few before them to judge by"),
        (0, 3, 2, "3 could not be judged, as of losses that are not finite"),
        (
            4,
            2,
            3,
            "at 4 it had too few before them to judge by; 2 could not be judged, as of losses that are not finite",
        ),
    ],
)
def test_silence_at_fewer_than_half_of_the_evaluations_is_not_called_all_well(
    early: int, unusable: int, judged: int, reasons: str
) -> None:
    kinds = [(False, True)] * early + [(False, False)] * unusable + [(True, True)] * judged
    decisions = [decision(step, judged=is_judged, usable=usable) for step, (is_judged, usable) in enumerate(kinds, 1)]
    verdict = guard_verdict([start(), *decisions])
    assert verdict.short == f"silent, judged only {judged} of {len(kinds)}"
    assert verdict.text == (
        f"the guard was silent, which says little: it judged only {judged} of {len(kinds)} evaluations ({reasons})"
    )
