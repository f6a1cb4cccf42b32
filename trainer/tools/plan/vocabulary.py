"""The number of ids of a recipe's tokenizer, without training or fetching one."""

import json
from pathlib import Path

from trainer.base.errors import UserError
from trainer.data.config import TokenizerConfig


def vocabulary_size_of(config: TokenizerConfig, folder: Path) -> int:
    """Ids of the tokenizer: as asked for, or as counted in its `tokenizer.json` (``folder`` is the recipe's).

    UserError when it is an id on a hub: its size is not known here.
    """
    if config.train_bpe is not None:
        return config.train_bpe
    file = folder / Path(str(config.pretrained)).expanduser() / "tokenizer.json"
    if not file.is_file():
        remedy = "Fetch it once and give its folder"
        raise UserError(
            "the size of this tokenizer is not known without fetching it", got=config.pretrained, remedy=remedy
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    added = [token["id"] for token in content.get("added_tokens", [])]
    vocabulary = content["model"]["vocab"]  # a mapping to ids, or (unigram) a list in the order of ids
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return int(max([*ids, *added])) + 1
