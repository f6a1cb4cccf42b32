"""What the policy ``priced`` remembers from one decision to the next."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import fsum
from typing import Any, Self

from trainer.base.json_values import jsonable
from trainer.base.records import Kind
from trainer.control.priced.dither import Span
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.trust_region import StepSizes

Shares = Mapping[str, float]  # of one, not in millionths


@dataclass(frozen=True, kw_only=True)
class PricedState:
    """Shares as value asks for them and as they were proposed, what was measured, and how far the last steps went."""

    floors: Shares
    start: Shares
    base: Shares  # what value alone asks for
    targets: Shares  # within the real-data budget, before the waves of the dither
    synthetic_mix: Shares  # of each synthetic source among them all: what is drawn in place of real data
    proposed: Mapping[str, int] | None = None  # in millionths
    prior: Mapping[str, Estimate] = field(default_factory=dict)
    unit: float | None = None  # value of a fresh real token in the unit of the advantages; None where not known
    estimates: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)  # by source and estimator
    measured_after_epochs: float = 0.0  # of real data
    step_sizes: StepSizes = field(default_factory=StepSizes)
    synthetic_step_sizes: StepSizes = field(default_factory=StepSizes)
    probes: tuple[Estimate, ...] = ()  # of the curvature
    spans: tuple[Span, ...] = ()  # oldest first
    num_evaluations: int = 0
    progress: float = 0.0
    span: float = 0.0  # of progress, between the last two evaluations

    @property
    def drawn(self) -> list[str]:
        """Sources that value gives a share."""
        return [name for name, share in self.base.items() if share > 0]

    def real_share(self, kinds: Mapping[str, Kind]) -> float:
        """The share of all real sources together that value asks for."""
        return fsum(share for name, share in self.base.items() if kinds[name] == "real")

    def to_json(self) -> dict[str, Any]:
        """The fields by name, in types that JSON has."""
        fields: dict[str, Any] = jsonable(asdict(self))
        return fields

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The state of which ``value`` is the ``to_json``."""
        records = {
            "prior": {name: Estimate.from_json(each) for name, each in value["prior"].items()},
            "estimates": {
                name: {estimator: Estimate.from_json(each) for estimator, each in estimates.items()}
                for name, estimates in value["estimates"].items()
            },
            "step_sizes": StepSizes.from_json(value["step_sizes"]),
            "synthetic_step_sizes": StepSizes.from_json(value["synthetic_step_sizes"]),
            "probes": tuple(Estimate.from_json(each) for each in value["probes"]),
            "spans": tuple(Span(**each) for each in value["spans"]),
        }
        return cls(**{**value, **records})
