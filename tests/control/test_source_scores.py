import json

from trainer.control.policies import FeedbackConfig, feedback
from trainer.control.source_scores import MEMORY_EVALUATIONS, MeasuredValues, with_source_values

SHARES = {"real": 400_000, "good": 300_000, "bad": 300_000}
VALUES = {"real": 0.9, "good": 0.3, "bad": -1.7}


def test_measured_values_survive_json_exactly(observe):
    (measured,) = with_source_values((), observe(100, SHARES, source_value=VALUES))
    assert measured.sources["bad"].value == -1.7
    assert MeasuredValues.from_json(json.loads(json.dumps(measured.to_json()))) == measured


def test_the_state_of_feedback_survives_json_exactly(observe):
    kinds = {"real": "real", "good": "synthetic", "bad": "synthetic"}
    config = FeedbackConfig(kind="feedback")
    state = feedback.begin(config, SHARES, kinds)
    state, _ = feedback.propose(config, state, observe(100, SHARES, kinds=kinds, source_value=VALUES))
    assert len(state.evaluations) == 1
    assert feedback.FeedbackState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_single_source_value_is_not_kept_and_the_oldest_are_forgotten(observe):
    assert with_source_values((), observe(100, SHARES, source_value={"bad": 0.5})) == ()
    past = ()
    for step in range(MEMORY_EVALUATIONS + 3):
        past = with_source_values(past, observe(step, SHARES, source_value=VALUES))
    assert [measured.step for measured in past] == list(range(3, MEMORY_EVALUATIONS + 3))
