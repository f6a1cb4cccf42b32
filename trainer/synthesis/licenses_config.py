"""What a recipe says of the terms that generated rows come under."""

from typing import Literal

from pydantic import Field

from trainer.base.config import Config

Action = Literal["refuse", "warn", "allow"]
Meaning = Literal[
    "allowed", "noncommercial", "no_derivatives", "share_alike", "forbids_training", "conditional", "unknown"
]


class LicensesConfig(Config):
    """What a round does where the terms of a source, the generator or a judge stand against training on its rows."""

    forbids_training: Action = Field("refuse", description="terms that forbid training models on what is written")
    no_derivatives: Action = Field("refuse", description="licenses without derivatives (ND)")
    noncommercial: Action = Field("warn", description="licenses without commercial use (NC)")
    share_alike_mix: Action = Field("warn", description="two licenses that each ask for their own terms (SA, GPL)")
    conditional: Action = Field("warn", description="terms that allow training under a condition, such as a name")
    unknown: Action = Field("warn", description="a license that is not stated, or that nobody has classed")
    terms: dict[str, Meaning] = Field(
        default_factory=dict, description="your own reading, by SPDX identifier or LicenseRef: `LicenseRef-X: allowed`"
    )
