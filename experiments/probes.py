"""When a world's forgetting is probed, and on how many samples: as a run at its defaults would."""

from trainer.control.policies import PricedConfig
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.evidence.forgetting import forgetting_sized, forgetting_times
from trainer.evaluate.evidence.source_value import SourceValueCounts
from trainer.evaluate.schedule import Times


def probe_times(*, num_steps: int, every_steps: int) -> Times:
    """Of the policy ``priced`` in a run with an evaluation every so many steps."""
    needed_from = PricedConfig(kind="priced").warm_up
    times = forgetting_times(SourceValueConfig(), needed_from, num_steps=num_steps, every_steps=every_steps)
    assert times is not None
    return times


def probe_counts(times: Times, *, num_steps: int, batch: int) -> SourceValueCounts:
    """Within the part of the compute that a run spends on them; a sample is a token."""
    return forgetting_sized(SourceValueConfig(), sequence_length=1, interval_tokens=num_steps * batch // times.count)
