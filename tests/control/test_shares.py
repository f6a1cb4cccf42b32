import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.base.records import SHARE_ONE, SHARE_STEP
from trainer.control.shares import without
from trainer.mixture.shares import rounded

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


def test_within_a_kind_a_cut_share_is_dealt_in_proportion():
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
