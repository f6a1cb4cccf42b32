import pytest

from trainer.training.slice_composition import composition

TOKENS = {
    "books": {"novels": 800, "letters": 200},
    "written": {"novels": 1000},
    "loose": {"all": 500},
}
REAL = frozenset({"books"})


def test_drawing_the_real_source_alone_keeps_its_slices():
    drawn = composition(TOKENS, {"books": 3.0, "written": 0.0, "loose": 0.0}, REAL)
    assert drawn is not None
    assert drawn.unnamed == 0
    assert {name: (part.real, part.drawn) for name, part in drawn.slices.items()} == {
        "letters": (0.2, 0.2),
        "novels": (0.8, 0.8),
    }
    assert not any(part.is_skewed(1.01) for part in drawn.slices.values())


def test_a_synthetic_source_without_a_minority_thins_it_out():
    drawn = composition(TOKENS, {"books": 1.0, "written": 2.0, "loose": 0.0}, REAL)
    assert drawn is not None
    assert drawn.slices["letters"].drawn == pytest.approx(200 / 3000)
    assert drawn.slices["letters"].is_skewed(2.0)
    assert not drawn.slices["letters"].is_skewed(3.5)
    assert not drawn.slices["novels"].is_skewed(2.0)


def test_text_without_a_slice_is_reported_and_counts_for_no_slice():
    drawn = composition(TOKENS, {"books": 1.0, "written": 0.0, "loose": 2.0}, REAL)
    assert drawn is not None
    assert drawn.unnamed == pytest.approx(0.5)
    assert drawn.slices["letters"].drawn == pytest.approx(0.2)


def test_a_slice_that_real_data_do_not_have_is_no_skew():
    drawn = composition({**TOKENS, "written": {"adverts": 10}}, {"books": 0.1, "written": 90.0, "loose": 0.0}, REAL)
    assert drawn is not None
    assert drawn.slices["adverts"].real == 0
    assert not drawn.slices["adverts"].is_skewed(2.0)


@pytest.mark.parametrize("epochs", [{"books": 0.0, "written": 0.0, "loose": 0.0}, {"loose": 4.0}])
def test_nothing_is_compared_before_anything_with_a_slice_was_drawn(epochs):
    assert composition(TOKENS, epochs, REAL) is None


def test_nothing_is_compared_where_real_data_have_no_slices():
    assert composition({"books": {"all": 10}, "written": {"novels": 5}}, {"books": 1.0, "written": 1.0}, REAL) is None
