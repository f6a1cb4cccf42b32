"""Texts of the model that is trained, between two steps: sampled in batches, each by one rank.

A batch is the unit: its texts follow from its prompts and its seed, whichever rank writes it, so that they do not
depend on the number of ranks. Where a forward needs all ranks (FSDP2, ZeRO-3) every rank makes as many of them: one
that has nothing to write, or is done early, makes empty ones until the last is done.
"""

# B prompts of a batch, P tokens of the longest of them

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trainer.engines.replicated import bare

if TYPE_CHECKING:
    from trainer.engines.protocols import Sharding


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Prompts that are continued together, sampled alike. ``temperature`` 0 is greedy."""

    prompts: Sequence[Sequence[int]]
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


def context_of(sharding: "Sharding") -> int | None:
    """Tokens that prompt and text may have together; None where the model does not say."""
    length: int | None = getattr(bare(sharding.model).config.get_text_config(), "max_position_embeddings", None)
    return length


def written(sharding: "Sharding", batch: TextBatch | None, *, end: int, device: torch.device) -> list[list[int]]:
    """(all) The new tokens of each prompt, up to and without ``end``; ``batch`` is this rank's own, None where there is
    none left for it.
    """
    if batch is None and not sharding.forwards_together:
        return []
    idle = TextBatch(prompts=[[end]], temperature=0.0, top_p=1.0, max_new_tokens=1, seed=0)
    asked = batch or idle
    with _writing(sharding, device) as model:
        new = _sampled(model, asked, end=end, device=device, synced=sharding.forwards_together)
    return [] if batch is None else [_up_to(end, tokens) for tokens in new]


@contextmanager
def _writing(sharding: "Sharding", device: torch.device) -> Iterator[Any]:
    """The language model set to write; afterwards it is as it was, and so is the random state."""
    model = bare(sharding.model)
    compiled, model._compiled_call_impl = getattr(model, "_compiled_call_impl", None), None  # lengths differ
    devices = [device] if device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield model
    finally:
        model.train()
        model._compiled_call_impl = compiled
        sharding.release()


def _sampled(model: Any, batch: TextBatch, *, end: int, device: torch.device, synced: bool) -> list[list[int]]:
    width = max(map(len, batch.prompts))
    ids_BP = torch.full((len(batch.prompts), width), end)
    mask_BP = torch.zeros_like(ids_BP)
    for row, prompt in enumerate(batch.prompts):  # on the right, as a decoder needs it
        ids_BP[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask_BP[row, width - len(prompt) :] = 1
    chosen: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if batch.temperature > 0:
        chosen = {"do_sample": True, "temperature": batch.temperature, "top_p": batch.top_p, "top_k": 0}
    torch.manual_seed(batch.seed)
    out = model.generate(
        input_ids=ids_BP.to(device),
        attention_mask=mask_BP.to(device),
        max_new_tokens=batch.max_new_tokens,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=True,
        synced_gpus=synced,
        **chosen,
    )
    new: list[list[int]] = out[:, width:].tolist()
    return new


def _up_to(end: int, tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
