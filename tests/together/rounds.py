"""Runs that make rounds of synthesis, as several tests start them."""

import json
from collections.abc import Mapping
from typing import Any

OWN = {
    "every": 8,
    "source": "made",
    "share": 0.25,
    "sources": ["real"],
    "generator": {"kind": "run", "batch": 4},
    "prompts": [{"template": "{{ text[:24] }}", "name": "begin"}],
    "sampling": {"temperature": [1.0], "max_new_tokens": 12},
    "requests": 24,
    "keep_cut_off": True,
}
STEPS = 30


def sets(synthesis: Mapping[str, Any] = OWN, **more: Any) -> list[str]:
    """Overrides of a recipe that makes rounds."""
    return [
        f"synthesis={json.dumps({**synthesis, **more})}",
        f"training.steps={STEPS}",
        "control.policy={kind: constant}",
        "evaluation={every_steps: 5, validation_documents: 24, source_samples: 4}",
    ]
