from math import log

import pytest

from trainer.control.priced.estimates import Estimate
from trainer.control.priced.real_budget import synthetic_less_real, worthwhile_epochs
from trainer.control.priced.repeats import REPEATS_DECAY

PRIOR = Estimate(value=2 / 3, standard_error=0.2)


@pytest.mark.parametrize(
    ("difference", "source_value"),
    [
        (None, 2 / 3),
        (Estimate(value=-0.8, standard_error=0.2), (2 / 3 + 0.2) / 2),  # as sure as the prior
        (Estimate(value=-0.8, standard_error=0.1), (2 / 3 + 4 * 0.2) / 5),
        (Estimate(value=0.3, standard_error=0.01), 2 / 3),  # better: never fewer epochs
        (Estimate(value=-2.0, standard_error=0.05), 0.05),  # plainly not the prior, and worthless
    ],
)
def test_a_repeat_is_worth_what_a_synthetic_token_is_at_the_end_of_the_worthwhile_epochs(difference, source_value):
    assert worthwhile_epochs(PRIOR, difference, 1.0) == pytest.approx(1 - REPEATS_DECAY * log(source_value))


def test_of_two_sources_the_difference_is_as_sure_as_their_advantage():
    advantages = {
        "real": Estimate(value=0.4, standard_error=0.3),
        "written": Estimate(value=-0.4, standard_error=0.3),
    }
    kinds = {"real": "real", "written": "synthetic"}
    difference = synthetic_less_real(advantages, {"real": 0.3, "written": 0.7}, kinds, unit=2.0)
    assert (difference.value, difference.standard_error) == (pytest.approx(-0.2), pytest.approx(0.15))
    assert (
        synthetic_less_real(advantages, {"real": 0.3, "written": 0.7}, dict.fromkeys(kinds, "real"), unit=2.0) is None
    )
