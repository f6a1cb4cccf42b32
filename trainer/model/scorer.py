"""How likely texts are to a causal language model of transformers: mean loss per token, in batches."""

# B texts, T tokens, V vocabulary

from collections.abc import Sequence

from trainer.model.loss import token_losses
from trainer.model.writer import Writer

_TOKENS_AT_ONCE = 2048  # logits of as many tokens are in memory


class Scorer:
    """A model and its tokenizer, on the GPU where there is one."""

    def __init__(self, model: str) -> None:
        self._writer = Writer(model)

    def nats_per_token(self, texts: Sequence[str], *, max_tokens: int) -> list[float]:
        """Mean loss of each text's first ``max_tokens`` tokens, nats; NaN for a text without tokens.

        The first token is predicted from the token that begins a text, or, where the tokenizer has none, from the one
        that ends it.
        """
        encoded = self._encoded(texts, max_tokens)
        by_length = sorted(range(len(texts)), key=lambda index: -len(encoded[index]))
        nats = [float("nan")] * len(texts)
        batch: list[int] = []
        for index in [*by_length, None]:
            if batch and (index is None or (len(batch) + 1) * len(encoded[batch[0]]) > _TOKENS_AT_ONCE):
                for place, value in zip(batch, self._losses([encoded[i] for i in batch]), strict=True):
                    nats[place] = value
                batch = []
            if index is not None and len(encoded[index]) > 1:
                batch.append(index)
        return nats

    def _encoded(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        tokenizer, context = self._writer.tokenizer, self._writer.context
        begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        limit = max_tokens + 1 if context is None else min(max_tokens + 1, context)
        rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return [[begin, *ids][:limit] for ids in rows]

    def _losses(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        longest, device = max(map(len, rows)), self._writer.model.device
        ids_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        valid_B = torch.tensor([len(row) for row in rows], device=device)
        mask_BT = torch.arange(longest, device=device) < valid_B[:, None]
        with torch.inference_mode():
            logits_BTV = self._writer.model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).logits
            losses = token_losses(logits_BTV, ids_BT, valid_B).double().sum(1) / (valid_B - 1)
        return [float(value) for value in losses.tolist()]
