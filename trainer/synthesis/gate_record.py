"""What the gate of a round measured, and how it is told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from trainer.synthesis.diversity import Diversity
from trainer.synthesis.memorization import Asymmetry


@dataclass(frozen=True, kw_only=True)
class GateRecord:
    """What the gate measured: of the round, of as much real text, and how near rows are to real documents."""

    rows: int
    diversity: Diversity
    real: Diversity | None
    memorization: Asymmetry | None
    failed: tuple[str, ...]  # which limits, in words

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        real, memorization = record["real"], record["memorization"]
        return cls(
            rows=record["rows"],
            diversity=Diversity.from_json(record["diversity"]),
            real=None if real is None else Diversity.from_json(real),
            memorization=None if memorization is None else Asymmetry(**memorization),
            failed=tuple(record["failed"]),
        )


def gate_in_words(record: GateRecord) -> list[str]:
    """What the gate measured, beside real text."""
    figures = []
    for name in ("distinct", "self_bleu", "vendi", "tail_coverage"):
        value, real = getattr(record.diversity, name), record.real and getattr(record.real, name)
        if value is not None:
            figures.append(f"{name} {value:.3g}" + ("" if real is None else f" (real text {real:.3g})"))
    lines = [f"  diversity of {record.rows} rows: {', '.join(figures)}"]
    if (found := record.memorization) is not None:
        lines.append(
            f"  nearer to training than to held-out documents: {found.nearer_training:.2f} "
            f"[{found.low:.2f}, {found.high:.2f}] of the rows (0.5: nothing memorized)"
        )
    return lines
