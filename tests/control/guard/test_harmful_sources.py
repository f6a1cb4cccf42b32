"""A source that measurements show to be harmful is cut before held-out loss shows it."""

from dataclasses import replace

import numpy as np
import pytest

from trainer.base.records import SourceValue
from trainer.control.guard import attribution
from trainer.control.guard.config import GuardConfig
from trainer.control.guard.guard import judge
from trainer.control.guard.state import AttributionState, GuardState

CONFIG = GuardConfig()
SHARES = {"real": 400_000, "written": 300_000, "bad": 300_000}


def cuts(observe, source_values, shares=SHARES, config=CONFIG):
    """Verdicts that cut a source by evaluation number, while held-out loss is healthy."""
    state, verdicts = GuardState(), {}
    for number, source_value in enumerate(source_values):
        state, verdict = judge(
            config, state, observe(10 * (number + 1), shares, source_value=source_value, steps=100_000)
        )
        if verdict.action == "cut":
            verdicts[number] = verdict
    return verdicts


GOOD, BAD = {"real": 0.9, "written": 0.4, "bad": 0.4}, {"real": 0.9, "written": 0.4, "bad": -2.0}


def test_a_source_that_two_consecutive_measurements_show_to_be_harmful_is_cut_before_held_out_loss_shows_it(observe):
    verdicts = cuts(observe, [GOOD, {}, GOOD, {}, BAD, {}, BAD])
    assert list(verdicts) == [6]
    assert verdicts[6].source == "bad"
    assert "bad is harmful: a token of it was worth -2.00 ± 0.08 and -2.00 ± 0.08 fresh real ones" in verdicts[6].reason


@pytest.mark.parametrize(
    "source_values",
    [
        [BAD, GOOD, BAD, GOOD],  # not in two consecutive measurements
        [{**GOOD, "real": -2.0}] * 4,  # real data are never cut
        [dict.fromkeys(GOOD, -2.0)] * 4,  # none is better
        [{**GOOD, "bad": -0.6}] * 4,  # below the bound, but within three errors of it
        [BAD, {**GOOD, "bad": -0.4}] * 2,  # the mean is far below, but not each of them
        [{**GOOD, "bad": SourceValue(value=-2.0, standard_error=0.8, num_samples=9)}] * 4,
    ],
)
def test_without_sure_harm_nothing_is_cut_before_an_alarm(observe, source_values):
    assert cuts(observe, source_values) == {}
    assert cuts(observe, [BAD] * 4, config=GuardConfig(cut=False)) == {}


def test_useless_sources_are_not_taken_for_harmful_ones_by_chance(observe):
    rng, error, runs = np.random.default_rng(11), 0.2, 300
    shares = {"real": 500_000, "dull": 500_000}
    cut_runs = 0
    for _ in range(runs):
        state = AttributionState()
        for number in range(20):
            source_value = {
                name: SourceValue(value=rng.normal(mean, error), standard_error=error, num_samples=9)
                for name, mean in (("real", 0.2), ("dull", 0.0))
            }
            observation = observe(number, shares, source_value=source_value)
            state = attribution.record(state, observation)
            cut_runs += (
                attribution.harmful_source(
                    state, observation, z=CONFIG.advanced.attribution_z, value_below=CONFIG.advanced.cut_below
                )
                is not None
            )
    assert cut_runs == 0


def test_source_values_show_harm_even_where_too_few_documents_are_evaluated(observe):
    config = GuardConfig(min_documents=100)
    assert list(cuts(observe, [GOOD, BAD, BAD], config=config)) == [2]
    doubtful = {**BAD, "bad": SourceValue(value=-1.8, standard_error=0.5, num_samples=9)}
    assert list(cuts(observe, [doubtful, BAD])) == [1]  # together they show what the first alone does not


def test_harm_of_a_retired_segment_does_not_count_against_the_next(observe):
    state, acts = GuardState(), []
    for number, source_value in enumerate([GOOD, BAD, BAD, BAD]):
        observation = observe(10 * (number + 1), SHARES, source_value=source_value, steps=100_000)
        state, verdict = judge(CONFIG, state, replace(observation, live={"bad": (0,) if number < 2 else (1,)}))
        acts.append(verdict.action)
    assert acts == ["ok", "ok", "ok", "cut"]
