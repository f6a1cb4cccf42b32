"""The probes of a recipe's model, before its data are prepared: for `fit`, `check` and `plan`."""

from pathlib import Path

from trainer.data.config import TokenizerConfig
from trainer.data.tokenizer_template import named_token
from trainer.model.config import ModelConfig
from trainer.model.probes import Vocabulary, probe
from trainer.recipe import LoadedRecipe
from trainer.tools.plan.sizes import is_plain_llama
from trainer.tools.plan.vocabulary import read_tokenizer, tokenizer_file


def probe_model(loaded: LoadedRecipe) -> list[str]:
    """What a user should know of the model of a recipe. ``UserError`` for what would ruin the run."""
    recipe = loaded.recipe
    vocabulary = vocabulary_of(recipe.data.tokenizer, loaded.folder)
    if vocabulary is None:
        return [f"the tokenizer {recipe.data.tokenizer.pretrained} is not on this disk; the model was not probed"]
    return probe(recipe.model, vocabulary, sequence_length=recipe.data.sequence_length)


def is_worth_probing(model: ModelConfig) -> bool:
    """Whether a plan, which answers in a second, should wait for the probes: not for a plain decoder from scratch."""
    return not is_plain_llama(model)


def vocabulary_of(config: TokenizerConfig, folder: Path) -> Vocabulary | None:
    """The ids of a recipe's tokenizer (``folder`` is the recipe's); None for a hub id that was not fetched yet."""
    if config.train_bpe is not None:
        return Vocabulary(size=config.train_bpe)
    file = tokenizer_file(str(config.pretrained), folder)
    if file is None:
        return None
    ids, special = read_tokenizer(file)
    end = config.end_of_document or named_token(file.parent, "eos_token")
    tokens = {number: token for token, number in ids.items() if token not in special or token == end}
    return Vocabulary(size=max(ids.values()) + 1, end_of_document=ids.get(end or "", 0), tokens=tokens)
