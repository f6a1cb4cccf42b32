"""Handed cases, runs: no number of the recipe is changed in silence, and no decoration fails a run."""

import json
import math

import pytest

from tests.cases.commands import Case
from trainer.tracking.schema import RateLine, SampleLine, StepLine


@pytest.mark.kind("decoration that fails a run")
def test_a_sample_text_longer_than_the_context_does_not_fail_the_run(case: Case) -> None:
    case.take("20-sample-text-too-long").fit().told()
    assert (case.home / "run" / "report.html").exists()
    case.fit().told()


@pytest.mark.kind("decoration that fails a run")
@pytest.mark.parametrize(
    ("architecture", "config", "length"),
    [
        ("opt", "{hidden_size: 32, ffn_dim: 64, num_hidden_layers: 1, num_attention_heads: 2}", 16),
        ("gpt2", "{n_embd: 32, n_layer: 1, n_head: 2}", 2),
    ],
)
def test_sample_texts_are_written_within_any_length(case: Case, architecture: str, config: str, length: int) -> None:
    case.take("20-sample-text-too-long").edit("sequence_length: 32", f"sequence_length: {length}")
    case.edit("architecture: gpt_neo", f"architecture: {architecture}")
    case.edit("{hidden_size: 32, num_layers: 2, num_heads: 2, attention_types: [[[global, local], 1]]}", config)
    case.fit().told()
    assert sum(isinstance(line, SampleLine) for line in case.journal()) == 4


@pytest.mark.kind("decoration that fails a run")
def test_every_decoration_that_fails_is_a_warning_that_names_it_and_the_run_is_finished(case: Case) -> None:
    """Sample texts that the model cannot write, and two trackers without a place to write to."""
    case.take("16-begin-of-sequence")
    (case.folder / "model" / "generation_config.json").write_text('{"sequence_bias": [[[999999], 1.0]]}')
    run = case.home / "run"
    run.mkdir()
    for name in ("wandb", "tensorboard"):
        (run / name).write_text("in the way")
    trackers = "tracking.trackers=[{kind: wandb, mode: offline}, {kind: tensorboard}]"
    ended = case.fit("--set", trackers)
    ended.told()
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("warning: ")]
    for name in ("sample texts", "tracker wandb", "tracker tensorboard"):
        assert any(name in warning for warning in warnings), (name, ended.stderr)
    assert json.loads((run / "outcome.json").read_text())["state"] == "finished"
    assert (run / "model" / "model.safetensors").exists()


@pytest.mark.kind("small and fine shares")
@pytest.mark.parametrize("shares", [("0.9999999", "0.0000001"), ("0.9999965", "0.0000035")])
def test_a_share_that_is_no_whole_millionth_is_refused_with_what_can_be_kept(
    case: Case, shares: tuple[str, str]
) -> None:
    checked = case.take("21-small-share").edit("0.9996", shares[0]).edit("0.0004", shares[1]).check()
    checked.refused("whole millionths", "{real: 0.99999")


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
def test_a_learning_rate_that_jumps_at_a_longer_resume_is_told_and_journaled(case: Case) -> None:
    case.take("22-rate-jumps").fit().told()
    ended = case.fit("--set", "training.steps=40")
    ended.told("learning rate")
    lines = case.journal()
    rates = {line.step: line.learning_rate for line in lines if isinstance(line, StepLine)}
    place = next(place for place, line in enumerate(lines) if isinstance(line, StepLine) and line.step == 21)
    said = [line for line in lines[:place] if not isinstance(line, StepLine)]
    assert any("learning_rate" in json.dumps(line.to_line()) for line in said) == (rates[21] > 2 * rates[20])


@pytest.mark.kind("schedule after a longer resume")
@pytest.mark.parametrize("choice", ["hold", "rewarm"])
def test_a_rate_that_would_jump_is_held_or_rewarmed_where_that_is_asked_for(case: Case, choice: str) -> None:
    case.take("22-rate-jumps").fit("--set", "training.steps=10").told()
    longer = ("--set", "training.steps=20", "--set", f"training.rate_jump={choice}")
    case.fit(*longer, "--set", "checkpoint.every_steps=3").told(choice)
    rates = {line.step: line.learning_rate for line in case.journal() if isinstance(line, StepLine)}
    (jump,) = [line for line in case.journal() if isinstance(line, RateLine)]
    assert (jump.step, jump.learning_rate_before, jump.learning_rate) == (10, rates[10], rates[11])
    assert jump.learning_rate_by_schedule > 3 * rates[10]
    assert all(rates[step] <= rates[10] for step in range(11, 21)) == (choice == "hold")
    assert rates[11] < jump.learning_rate_by_schedule
    assert choice == "hold" or rates[12] == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * 11 / 20)))


@pytest.mark.kind("plain terminal")
def test_a_terminal_that_cannot_show_a_sign_does_not_fail_the_run(case: Case) -> None:
    case.take("23-plain-terminal").cold("fit", "--run", case.home / "run", PYTHONIOENCODING="ascii").told()
    assert (case.home / "run" / "report.html").exists()
