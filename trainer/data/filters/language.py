"""Drops documents by the language that they are written in, told by the package `py3langid` (97 languages, offline)."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from trainer.data.filters.config import LanguageConfig
from trainer.data.filters.extra import required
from trainer.data.filters.protocol import Filter


@cache
def _identifier() -> Any:
    module = required("py3langid.langid", "language")
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)


def language(config: LanguageConfig) -> Filter:
    """By the likeliest language and its probability."""
    identifier = _identifier()
    unknown = sorted(set(config.keep) - set(identifier.labels))
    if unknown:
        raise ValueError(f"no language of py3langid: {', '.join(unknown)}")

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        if len(text) < config.min_characters:
            return None
        label, probability = identifier.classify(text)
        if label not in config.keep:
            return f"in the language {label}"
        if probability < config.min_probability:
            return f"less surely in the language {label} than {config.min_probability:g}"
        return None

    return reason
