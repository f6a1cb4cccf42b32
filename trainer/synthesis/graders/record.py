"""What is known of a grader after a round: how it did on labeled rows, whether it has a vote, what it graded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def from_json(cls, record: Mapping[str, float] | None) -> Self | None:
        """What ``asdict`` gave; None stays None."""
        return None if record is None else cls(**record)

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Labeled rows about which a grader believes the same: its mean belief that they are good, and how many are."""

    belief: float
    good: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class GraderRecord:
    """A grader's own grades, and what it did in a round. None: could not be measured."""

    name: str
    kind: str
    model: str | None = None
    license: str | None = None
    has_vote: bool = True
    lost_vote_for: Sequence[str] = ()
    good_rows: int = 0  # labeled ones that it was graded on
    bad_rows: int = 0
    agreement: Estimate | None = None  # balanced accuracy; a row without a verdict counts as kept
    kept_good: Estimate | None = None
    kept_bad: Estimate | None = None
    found: Mapping[str, Estimate] = field(default_factory=dict)  # by fault: share of such rows that it drops
    calibration_error: Estimate | None = None
    brier: float | None = None
    reliability: Sequence[ReliabilityBin] = ()
    self_preference: Estimate | None = None  # of rows with the same fault: P(the generator's beats real) - 1/2
    prefers_generated: Estimate | None = None  # the same among rows as they are
    length_bias: Estimate | None = None
    position_bias: Estimate | None = None
    abstained_share: float = 0.0  # of labeled rows
    graded: int = 0  # of the round's own rows
    would_drop: Mapping[str, int] = field(default_factory=dict)  # by reason, whether it has a vote or not
    abstained: Mapping[str, int] = field(default_factory=dict)  # by reason
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        estimates = {name: Estimate.from_json(record[name]) for name in _ESTIMATES}
        found = {fault: Estimate(**estimate) for fault, estimate in record["found"].items()}
        bins = tuple(ReliabilityBin(**one) for one in record["reliability"])
        lost = tuple(record["lost_vote_for"])
        return cls(**{**record, **estimates, "found": found, "reliability": bins, "lost_vote_for": lost})


_ESTIMATES = (
    "agreement", "kept_good", "kept_bad", "calibration_error", "self_preference", "prefers_generated", "length_bias",
    "position_bias",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VerifierRecord:
    """What the graders that have a vote do together, and what can be gained by them (``graders.bound``)."""

    kept_right: Estimate
    kept_wrong: Estimate
    breaking_error: Estimate
    kept_share: float
    rows: int
    wrong_before: Estimate
    wrong_after: Estimate
    gain: Estimate

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        fields: dict[str, Any] = {
            name: Estimate(**value) if isinstance(value, Mapping) else value for name, value in record.items()
        }
        return cls(**fields)
