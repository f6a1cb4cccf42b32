"""What was found of machine-written text in the sources called real, and how it is told."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import TypeAdapter

from trainer.base.formatting import figure

EXAMPLE_CHARACTERS = 200
MOST_YEARS_SHOWN = 12
Verdict = Literal["kept", "warned", "reclassified"]


@dataclass(frozen=True, kw_only=True)
class ShareEstimate:
    """The share of machine-written documents with its interval, and what it was computed from."""

    share: float
    low: float
    high: float
    rate: float  # of hits
    true_positive_rate: float
    false_positive_rate: float
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class SuspiciousDocument:
    """A document that reads most like the machine's: its score is the log-ratio per token, in nats."""

    id: str
    score: float
    text: str


@dataclass(frozen=True, kw_only=True)
class SourceFinding:
    """The share found in one segment of a source, by the reference that finds most."""

    reference: str
    estimate: ShareEstimate
    num_short: int  # documents too short to be looked at, of those sampled
    by_date: Mapping[str, ShareEstimate] = field(default_factory=dict)
    suspicious: tuple[SuspiciousDocument, ...] = ()
    verdict: Verdict = "kept"


@dataclass(frozen=True, kw_only=True)
class MachineTextAccount:
    """The findings by segment; ``separation`` is TPR - FPR of each machine's reference against the real one."""

    real: str
    separation: Mapping[str, float]
    max_share: float
    sources: Mapping[str, SourceFinding]

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return _ADAPTER.validate_python(record)  # type: ignore[return-value]

    def lines(self) -> Iterator[str]:
        """What was found, a line for each segment, its years, and its most suspicious documents."""
        for name, finding in self.sources.items():
            yield f"{name}: {in_words(finding)}"
            years = list(finding.by_date.items())[-MOST_YEARS_SHOWN:]
            if years:
                yield f"{name}: by date: {', '.join(f'{year} {_interval(estimate)}' for year, estimate in years)}"
            for document in finding.suspicious:
                score = f"{document.score:+.2f} nats a token"
                yield f"{name}: most like machine-written ({score}) {document.id}: {document.text}"

    def warnings(self) -> Iterator[str]:
        """What a user should do something about."""
        for name, finding in self.sources.items():
            if finding.verdict == "kept":
                continue
            done = "and is trained on as synthetic" if finding.verdict == "reclassified" else "and is called real"
            limit = f"above data.machine_text.max_share ({self.max_share:g})"
            yield f"{name!r} has {_interval(finding.estimate)} machine-written documents, {limit}, {done}"


def in_words(finding: SourceFinding) -> str:
    """The share as a lower bound, with what it rests on."""
    estimate = finding.estimate
    tpr, fpr = estimate.true_positive_rate, estimate.false_positive_rate
    return (
        f"{_interval(estimate)} of {figure(estimate.num_documents)} documents are machine-written like "
        f"{finding.reference!r}, a lower bound of all that machines wrote (of labeled documents {tpr:.0%} of the "
        f"machine's and {fpr:.0%} of the real ones are hits)"
    )


def _interval(estimate: ShareEstimate) -> str:
    return f"{estimate.share:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


_ADAPTER = TypeAdapter(MachineTextAccount)
