"""The policy `priced`: measured value per token, within what the real data can sustain."""
