"""The explanation says, in words with figures, why the share was what it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.journals import step_line
from trainer.base.errors import UserError
from trainer.mixture.ledger import Shares, from_record
from trainer.report.explain import explain
from trainer.tracking.journal import read
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import CapLine, DecisionLine, DeficitLine, RollbackLine, read_journal

HALF = {"a": 500_000, "b": 500_000}
LEFT = {"a": 750_000, "b": 250_000}
STEPS: list[JournalLine] = [step_line(step, shares=HALF, counts={"a": 2, "b": 2}) for step in range(1, 31)]


def explained(folder: Path, step: int) -> str:
    return explain(read_journal(folder / "journal.jsonl"), map(from_record, read(folder / "ledger.jsonl")), step)


def test_what_sources_lost_without_being_asked_is_told_and_what_is_less_than_a_hundredth_is_not(
    tell: Callable[..., Path],
) -> None:
    folder = tell()
    assert "Left out of the data" not in explained(folder, 150)
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"contaminated":7', '"contaminated":77', 1))
    text = explained(folder, 150)
    assert "Left out of the data: 77 of 977 documents of 'written' (7.9%) are copies of held-out documents" in text


def shares_fact(step: int, shares: dict[str, int], reason: str = "because") -> Shares:
    return Shares(step=step, shares=shares, reason=reason)


def test_a_step_under_a_decision_names_its_figures(tell: Callable[..., Path]) -> None:
    text = explained(tell(), 150)
    for words in (
        "Step 150: wikipedia 25 %, written 37.5 %, invented 25 %, spam 12.5 % (synthetic 75 %)",
        "Drawn in this step: 8 wikipedia, 12 written, 8 invented, 4 spam",
        "In force since step 101",
        "Decided after step 100, at 25 % of the run: move",
        "Why: spam is worth -0.61 ± 0.12, 5.1 standard errors below 0: halved.",
        "Changed: written 25 % -> 37.5 %, spam 25 % -> 12.5 %",
        "± 0.021 nats per token on 256 real documents",
        "against step 75",
        "standard errors below 0",
        "spam    -0.61 ± 0.12  -              -0.95 ± 0.14  4",
        "A source loses share where its advantage is below -0.25 by 3 standard errors or more.",
        "Guard: nothing to object to: there is 2 % of the evidence of harm that a warning takes.",
        "checkpoint jitter 0.012, z -1.70; evidence of harm 0.2 (warns at 10, alarms at 2,000)",
        "Without this decision the shares would have stayed at wikipedia 25 %",
        "The evaluation since then left the shares as they were; the last came after step",
        "Next change: from step 201, written 37.5 % -> 50 %, spam 12.5 % -> 0 %",
    ):
        assert words in text


def test_the_batch_after_a_decision_is_the_first_it_governs(tell: Callable[..., Path]) -> None:
    folder = tell()
    assert "In force since step 0" in explained(folder, 100)
    assert "In force since step 101" in explained(folder, 101)


def test_before_any_decision_the_recipes_shares_are_in_force(tell: Callable[..., Path]) -> None:
    text = explained(tell(), 1)
    assert "the shares the run began with (recipe); nothing had been decided yet" in text
    assert "Measured" not in text


def test_a_guards_cut_is_distinguished_from_what_the_policy_proposed() -> None:
    evidence = {"policy": {"proposed": LEFT}, "guard": {"z": 6.2}, "shares_before": HALF}
    cut = {"a": 1_000_000, "b": 0}
    decision = DecisionLine(
        step=10,
        policy="package:Unknown",
        from_step=11,
        action="cut",
        shares=cut,
        reason="b does harm",
        evidence=evidence,
    )
    journal = [*STEPS, decision]
    ledger = [shares_fact(0, HALF), shares_fact(11, {"a": 1_000_000, "b": 0})]
    text = explain(journal, ledger, 12)
    assert "Without the guard the policy's proposal would have come into force: a 75 %, b 25 %." in text
    assert "z: 6.2" in text


def test_a_cap_is_not_called_a_decision() -> None:
    journal = [*STEPS, CapLine(step=10, source="b", epochs=4.0, shares=LEFT)]
    text = explain(journal, [shares_fact(0, HALF), shares_fact(11, LEFT)], 20)
    assert "source b reached the cap of its epochs after 4 epochs" in text
    assert "Decided" not in text


def test_a_change_missing_in_the_journal_is_shown_from_the_ledger() -> None:
    text = explain(STEPS, [shares_fact(0, HALF), shares_fact(11, LEFT, "replayed")], 20)
    assert "Changed: a 50 % -> 75 %, b 50 % -> 25 %.\nReason in the ledger: replayed." in text


def test_rollbacks_and_clipped_deficits_are_named() -> None:
    deficit = DeficitLine(step=11, source="b", before_millionths=1_400_000, after_millionths=1_000_000)
    back = RollbackLine(step=15, to_step=8, reason="loss rose")
    text = explain([*STEPS, deficit, back], [shares_fact(0, HALF)], 20)
    assert "After step 11: the deficit of b was clipped from 1.400 to 1.000 samples." in text
    assert "After step 15: rolled back to step 8: loss rose." in text
    assert "rolled back" not in explain([*STEPS, deficit, back], [shares_fact(0, HALF)], 14)


@pytest.mark.parametrize(("step", "message"), [(-1, "no shares were in force"), (31, "Its last step is 30")])
def test_a_step_outside_the_run_is_a_users_mistake(step: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        explain(STEPS, [shares_fact(0, HALF)], step)


def test_without_a_step_the_last_one_is_explained() -> None:
    ledger = [shares_fact(0, HALF), shares_fact(11, LEFT)]
    assert explain(STEPS, ledger) == explain(STEPS, ledger, 30) != explain(STEPS, ledger, 10)


def test_evaluations_that_changed_nothing_are_explained_by_the_last_that_had_figures() -> None:
    figures, nothing = ({"policy": {"z": 1.25}}, {"policy": {}})
    decisions = [
        DecisionLine(
            step=step, policy="package:Unknown", from_step=step + 1, action="keep", shares=HALF, reason=reason,
            evidence=evidence,
        )
        for step, reason, evidence in ((10, "all alike", figures), (15, "none was measured", nothing))
    ]  # fmt: skip
    text = explain([*STEPS, *decisions], [shares_fact(0, HALF)], 20)
    assert "The 2 evaluations since then left the shares as they were; the last came after step 15 (keep): none" in text
    assert "The last with figures came after step 10 (keep): all alike." in text
    assert "z: 1.25" in text
    assert "all alike" not in explain([*STEPS, *decisions], [shares_fact(0, HALF)], 10)
