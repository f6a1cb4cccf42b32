"""The ids of a recipe's tokenizer, without training or fetching one."""

import json
from collections.abc import Mapping
from pathlib import Path

from trainer.base.errors import DataError, UserError
from trainer.data.config import TokenizerConfig

TOKENIZER = "tokenizer.json"


def vocabulary_size_of(config: TokenizerConfig, folder: Path) -> int:
    """Ids of the tokenizer: as asked for, or as counted in its `tokenizer.json` (``folder`` is the recipe's).

    UserError when it is an id on a hub that was not fetched: its size is not known here.
    """
    if config.train_bpe is not None:
        return config.train_bpe
    file = tokenizer_file(str(config.pretrained), folder)
    if file is None:
        remedy = "Fetch it once and give its folder"
        raise UserError(
            "the size of this tokenizer is not known without fetching it", got=config.pretrained, remedy=remedy
        )
    ids, _ = read_tokenizer(file)
    return max(ids.values()) + 1


def tokenizer_file(pretrained: str, folder: Path) -> Path | None:
    """The `tokenizer.json` of a folder, or of a hub id that was fetched before; None where there is none."""
    file = folder / Path(pretrained).expanduser() / TOKENIZER
    if file.is_file():
        return file
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(pretrained, TOKENIZER)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def read_tokenizer(file: Path) -> tuple[Mapping[str, int], frozenset[str]]:
    """The ids of all tokens, and the special tokens among them, which no text spells. ``DataError`` where the file is
    not a tokenizer's.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]  # a mapping to ids, or (unigram) a list in the order of ids
        ids = (
            {str(token): int(number) for token, number in vocabulary.items()}
            if isinstance(vocabulary, dict)
            else {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        )
        added = content.get("added_tokens") or []
        ids |= {str(token["content"]): int(token["id"]) for token in added}
        if not ids:
            raise ValueError("no tokens")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(
            "this is not a tokenizer of the `tokenizers` library",
            got=f"{type(error).__name__}: {error}",
            remedy="Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            file=file,
        ) from None
    return ids, frozenset(str(token["content"]) for token in added if token.get("special"))
