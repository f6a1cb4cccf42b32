"""What a tokenizer puts before a text by itself, as transformers will where the saved model is used.

The template is the post-processor of `tokenizer.json`. From version 5 on transformers obeys it alone, and ignores
`add_bos_token` in `tokenizer_config.json`, which older versions went by: where the two differ a user is told.
"""

import json
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trainer.base.errors import DataError

PROBES = ("a", "A", "0", ".")  # texts, one of which most tokenizers can spell
MORE_PROBES = 100  # tokens of the vocabulary tried where it can spell none of them


def template_prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that come before the ids of any text; none where there is no template."""
    vocabulary = (token for token in tokenizer.get_vocab(with_added_tokens=False))
    for text in chain(PROBES, islice(vocabulary, MORE_PROBES)):
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.encode(text, add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1 if plain else 0):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start])
    return ()


def named_token(folder: Path, name: str) -> str | None:
    """The special token that a tokenizer's folder names ``name`` (`eos_token`, `bos_token`); older ones do it in
    `special_tokens_map.json` only. None where none does. ``DataError`` where a file of it cannot be read.
    """
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(folder / file).get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


def asks_for_begin(folder: Path) -> bool | None:
    """`add_bos_token` of `tokenizer_config.json`; None where it is not there."""
    asked = _read(folder / "tokenizer_config.json").get("add_bos_token")
    return asked if isinstance(asked, bool) else None


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        return dict(settings.items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        remedy = "Copy or download the tokenizer again"
        raise DataError(f"the tokenizer's {file.name} cannot be read", got=str(error), remedy=remedy) from None
