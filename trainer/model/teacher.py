"""A teacher: a causal language model that says, for each token of a sample, which tokens it expects next.

It reads the very samples that the student is trained on, token for token, so that both see the same context.
"""

# N rows, T tokens, V vocabulary, k likeliest tokens, K = k + 1

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.base.errors import UserError
from trainer.model.writer import load_frozen


class Teacher:
    """The model in a folder or of a hub id, on the GPU (in bf16) where there is one, else on the CPU (in fp32).

    ``UserError`` where it has fewer ids than the tokenizer, or a context shorter than a sample.
    """

    def __init__(self, model: str, *, vocabulary_size: int, sequence_length: int, top_k: int) -> None:
        self.top_k, self._vocabulary_size = top_k, vocabulary_size
        self._model: Any = load_frozen(model, "teacher")
        settings = self._model.config.get_text_config()
        context = getattr(settings, "max_position_embeddings", None)
        if isinstance(context, int) and context < sequence_length:
            remedy = f"At most {context} tokens in data.sequence_length, or another teacher"
            raise UserError("the teacher's context is shorter than a sample", got=context, remedy=remedy)
        if (rows := int(self._model.get_input_embeddings().weight.shape[0])) < vocabulary_size:
            remedy = "Take a teacher that was trained with this tokenizer"
            raise UserError(f"the teacher has {rows} ids and the tokenizer {vocabulary_size}", got=model, remedy=remedy)
        if top_k >= vocabulary_size:
            remedy = f"At most {vocabulary_size - 1}, one fewer than the tokenizer has ids"
            raise UserError("data.teacher.top_k leaves no token for the rest", got=top_k, remedy=remedy)

    def distributions(self, ids_NT: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """The likeliest next tokens [N, T, k] after each token, the likeliest first, and the log-probabilities
        [N, T, K] in nats of these and of all others together. Ids that no tokenizer gives count with the others.
        """
        import torch

        with torch.inference_mode():
            logits = self._model(input_ids=torch.from_numpy(ids_NT).to(self._model.device)).logits.float()
            whole = torch.logsumexp(logits, -1, keepdim=True)
            top = logits[..., : self._vocabulary_size].topk(self.top_k, -1)
            logits.scatter_(-1, top.indices, -torch.inf)
            rest = torch.logsumexp(logits, -1, keepdim=True)
            log_probabilities = torch.cat([top.values, rest], -1) - whole
            if not torch.isfinite(log_probabilities[..., 0]).all():
                raise UserError("the teacher gives probabilities that are not finite", remedy="Check its weights")
            return top.indices.cpu().numpy(), log_probabilities.half().cpu().numpy()

    def close(self) -> None:
        """Give the device's memory back."""
        import torch

        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
