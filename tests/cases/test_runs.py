"""Handed cases, runs: no number of the recipe is changed in silence, and no decoration fails a run."""

import json

import pytest

from tests.cases.commands import Case
from trainer.tracking.schema import StepLine


@pytest.mark.kind("decoration that fails a run")
@pytest.mark.xfail(strict=True, reason="the sample text runs past the last learned position")
def test_a_sample_text_longer_than_the_context_does_not_fail_the_run(case: Case) -> None:
    case.take("20-sample-text-too-long").fit().told()
    assert (case.home / "run" / "report.html").exists()
    case.fit().told()


@pytest.mark.kind("small and fine shares")
def test_a_share_of_four_in_ten_thousand_is_kept_to_the_sample_or_refused(case: Case) -> None:
    checked = case.take("21-small-share").check()
    if not checked.succeeded():
        checked.refused("0.0004")
        return
    planned = case.plan("--json")
    planned.told()
    samples = {source["name"]: source["samples"] for source in json.loads(planned.stdout)["sources"]}
    assert samples == {"real": 79_968, "syn": 32}


@pytest.mark.kind("schedule after a longer resume")
@pytest.mark.xfail(strict=True, reason="not a word in terminal or journal")
def test_a_learning_rate_that_jumps_at_a_longer_resume_is_told_and_journaled(case: Case) -> None:
    case.take("22-rate-jumps").fit().told()
    ended = case.fit("--set", "training.steps=40")
    ended.told("learning rate")
    lines = case.journal()
    rates = {line.step: line.learning_rate for line in lines if isinstance(line, StepLine)}
    place = next(place for place, line in enumerate(lines) if isinstance(line, StepLine) and line.step == 21)
    said = [line for line in lines[:place] if not isinstance(line, StepLine)]
    assert any("learning_rate" in json.dumps(line.to_line()) for line in said) == (rates[21] > 2 * rates[20])


@pytest.mark.kind("plain terminal")
def test_a_terminal_that_cannot_show_a_sign_does_not_fail_the_run(case: Case) -> None:
    case.take("23-plain-terminal").cold("fit", "--run", case.home / "run", PYTHONIOENCODING="ascii").told()
    assert (case.home / "run" / "report.html").exists()
