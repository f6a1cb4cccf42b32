"""Prompts as tokens of the model that is trained: in its chat format, or as the beginning of a document."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError

Encode = Callable[[str, Sequence[Mapping[str, str]]], list[int]]  # of a prompt, and what was said before it


def prompt_encoder(tokenizer_folder: Path, *, system: str | None, before: Sequence[int]) -> Encode:
    """What turns a prompt into tokens: with ``before`` in front, as a document begins in training, unless the tokenizer
    has a chat template. ``UserError`` where it has none and something was said before a prompt.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)

    def encode(prompt: str, said: Sequence[Mapping[str, str]]) -> list[int]:
        if tokenizer.chat_template is None:
            if said:
                remedy = "Ask in one turn, or train a model whose tokenizer has a chat template"
                raise UserError("the run's tokenizer has no chat format for a conversation", remedy=remedy)
            return [*before, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        messages: list[Mapping[str, str]] = [*said, {"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])

    return encode
