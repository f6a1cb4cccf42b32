"""The recipe's section ``tracking``: where a run is shown besides its own journal, which is always written."""

from typing import Annotated, Literal

from pydantic import Field

from trainer.base.config import Config
from trainer.base.seams import OpenUnion, Seam
from trainer.tracking.tracker import Tracker, TrackerFactory


class WandbConfig(Config):
    """Weights & Biases; ``offline`` writes files that ``wandb sync`` can upload later."""

    kind: Literal["wandb"] = Field("wandb", description="Weights & Biases")
    mode: Literal["offline", "online", "disabled"] = Field(
        "offline", description="offline (files only), online, or disabled (not at all)"
    )
    project: str = Field("hybrid-trainer", min_length=1, description="W&B project")
    entity: str | None = Field(None, description="W&B team or user; null means the default of the account")
    name: str | None = Field(None, description="name of the run in W&B; null means the recipe's name")


class TensorBoardConfig(Config):
    """TensorBoard event files; needs the extra ``tensorboard``."""

    kind: Literal["tensorboard"] = Field("tensorboard", description="TensorBoard event files")
    folder: str = Field("tensorboard", min_length=1, description="where they go; relative to the run folder")


def _wandb(config: WandbConfig) -> Tracker:
    from trainer.tracking.wandb import WandbTracker

    return WandbTracker(config)


def _tensorboard(config: TensorBoardConfig) -> Tracker:
    from trainer.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(config)


TRACKERS: Seam[TrackerFactory] = Seam(
    "trackers",
    {"wandb": _wandb, "tensorboard": _tensorboard},
    requires=("begin", "note", "close"),
    calls={"": ("config",)},
    methods={"begin": ("run",), "note": ("line",), "close": ()},
)
TrackerConfig = Annotated[WandbConfig | TensorBoardConfig, OpenUnion(TRACKERS)]


class TrackingConfig(Config):
    """Where a run is shown besides its own journal, which is always written."""

    trackers: tuple[TrackerConfig, ...] = Field(
        (WandbConfig(),), description="wandb, tensorboard, or your own as package.module:Name; [] for none"
    )
