"""The training losses by source that policies follow."""

import math

from trainer.base.records import Observation


def mean_losses(observation: Observation) -> dict[str, float]:
    """Mean training loss of each source since the evaluation before, nats per token; finite ones of drawn sources."""
    means = {
        name: loss.nats_per_token for name, loss in observation.losses.items() if observation.shares.get(name, 0) > 0
    }
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}
