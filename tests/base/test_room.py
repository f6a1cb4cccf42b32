"""That there is no room is found among the causes of an error, however they are chained."""

import errno

import pytest

from trainer.base.room import no_room


def chain(*errors: Exception) -> Exception:
    """The first of the errors, each of which is caused by the next, and the last by the first."""
    for error, cause in zip(errors, (*errors[1:], errors[0]), strict=True):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize("num", [1, 2, 3])
def test_the_causes_of_an_error_that_lead_back_to_it_are_looked_at_once(num: int) -> None:
    others = [ValueError(str(number)) for number in range(num)]
    assert no_room(chain(*others)) is None
    assert no_room(chain(*others, OSError(errno.ENOSPC, "full"))) == "No space left on device"
