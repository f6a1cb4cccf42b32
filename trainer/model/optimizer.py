"""The optimizer: fused AdamW."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from trainer.model.config import TrainingConfig


def build_optimizer(model: "torch.nn.Module", training: "TrainingConfig") -> "torch.optim.AdamW":
    """AdamW, fused; matrices decay, vectors do not."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=training.betas,
        eps=training.epsilon,
        fused=True,
    )
