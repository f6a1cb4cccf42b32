"""The probes of a recipe's model, before its data are prepared: for `fit`, `check` and `plan`."""

import tempfile
from pathlib import Path

from trainer.data.config import TokenizerConfig
from trainer.data.tokenizer import build_tokenizer
from trainer.model.config import ModelConfig
from trainer.model.probes import Vocabulary, probe
from trainer.recipe import LoadedRecipe
from trainer.tools.plan.sizes import is_plain_llama
from trainer.tools.plan.vocabulary import read_tokenizer, tokenizer_file


def probe_model(loaded: LoadedRecipe, *, may_fetch: bool = False) -> list[str]:
    """What a user should know of the model of a recipe. ``UserError`` for what would ruin the run.

    Without ``may_fetch`` a model or tokenizer that is not on this disk is not probed, and that is said.
    """
    recipe = loaded.recipe
    vocabulary = vocabulary_of(recipe.data.tokenizer, loaded.folder, may_fetch=may_fetch)
    if vocabulary is None:
        return [f"the tokenizer {recipe.data.tokenizer.pretrained} is not on this disk: the model was not probed"]
    return probe(recipe.model, vocabulary, sequence_length=recipe.data.sequence_length, may_fetch=may_fetch)


def is_worth_probing(model: ModelConfig) -> bool:
    """Whether a plan, which answers in a second, should wait for the probes: not for a plain decoder from scratch."""
    return not is_plain_llama(model)


def vocabulary_of(config: TokenizerConfig, folder: Path, *, may_fetch: bool = False) -> Vocabulary | None:
    """The ids of a recipe's tokenizer (``folder`` is the recipe's); None for a hub id that was not fetched yet.

    ``DataError`` for a tokenizer that preparation could not use.
    """
    if config.train_bpe is not None:
        return Vocabulary(size=config.train_bpe)
    if tokenizer_file(str(config.pretrained), folder) is None and not may_fetch and not _is_folder(config, folder):
        return None
    with tempfile.TemporaryDirectory() as aside:
        facts = build_tokenizer(config, (), Path(aside) / "tokenizer", folder)
        ids, special = read_tokenizer(facts.folder / "tokenizer.json")
    always = {facts.end_of_document, *([] if facts.begin_of_document is None else [facts.begin_of_document])}
    tokens = {number: token for token, number in ids.items() if token not in special or number in always}
    return Vocabulary(size=facts.vocabulary_size, in_every_document=frozenset(always), tokens=tokens)


def _is_folder(config: TokenizerConfig, folder: Path) -> bool:
    return (folder / Path(str(config.pretrained)).expanduser()).is_dir()
