"""The balancing loss of a mixture of experts: a router that sends all tokens to one expert trains that one alone.

transformers adds its auxiliary loss only where it computes the loss itself, pooled over whatever lies in one forward:
its value would depend on how a batch is cut into micro-batches and ranks. Here it is the same formula for each sample
on its own (equations 4 to 6 of Fedus et al. 2021, as ``load_balancing_loss_func`` of transformers has it; per sequence
as in DeepSeek-V3), weighted by its target tokens: a sum over samples, as the training loss is, and so the same under
every engine. Evaluations know nothing of it.
"""

# B rows, T tokens, E experts

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError
from trainer.model.loss import target_tokens

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT, COEFFICIENT = "output_router_logits", "router_aux_loss_coef"


@dataclass(frozen=True, kw_only=True)
class RouterLoss:
    """What a model's routers add to its training loss: ``coefficient`` times the balancing loss."""

    coefficient: float
    experts_per_token: int

    def summed(self, router_logits: "Sequence[Tensor | None]", num_valid_B: "Tensor") -> "Tensor":
        """The balancing loss of each row times its target tokens, float32 [B]; divided as the nats of the rows are."""
        import torch

        num_rows, device = num_valid_B.shape[0], num_valid_B.device
        with_experts = [logits for logits in router_logits if logits is not None]
        if not with_experts:
            return torch.zeros(num_rows, device=device)
        num_experts = with_experts[0].shape[-1]
        length = with_experts[0].numel() // (num_rows * num_experts)
        is_text_BT1 = (torch.arange(length, device=device) < num_valid_B[:, None])[..., None]
        chosen_BE = probabilities_BE = torch.zeros(num_rows, num_experts, device=device)
        for logits in with_experts:
            probability_BTE = logits.reshape(num_rows, length, num_experts).float().softmax(-1)
            chosen_BTE = torch.zeros_like(probability_BTE).scatter_(
                -1, probability_BTE.topk(self.experts_per_token, dim=-1).indices, 1.0
            )
            chosen_BE = chosen_BE + (chosen_BTE * is_text_BT1).sum(1)
            probabilities_BE = probabilities_BE + (probability_BTE * is_text_BT1).sum(1)
        share = (len(with_experts) * is_text_BT1.sum((1, 2))).clamp(min=1)[:, None]
        balance_B = (chosen_BE / share * (probabilities_BE / share)).sum(1) * num_experts
        return balance_B * target_tokens(num_valid_B)


def router_loss_of(model: Any) -> RouterLoss | None:
    """The balancing loss of a language model whose configuration asks for it; None where it does not.

    ``UserError`` where transformers does not say what a router of that architecture chooses.
    """
    settings = model.config.get_text_config()
    if not getattr(settings, OUTPUT, False):
        return None
    coefficient = getattr(model, COEFFICIENT, getattr(settings, COEFFICIENT, None))
    experts_per_token = getattr(model, "num_experts_per_tok", getattr(settings, "num_experts_per_tok", None))
    if coefficient is None or experts_per_token is None:
        raise UserError(
            f"model.config.{OUTPUT} is set, but the architecture has no balancing loss that could be added",
            got=model.config.model_type,
            remedy="Remove the key",
        )
    return RouterLoss(coefficient=float(coefficient), experts_per_token=int(experts_per_token))
