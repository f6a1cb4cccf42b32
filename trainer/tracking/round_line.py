"""The journal's line about a round of synthesis."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from trainer.tracking.record import About, JournalLine

_COUNTS = (
    "requests", "accepted", "prompt_tokens", "completion_tokens", "accepted_tokens", "seconds", "cost", "gpu_seconds",
    "joules",
)  # fmt: skip
GRADER_ESTIMATES = ("agreement", "calibration_error", "self_preference", "length_bias", "position_bias")  # shown ones


def round_figures(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a round's record is plotted: the funnel, what it cost, and how diverse its rows are."""
    if not record:
        return {}
    figures = {name: record[name] for name in _COUNTS if record.get(name) is not None}
    figures["accepted_share"] = record["accepted"] / max(1, record["requests"])
    figures |= {f"dropped/{reason}": count for reason, count in record.get("dropped", {}).items()}
    measured = (record.get("gate") or {}).get("diversity", {})
    return figures | {f"diversity/{name}": value for name, value in measured.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RoundLine(JournalLine):
    """A round of synthesis inside the run came to another state."""

    kind: ClassVar[str] = "round"
    generation: Annotated[int, About("number of the round, from 1", "", "synthesis/generation")]
    state: Annotated[
        str,
        About(
            "begun; written (texts of the run's own model); lot (a small lot was valued); ended (its rows are in the "
            "pool); joined; failed (tried again at the next time); not-bought; quarantined (its rows are drawn no more)"
        ),
    ]
    source: Annotated[str, About("the source that its rows belong to")]
    reason: Annotated[str, About("why, or what happened, in one sentence")]
    segment: Annotated[int | None, About("number of the segment that its rows are; null before it joins")] = None
    num_samples: Annotated[int, About("samples of that segment", "samples")] = 0
    record: Annotated[
        Mapping[str, Any],
        About(
            "what became of its requests, as in the pool: requests = dropped + accepted", "", "synthesis/{}",
            round_figures,
        ),
    ] = field(default_factory=dict)  # fmt: skip
    value: Annotated[Mapping[str, float], About("what buying rested on: prior value, its error, cost, requests")] = (
        field(default_factory=dict)
    )
    paused_seconds: Annotated[float, About("how long training waited for it", "seconds")] = 0.0
    seconds: Annotated[float, About("wall time since it began", "seconds")] = 0.0
