"""What a token of a source is worth, in fresh real tokens, before the first step: by n-gram counts on a CPU."""

from trainer.data.prior_value.record import PriorValue, value_lines, value_warnings
from trainer.data.prior_value.rule import RealText, prior_value

__all__ = ["PriorValue", "RealText", "prior_value", "value_lines", "value_warnings"]
