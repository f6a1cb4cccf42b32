"""What is known of a source's value before the run: the figure, how sure it is, and what to be warned of."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

LEAST_VALUE, LEAST_ERROR = 0.01, 0.1
LEAK_Z = 2.0  # errors above 1 from which on a source holds more than real text can
# Of five draws each: sources whose word order taught training something 0.55 to 1.0, others at most 0.1.
NO_ORDER = 0.2


@dataclass(frozen=True, kw_only=True)
class PriorValue:
    """Value of a token of a source, in fresh real tokens: ``mean`` within [0.01, 1] with one standard error, and
    ``measured`` before that limit.

    ``order_contrast``: the part of the value of real word order (what is lost when words are shuffled) that the source
    has; None where real text itself shows none. ``weight``: of one count of the source beside one of real text.
    """

    mean: float
    error: float
    measured: float
    weight: float
    order_contrast: float | None
    real_tokens: int  # that the source was held against
    source_tokens: int
    validation_tokens: int

    @property
    def may_leak(self) -> bool:
        """Whether it is worth more than real text can be: it may hold the validation documents."""
        return self.measured - LEAK_Z * self.error > 1

    @property
    def teaches_no_order(self) -> bool:
        """Whether shuffling its words would take next to nothing from it."""
        return self.order_contrast is not None and self.order_contrast < NO_ORDER

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**saved)


def value_lines(values: Mapping[str, PriorValue]) -> Iterator[str]:
    """One sentence a source, for a reader who knows no n-grams."""
    for name, value in values.items():
        worth = f"{value.mean:.2f} ± {value.error:.2f}"
        yield f"one token of `{name}` is worth {worth} of a fresh real one, by n-gram counts"


def value_warnings(values: Mapping[str, PriorValue]) -> Iterator[str]:
    """What a user should look into before a run."""
    for name, value in values.items():
        if value.may_leak:
            yield (
                f"`{name}` may hold the validation documents, or text made from them: its tokens predict them better "
                f"than fresh real text does ({value.measured:.1f} ± {value.error:.1f} of a real token each)"
            )
        if value.teaches_no_order:
            yield (
                f"the word order of `{name}` teaches nothing about the validation documents ({value.order_contrast:.2f}"
                " of what that of real text does): its text may be incoherent, shuffled, a template, or off the subject"
            )
