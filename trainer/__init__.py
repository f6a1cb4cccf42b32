"""Train a model on an exact mixture of real and synthetic data, steered by held-out real data while the run goes on."""

__version__ = "0.1.0"
