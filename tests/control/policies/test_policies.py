import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, SHARE_STEP, SourceValue
from trainer.control.policies import (
    POLICIES,
    ConstantConfig,
    FeedbackConfig,
    NoState,
    PolicyConfig,
    ScheduleConfig,
    constant,
    feedback,
)
from trainer.control.policies import schedule as schedule_policy

KINDS = {"real": "real", "written": "synthetic", "invented": "synthetic", "bad": "synthetic"}
EQUAL = dict.fromkeys(KINDS, 250_000)
FEEDBACK = FeedbackConfig(kind="feedback")


def follow(observe, config, source_values, shares=EQUAL, kinds=KINDS):
    """Shares after each of ``source_values``, read every 20 of 400 steps from step 120 on."""
    policy = POLICIES.resolve(config.kind)
    state, proposals = policy.begin(config, shares, kinds), []
    for number, source_value in enumerate(source_values):
        observation = observe(120 + 20 * number, shares, kinds=kinds, source_value=source_value)
        state, proposal = policy.propose(config, state, observation)
        shares = dict(proposal.shares)
        proposals.append(proposal)
    return proposals


def test_the_union_knows_each_policy_by_its_kind():
    adapter = TypeAdapter(PolicyConfig)
    point = {"at": 1.0, "shares": {"a": 1.0}}
    for tree in ({"kind": "constant"}, {"kind": "feedback"}, {"kind": "schedule", "points": [point]}):
        assert adapter.validate_python(tree).kind in POLICIES.builtin
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python({"kind": "feedbck"})


def test_constant_keeps_even_shares_off_the_grid_of_thousandths(observe):
    shares = {"real": 333_333, "written": 666_667}
    proposal = constant.propose(ConstantConfig(), NoState(), observe(10, shares))[1]
    assert proposal.shares == shares


# schedule


def schedule(*points):
    return ScheduleConfig(
        kind="schedule", points=tuple({"at": at, "shares": {"real": r, "s": 1 - r}} for at, r in points)
    )


@pytest.mark.parametrize(("step", "real"), [(0, 0.2), (100, 0.3), (200, 0.4), (250, 0.6), (300, 0.8), (400, 0.8)])
def test_a_schedule_is_linear_between_its_points_and_level_after_the_last(observe, step, real):
    config, shares = schedule((0.5, 0.4), (0.75, 0.8)), {"real": 200_000, "s": 800_000}
    state = schedule_policy.begin(config, shares, {"real": "real", "s": "synthetic"})
    _, proposal = schedule_policy.propose(config, state, observe(step, shares))
    assert proposal.shares["real"] == round(real * SHARE_ONE)
    assert sum(proposal.shares.values()) == SHARE_ONE


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([{"at": 0.5, "shares": {"real": 0.5, "s": 0.6}}], "must sum to 1"),
        ([{"at": 0.5, "shares": {"real": 1.0}}, {"at": 0.5, "shares": {"real": 1.0}}], "rising order"),
        ([{"at": 1.5, "shares": {"real": 1.0}}], "less than or equal to 1"),
        ([], "at least 1 item"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(points, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(kind="schedule", points=points)


def test_a_schedule_must_name_the_sources_and_start_where_the_mixture_starts():
    begin, kinds = schedule_policy.begin, {"real": "real", "s": "synthetic"}
    with pytest.raises(UserError, match=r"unknown source.*'s'"):
        begin(schedule((0.5, 0.4)), {"real": 500_000, "synth": 500_000}, kinds)
    with pytest.raises(UserError, match="has no share for source 'third'"):
        begin(schedule((0.5, 0.4)), {"real": 500_000, "s": 250_000, "third": 250_000}, kinds)
    with pytest.raises(UserError, match=r"differs from mixture\.shares"):
        begin(schedule((0.0, 0.4)), {"real": 500_000, "s": 500_000}, kinds)


# feedback

GOOD = {"real": 0.8, "written": 0.9, "invented": 0.75, "bad": 0.8}
BAD = {"real": 0.8, "written": 0.9, "invented": 0.75, "bad": -0.1}


def test_one_clear_measurement_decides_immediately(observe):
    (first,) = follow(observe, FEEDBACK, [BAD])
    assert first.shares["bad"] == 10_000
    assert "bad from 0.250 to 0.010" in first.reason
    assert first.evidence["sources"]["bad"]["advantage"] < -FEEDBACK.margin


@pytest.mark.parametrize(("bad", "share"), [(0.5, 250_000), (0.34, 125_000), (0.2, 10_000)])
def test_the_further_behind_the_more_is_lost(observe, bad, share):
    """Error of a gap 0.109: of one worth 0.094, of the mean of three others 0.054. 0.43 behind loses half of its
    share, 0.53 nearly all."""
    (first,) = follow(observe, FEEDBACK, [{**dict.fromkeys(KINDS, 0.8), "bad": bad}])
    assert first.shares["bad"] == share


def test_the_same_advantage_with_a_larger_error_decides_nothing(observe):
    doubtful = {name: SourceValue(value=value, standard_error=0.3, num_samples=56) for name, value in BAD.items()}
    assert follow(observe, FEEDBACK, [doubtful])[0].shares == EQUAL


def test_a_source_is_held_against_those_worth_more_and_not_excused_by_one_that_is_worse(observe):
    source_value = {"real": 1.0, "written": 1.0, "invented": -9.0, "bad": 0.3}
    first = follow(observe, FEEDBACK, [source_value])[0]
    assert first.evidence["sources"]["bad"]["reference"] == pytest.approx(1.0)
    assert first.shares["bad"] < EQUAL["bad"]


def test_an_evaluation_without_a_measurement_decides_nothing(observe):
    """The evidence of before has been spent: noise in it must not cut twice."""
    config = FeedbackConfig(kind="feedback", strong_decrease=0.5)
    once, none, again = follow(observe, config, [BAD, {}, BAD])
    assert once.shares["bad"] == none.shares["bad"] == 125_000
    assert "No source value was measured" in none.reason
    assert again.shares["bad"] < 70_000


def test_by_default_a_measurement_is_judged_by_itself(observe):
    late = follow(observe, FEEDBACK, [GOOD, GOOD, BAD])[-1]
    assert late.shares == follow(observe, FEEDBACK, [BAD])[0].shares
    pooled = FeedbackConfig(kind="feedback", decay=1.0)
    assert follow(observe, pooled, [GOOD, GOOD, BAD])[-1].shares["bad"] > late.shares["bad"]


def test_fewer_evaluations_than_required_decide_nothing(observe):
    config = FeedbackConfig(kind="feedback", min_evaluations=2)
    first, second = follow(observe, config, [BAD] * 2)
    assert first.shares == EQUAL
    assert second.shares["bad"] < EQUAL["bad"]


def test_source_values_before_the_warm_up_are_not_counted(observe):
    begin, propose = feedback.begin, feedback.propose
    state = begin(FEEDBACK, EQUAL, KINDS)
    for step in (20, 40, 59):
        state, proposal = propose(FEEDBACK, state, observe(step, EQUAL, source_value=BAD))
        assert proposal.shares == EQUAL
    assert state.evaluations == ()
    assert propose(FEEDBACK, state, observe(60, EQUAL, source_value=BAD))[1].shares != EQUAL


def test_equal_source_values_move_nothing(observe):
    assert all(proposal.shares == EQUAL for proposal in follow(observe, FEEDBACK, [GOOD] * 10))


def test_a_bad_source_reaches_its_floor_and_no_less(observe):
    proposals = follow(observe, FEEDBACK, [BAD] * 10)
    assert proposals[-1].shares["bad"] == 10_000
    assert [p.shares["bad"] for p in proposals] == sorted((p.shares["bad"] for p in proposals), reverse=True)
    assert "already at the floor" in proposals[-1].reason


def test_what_is_freed_goes_to_those_worth_more(observe):
    """Those 0.35 behind keep their share (losing it takes 0.5), but too far behind to gain (0.27)."""
    source_value = {"real": 0.75, "written": 1.1, "invented": 0.75, "bad": -0.2}
    (first,) = follow(observe, FEEDBACK, [source_value])
    assert first.shares["written"] == EQUAL["written"] + 240_000
    assert first.shares["real"] == first.shares["invented"] == EQUAL["real"]


def test_the_real_floor_holds_when_real_is_worth_nothing(observe):
    source_value = {"real": -0.5, "written": 0.9, "invented": 0.9, "bad": 0.9}
    assert follow(observe, FEEDBACK, [source_value] * 10)[-1].shares["real"] == 100_000


def test_floors_and_ceilings_by_name_bind(observe):
    config = FeedbackConfig(kind="feedback", floors={"bad": 0.05}, ceilings={"written": 0.3})
    shares = follow(observe, config, [{**BAD, "written": 1.5}] * 10)[-1].shares
    assert shares["bad"] == 50_000
    assert shares["written"] == 300_000


def test_one_decision_moves_no_more_than_allowed(observe):
    config = FeedbackConfig(kind="feedback", max_move=0.05)
    source_value = {"real": 0.9, "written": 0.9, "invented": -0.3, "bad": -0.3}
    before = EQUAL
    for proposal in follow(observe, config, [source_value] * 8):
        moved = sum(max(0, before[name] - share) for name, share in proposal.shares.items())
        assert moved <= 50_000 + 2 * SHARE_STEP
        before = proposal.shares


def test_loss_is_not_looked_at(observe):
    """A template has a low loss and hard text a high one: the loss on the sources does not count as evidence."""
    begin, propose = feedback.begin, feedback.propose
    outcomes = []
    for loss in (-2.0, 2.0):
        state, shares = begin(FEEDBACK, EQUAL, KINDS), EQUAL
        for step in (120, 140, 160, 180):
            state, proposal = propose(FEEDBACK, state, observe(step, shares, source_value=BAD, loss=loss))
            shares = proposal.shares
        outcomes.append(shares)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "broken",
    [
        SourceValue(value=float("nan"), standard_error=0.1, num_samples=9),
        SourceValue(value=-9.0, standard_error=float("inf"), num_samples=9),
        SourceValue(value=-9.0, standard_error=0.0, num_samples=0),
    ],
)
def test_a_broken_measurement_does_not_count(observe, broken):
    assert all(p.shares == EQUAL for p in follow(observe, FEEDBACK, [{**GOOD, "bad": broken}] * 8))
    proposals = follow(observe, FEEDBACK, [{**GOOD, "bad": broken, "invented": -0.3}] * 8)
    assert proposals[-1].shares["invented"] == 10_000  # and does not keep the rest from being judged


def test_a_source_at_zero_stays_at_zero(observe):
    shares = {"real": 500_000, "written": 0, "invented": 250_000, "bad": 250_000}
    proposals = follow(observe, FEEDBACK, [{**BAD, "written": 2.0}] * 8, shares=shares)
    assert all(proposal.shares["written"] == 0 for proposal in proposals)
    assert proposals[-1].shares["bad"] == 10_000


values = st.floats(-1.0, 1.5)
histories = st.lists(st.tuples(values, values, values, values), min_size=3, max_size=10)


@settings(max_examples=60)
@given(histories)
def test_shares_always_sum_to_one_within_floors(observe, history):
    for proposal in follow(observe, FEEDBACK, [dict(zip(KINDS, row, strict=True)) for row in history]):
        assert sum(proposal.shares.values()) == SHARE_ONE
        assert all(share % SHARE_STEP == 0 for share in proposal.shares.values())
        assert all(share >= (100_000 if name == "real" else 10_000) for name, share in proposal.shares.items())
        json.dumps(proposal.evidence, allow_nan=False)


@settings(max_examples=60)
@given(histories, st.permutations(["written", "invented", "bad"]))
def test_names_swapped_decisions_swapped(observe, history, order):
    """The data keep their place in the recipe and change their names: the shares go with the data."""
    renamed = dict(zip(["written", "invented", "bad"], order, strict=True)) | {"real": "real"}
    plain = follow(observe, FEEDBACK, [dict(zip(KINDS, row, strict=True)) for row in history])
    source_values = [{renamed[name]: value for name, value in zip(KINDS, row, strict=True)} for row in history]
    for kinds in ({renamed[name]: kind for name, kind in KINDS.items()}, KINDS):
        swapped = follow(observe, FEEDBACK, source_values, shares=dict.fromkeys(kinds, 250_000), kinds=kinds)
        for before, after in zip(plain, swapped, strict=True):
            apart = [abs(after.shares[renamed[name]] - share) for name, share in before.shares.items()]
            assert max(apart) <= (0 if list(kinds) == [renamed[name] for name in KINDS] else SHARE_STEP)
            if any(apart):  # a tie in the rounding goes by place: what follows starts from other shares
                break


@settings(max_examples=60)
@given(histories, st.floats(0.0, 2.0))
def test_the_source_of_least_value_gets_no_more_when_its_value_is_less_still(observe, history, less):
    row = dict(zip(KINDS, history[0], strict=True))
    row["bad"] = min(row.values())
    (better,) = follow(observe, FEEDBACK, [row])
    (worse,) = follow(observe, FEEDBACK, [{**row, "bad": row["bad"] - less}])
    assert worse.shares["bad"] <= better.shares["bad"] + SHARE_STEP


@pytest.mark.parametrize("field", ["floors", "ceilings"])
def test_bounds_on_an_unknown_source_are_refused_with_the_nearest_name(field):
    config = FeedbackConfig(kind="feedback", **{field: {"writen": 0.5}})
    with pytest.raises(UserError, match=r"unknown source.*writen.*Did you mean 'written'"):
        feedback.begin(config, EQUAL, KINDS)


def test_a_start_outside_the_given_bounds_is_refused():
    with pytest.raises(UserError, match="starts source 'bad' outside its floor and ceiling"):
        feedback.begin(FeedbackConfig(kind="feedback", floors={"bad": 0.3}), EQUAL, KINDS)


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="lies above its ceiling"):
        FeedbackConfig(kind="feedback", floors={"a": 0.5}, ceilings={"a": 0.2})
    with pytest.raises(ValidationError, match="must not be above decrease"):
        FeedbackConfig(kind="feedback", decrease=0.2, strong_decrease=0.5)


# feedback on noise of the size that the quickstart shows: three measurements, whose errors grow as steps get smaller

MEASURED_AT = (80, 160, 240)  # of 400 steps
ERRORS = (0.1, 0.25, 0.4)
QUICKSTART = {  # least and greatest worth at each, of two seeds and of a run with a good and the bad source swapped
    "real": [(1.0, 1.2), (0.5, 1.1), (0.9, 1.0)],
    "written": [(0.7, 0.97), (0.3, 0.8), (0.5, 0.6)],
    "invented": [(-2.7, -0.6), (-7.0, -5.1), (-8.6, -7.5)],
    "bad": [(0.3, 0.5), (-4.2, -2.2), (-4.7, -2.4)],
}


def simulated(observe, truth, rng, shares, kinds):
    """The shares after each measurement of one run. ``truth``: source to ranges, through which all sources of a run
    move together (good runs are good for all)."""
    begin, propose = feedback.begin, feedback.propose
    state, rows = begin(FEEDBACK, shares, kinds), []
    for number, (step, error) in enumerate(zip(MEASURED_AT, ERRORS, strict=True)):
        place = rng.uniform()
        source_value = {
            name: SourceValue(
                value=float(low + place * (high - low) + rng.normal(0, error)), standard_error=error, num_samples=56
            )
            for name, ranges in truth.items()
            for low, high in [ranges[number]]
        }
        state, proposal = propose(FEEDBACK, state, observe(step, shares, kinds=kinds, source_value=source_value))
        shares = dict(proposal.shares)
        rows.append(shares)
    return rows


@pytest.fixture(scope="module")
def quickstarts(observe):
    rng = np.random.default_rng(11)
    return [simulated(observe, QUICKSTART, rng, EQUAL, KINDS) for _ in range(200)]


def test_the_bad_sources_of_the_quickstart_fall_to_their_floor(quickstarts):
    for name in ("bad", "invented"):
        assert np.mean([run[-1][name] == 10_000 for run in quickstarts]) >= 0.95
    assert np.mean([run[0]["invented"] == 10_000 for run in quickstarts]) >= 0.95  # at the first measurement


def test_the_good_sources_of_the_quickstart_keep_theirs(quickstarts):
    assert min(shares["real"] for run in quickstarts for shares in run) >= EQUAL["real"]
    assert np.mean([min(shares["written"] for shares in run) >= EQUAL["written"] for run in quickstarts]) >= 0.95
    assert np.mean([min(shares["written"] for shares in run) >= EQUAL["written"] // 2 for run in quickstarts]) >= 0.99


def test_no_share_of_the_quickstart_flaps(quickstarts):
    for name in KINDS:
        paths = [[EQUAL[name], *(shares[name] for shares in run)] for run in quickstarts]
        moves = [[np.sign(b - a) for a, b in pairwise(path) if abs(b - a) > SHARE_STEP] for path in paths]
        assert np.mean([len(set(signs)) <= 1 for signs in moves]) >= 0.95, name


@pytest.mark.parametrize("level", [0.9, 0.0, -2.0])
@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "three", "four")])
def test_equal_sources_are_left_alone(observe, level, names):
    rng, start = np.random.default_rng(12), dict.fromkeys(names, SHARE_ONE // len(names))
    kinds = dict.fromkeys(names, "real")
    truth = dict.fromkeys(names, [(level, level)] * 3)
    runs = [simulated(observe, truth, rng, start, kinds) for _ in range(200)]
    assert sum(run[-1] != start for run in runs) <= 2  # 0.4 % (two) and 0.6 % (four) in 1,500 runs


def test_a_template_with_a_low_loss_falls_and_hard_good_text_stays(observe):
    truth = {"real": [(0.8, 1.0)] * 3, "template": [(-0.8, 0.0)] * 3, "hard": [(1.0, 1.1)] * 3}
    kinds = {"real": "real", "template": "synthetic", "hard": "synthetic"}
    start = {"real": 334_000, "template": 333_000, "hard": 333_000}
    rng = np.random.default_rng(14)
    runs = [simulated(observe, truth, rng, start, kinds)[-1] for _ in range(100)]
    assert np.mean([run["template"] == 10_000 for run in runs]) >= 0.95
    assert min(run["hard"] for run in runs) >= 333_000
