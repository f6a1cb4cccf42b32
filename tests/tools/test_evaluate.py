"""What ``trainer evaluate`` prints."""

from typing import Any

from trainer.tools.evaluate import show_held_out


def part(nats: float) -> dict[str, Any]:
    slices = {"rivers": {"bits_per_byte": 1.5, "documents": 3}, "towns": {"bits_per_byte": 1.75, "documents": 5}}
    return {"nats_per_token": nats, "standard_error": 0.02, "bits_per_byte": 1.6, "documents": 8, "slices": slices}


def test_both_parts_are_columns_with_the_worst_slice_first() -> None:
    text = show_held_out({"step": 60, "validation": part(5.9), "test": part(6.1)})
    assert [line.split() for line in text.splitlines()[1:4]] == [
        ["validation", "5.9000", "±", "0.0200", "1.6000", "8", "documents"],
        ["1.7500", "bits", "per", "byte", "towns", "(5)"],
        ["1.5000", "bits", "per", "byte", "rivers", "(3)"],
    ]
