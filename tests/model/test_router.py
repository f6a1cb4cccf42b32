"""The balancing loss of experts is that of transformers, sample by sample, and a sum over samples."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tests.engines.steps import bench
from trainer.base.errors import UserError
from trainer.model.router import RouterLoss, router_loss_of

KEYS = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "use_cache": False,
}
MIXTRAL = {**KEYS, "num_local_experts": 4, "router_aux_loss_coef": 0.5}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": MIXTRAL,
    "qwen3_moe": {**KEYS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "olmoe": {**KEYS, "num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {**KEYS, "num_local_experts": 4, "num_experts_per_tok": 2},
}


def model(architecture: str = "mixtral", **keys: Any) -> Any:
    torch.manual_seed(0)
    settings = AutoConfig.for_model(architecture, **{**EXPERTS[architecture], "output_router_logits": True, **keys})
    return AutoModelForCausalLM.from_config(settings).train()


@pytest.mark.parametrize("architecture", EXPERTS)
def test_each_row_has_the_loss_that_transformers_gives_it_alone(architecture: str) -> None:
    experts = model(architecture)
    router = router_loss_of(experts)
    assert router is not None
    ids = torch.randint(0, 64, (3, 12))
    num_valid = torch.tensor([12, 7, 0])
    output = experts(input_ids=ids)
    summed = router.summed(output.router_logits, num_valid)
    for row, valid in enumerate(num_valid.tolist()):
        own = tuple(logits.reshape(3, 12, -1)[row, :valid] for logits in output.router_logits)
        expected = load_balancing_loss_func(own, 4, router.experts_per_token) * (valid - 1) if valid else 0.0
        assert float(summed.detach()[row]) == pytest.approx(float(torch.as_tensor(expected).detach()), rel=1e-5)


def test_one_row_alone_has_the_auxiliary_loss_that_the_model_itself_computes() -> None:
    experts = model()
    output = experts(input_ids=torch.randint(0, 64, (1, 12)))
    router = router_loss_of(experts)
    assert router == RouterLoss(coefficient=0.5, experts_per_token=2)
    summed = router.summed(output.router_logits, torch.tensor([12])).detach()
    assert float(summed[0]) / 11 == pytest.approx(float(output.aux_loss.detach()), rel=1e-5)


def test_a_step_does_not_depend_on_how_its_batch_is_cut_and_trains_on_the_balance() -> None:
    steps = {}
    for name, micro_batch, coefficient in (("whole", 12, 0.5), ("cut", 3, 0.5), ("strong", 3, 5.0), ("none", 3, 0.0)):
        with bench(micro_batch=micro_batch, model=model(router_aux_loss_coef=coefficient)) as on:
            steps[name] = on.step()
    whole, cut = steps["whole"], steps["cut"]
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert cut.router_loss == pytest.approx(whole.router_loss, rel=1e-6)
    assert cut.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    assert steps["none"].router_loss == pytest.approx(whole.router_loss, rel=1e-6)
    assert steps["strong"].loss == pytest.approx(whole.loss, rel=1e-6)  # apart from the loss
    assert abs(steps["strong"].grad_norm - steps["none"].grad_norm) > 0.01


def test_recomputed_activations_give_the_same_gradients() -> None:
    norms = []
    for checkpointing in (False, True):
        experts = model()
        if checkpointing:
            experts.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with bench(model=experts) as on:
            norms.append(on.step().grad_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def test_a_model_without_experts_has_none_and_one_whose_experts_cannot_be_balanced_is_refused() -> None:
    assert router_loss_of(model(output_router_logits=False)) is None
    odd = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **KEYS))
    odd.config.output_router_logits = True
    with pytest.raises(UserError, match="no balancing loss"):
        router_loss_of(odd)
