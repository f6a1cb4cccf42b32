import pytest

from trainer.training.slice_composition import composition

TOKENS = {
    "books": {"novels": 800, "letters": 200},
    "written": {"novels": 1000},
    "loose": {"all": 500},
}
REAL = frozenset({"books"})


def test_drawing_the_real_source_alone_keeps_its_slices():
    found = composition(TOKENS, {"books": 3.0, "written": 0.0, "loose": 0.0}, REAL)
    assert found is not None
    assert found.unnamed == 0
    assert {name: (one.real, one.drawn) for name, one in found.slices.items()} == {
        "letters": (0.2, 0.2),
        "novels": (0.8, 0.8),
    }
    assert not any(one.is_skewed(1.01) for one in found.slices.values())


def test_a_synthetic_source_without_a_minority_thins_it_out():
    found = composition(TOKENS, {"books": 1.0, "written": 2.0, "loose": 0.0}, REAL)
    assert found is not None
    assert found.slices["letters"].drawn == pytest.approx(200 / 3000)
    assert found.slices["letters"].is_skewed(2.0)
    assert not found.slices["letters"].is_skewed(3.5)
    assert not found.slices["novels"].is_skewed(2.0)


def test_text_without_a_slice_is_reported_and_counts_for_no_slice():
    found = composition(TOKENS, {"books": 1.0, "written": 0.0, "loose": 2.0}, REAL)
    assert found is not None
    assert found.unnamed == pytest.approx(0.5)
    assert found.slices["letters"].drawn == pytest.approx(0.2)


def test_a_slice_that_real_data_do_not_have_is_no_skew():
    found = composition({**TOKENS, "written": {"adverts": 10}}, {"books": 0.1, "written": 90.0, "loose": 0.0}, REAL)
    assert found is not None
    assert found.slices["adverts"].real == 0
    assert not found.slices["adverts"].is_skewed(2.0)


@pytest.mark.parametrize("epochs", [{"books": 0.0, "written": 0.0, "loose": 0.0}, {"loose": 4.0}])
def test_nothing_is_compared_before_anything_with_a_slice_was_drawn(epochs):
    assert composition(TOKENS, epochs, REAL) is None


def test_nothing_is_compared_where_real_data_have_no_slices():
    assert composition({"books": {"all": 10}, "written": {"novels": 5}}, {"books": 1.0, "written": 1.0}, REAL) is None
