import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.base.records import SHARE_ONE, SHARE_STEP
from trainer.mixture.shares import (
    filled,
    millionths,
    redistributed,
    rounded,
    rounded_down,
    rounded_up,
    with_real,
    within,
    without,
    without_within_kinds,
)

targets = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.one_of(st.just(0.0), st.floats(1e-3, 1e6)),
    min_size=1,
    max_size=40,
).filter(lambda wanted: sum(wanted.values()) > 0)


@given(targets)
def test_rounded_shares_are_whole_thousandths_and_sum_to_one(wanted):
    shares = rounded(wanted)
    assert sum(shares.values()) == SHARE_ONE
    assert all(share % SHARE_STEP == 0 for share in shares.values())
    assert list(shares) == list(wanted)


@given(targets)
def test_only_a_zero_is_never_drawn(wanted):
    assert {name for name, share in rounded(wanted).items() if share == 0} == {n for n, w in wanted.items() if w == 0}


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=12))
def test_rounding_moves_no_share_by_a_thousandth_or_more(weights):
    wanted = {f"s{i}": weight for i, weight in enumerate(weights)}
    total = math.fsum(weights)
    for name, share in rounded(wanted).items():
        assert abs(share - wanted[name] / total * SHARE_ONE) < SHARE_STEP * (1 + 1e-6)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=10, unique=True), st.randoms())
def test_rounding_does_not_depend_on_the_order_of_distinct_shares(weights, random):
    wanted = {f"s{i}": float(weight) for i, weight in enumerate(weights)}
    names = list(wanted)
    random.shuffle(names)
    assert rounded({name: wanted[name] for name in names}) == rounded(wanted)


@pytest.mark.parametrize("wanted", [{"a": -1.0, "b": 2.0}, {"a": math.nan, "b": 1.0}, {"a": 0.0}, {"a": math.inf}])
def test_what_is_no_mixture_is_refused(wanted):
    with pytest.raises(ValueError, match="shares must be finite"):
        rounded(wanted)


KINDS = {"wiki": "real", "news": "real", "written": "synthetic", "junk": "synthetic"}
SHARES = {"wiki": 400_000, "news": 100_000, "written": 300_000, "junk": 200_000}


def test_a_cut_share_goes_to_the_rest_of_its_kind():
    assert without(SHARES, ["junk"], KINDS) == {"wiki": 400_000, "news": 100_000, "written": 500_000, "junk": 0}


def test_within_a_kind_a_cut_share_is_distributed_in_proportion():
    shares = {"wiki": 200_000, "a": 100_000, "b": 300_000, "junk": 400_000}
    kinds = {"wiki": "real", "a": "synthetic", "b": "synthetic", "junk": "synthetic"}
    assert without(shares, ["junk"], kinds) == {"wiki": 200_000, "a": 200_000, "b": 600_000, "junk": 0}


def test_the_last_source_of_a_kind_leaves_its_share_to_the_other_kind():
    assert without(SHARES, ["junk", "written"], KINDS) == {"wiki": 800_000, "news": 200_000, "written": 0, "junk": 0}


def test_nothing_is_left_when_all_are_cut():
    assert without(SHARES, list(SHARES), KINDS) is None


def test_cutting_what_has_no_share_changes_nothing():
    shares = {"wiki": 333_333, "written": 666_667, "junk": 0}
    assert without(shares, ["junk"], {**KINDS}) == shares


def test_redistributing_keeps_the_sum_and_the_proportions_in_any_unit():
    shares = {"wiki": 0.4, "news": 0.1, "written": 0.3, "junk": 0.2}
    left = redistributed(shares, ["news", "junk"], KINDS)
    assert left == pytest.approx({"wiki": 0.5, "news": 0.0, "written": 0.5, "junk": 0.0})
    assert redistributed(shares, list(shares), KINDS) is None
    assert redistributed(shares, [], KINDS) == shares


def test_a_capped_source_leaves_the_share_of_its_kind_to_the_millionth():
    shares = {"wiki": 333_333, "news": 66_667, "written": 300_001, "junk": 299_999}
    left = without_within_kinds(shares, {"news"}, KINDS)
    assert left == {"wiki": 400_000, "news": 0, "written": 300_001, "junk": 299_999}
    assert without_within_kinds(shares, {"written", "junk"}, KINDS) is None


def test_shares_below_a_thousandth_are_kept_in_millionths():
    assert millionths({"a": 0.9996, "b": 0.0004}) == {"a": 999_600, "b": 400}
    assert millionths({"a": 1.0, "b": 0.0}) == {"a": SHARE_ONE, "b": 0}


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ({"a": 1 - 1e-7, "b": 1e-7}, "{a: 0.999999, b: 0.000001}"),
        ({"a": 0.9999964, "b": 3.6e-6}, "{a: 0.999996, b: 0.000004}"),
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, "{a: 0.333334, b: 0.333333, c: 0.333333}"),
        ({"a": 0.1234567, "b": 0.8765433}, "{a: 0.123457, b: 0.876543}"),
    ],
)
def test_a_share_that_is_no_whole_millionth_is_refused_with_the_nearest_that_can_be_kept(written, nearest):
    with pytest.raises(ValueError, match=f"shares are kept in whole millionths, .* are {re.escape(nearest)}"):
        millionths(written)
    kept = {name: float(share) for name, share in (part.split(": ") for part in nearest[1:-1].split(", "))}
    assert sum(millionths(kept).values()) == SHARE_ONE


@given(st.integers(0, SHARE_ONE))
def test_every_millionth_that_is_written_is_kept(share):
    assert millionths({"a": float(f"{share / SHARE_ONE:.6f}"), "b": 1 - share / SHARE_ONE})["a"] == share


def test_rounding_up_and_down_leaves_whole_steps_alone():
    for count in range(1001):
        assert rounded_up(count / 1000) == rounded_down(count / 1000) == count * SHARE_STEP
        assert rounded_up(count / SHARE_ONE, 1) == rounded_down(count / SHARE_ONE, 1) == count
    assert (rounded_down(0.0129), rounded_up(0.0121)) == (12_000, 13_000)


def test_a_decision_that_takes_a_source_out_leaves_a_fine_share_of_the_other_kind_alone():
    shares = {"wiki": 400, "written": 499_600, "junk": 500_000}
    assert without(shares, ["junk"], KINDS) == {"wiki": 400, "written": 999_600, "junk": 0}


def test_a_step_too_many_does_not_come_off_a_source_that_is_not_touched():
    """Two sources that almost reach 0 keep a step each, which is more than they are due."""
    assert rounded({"a": 0.0001, "b": 0.0001, "c": 0.5, "d": 0.4998})["c"] == 500_000


def test_the_real_share_is_set_and_each_kind_keeps_its_proportions():
    shares = with_real(SHARES, KINDS, 0.75)
    assert shares == pytest.approx({"wiki": 0.6, "news": 0.15, "written": 0.15, "junk": 0.1})


bounds = st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(0.0, 0.2), st.floats(0.2, 1.0)), min_size=1, max_size=8)


@given(bounds, st.floats(0.01, 2.0))
def test_shares_within_bounds_meet_the_total_and_are_in_proportion_between_them(rows, total):
    weights, floors, ceilings = ({f"s{i}": row[k] for i, row in enumerate(rows)} for k in range(3))
    shares = within(weights, floors, ceilings, total=total)
    assert math.fsum(shares.values()) == pytest.approx(total)
    if not math.fsum(floors.values()) < total < math.fsum(ceilings.values()):
        return
    assert all(floors[n] - 1e-9 <= share <= ceilings[n] + 1e-9 for n, share in shares.items())
    scales = [shares[n] / weights[n] for n in shares if floors[n] + 1e-9 < shares[n] < ceilings[n] - 1e-9]
    assert scales == pytest.approx(scales[:1] * len(scales), rel=1e-6)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0.0, {"a": 0.0, "b": 0.0}),
        (3.0, {"a": 1.0, "b": 2.0}),
        (6.0, {"a": 2.0, "b": 4.0}),
        (9.0, {"a": 2.0, "b": 5.0}),
    ],
)
def test_what_one_has_no_room_for_goes_to_the_others_and_the_rest_is_left_over(amount, expected):
    assert filled(amount, {"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 5.0, "c": 9.0}) == pytest.approx(expected)
    assert filled(amount, {}, {}) == {}
