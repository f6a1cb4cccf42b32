"""Turns rows of real training data into prompts, by jinja2 templates.

The built-in templates ask for what has been shown to help: rephrasings of a text (Maini et al. 2024, arXiv:2401.16380),
in several styles, questions with answers on it, its continuation, an entry from its title alone, which shows what the
generator knows, how its entities relate (EntiGraph, arXiv:2409.07431; ``pair`` and ``triple`` are names of the text),
and a study strategy of the model's own choice (Active Reading, arXiv:2508.09494).
Templates run in jinja2's sandbox; a name that a row does not have is an error, never an empty text.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainer.base.errors import DataError, UserError

_ONLY_TEXT = "Write only the new text.\n\n{{ text }}"
CRITIQUE = "critique"
TEMPLATES: Mapping[str, str] = {
    "rephrase": f"Rewrite the following text in other words. Keep every fact and add none. {_ONLY_TEXT}",
    "rephrase_simple": "Rewrite the following text in simple words and short sentences, for a child. Keep every fact "
    f"and add none. {_ONLY_TEXT}",
    "rephrase_dense": "Rewrite the following text in the terse and exact style of an encyclopedia. Keep every fact and "
    f"add none. {_ONLY_TEXT}",
    "rephrase_dialogue": "Rewrite the following text as a conversation in which one person asks and another answers. "
    f"Keep every fact and add none. {_ONLY_TEXT}",
    "questions": "Write three questions that the following text answers, each followed by its answer. Use only what "
    "the text says.\n\n{{ text }}",
    "continue": "Continue the following text. Write only what comes next.\n\n{{ text }}",
    "entry": "Write a short encyclopedia entry about {{ id }}. Write only the entry.",
    CRITIQUE: "Hold your text against these principles and name each place that goes against one, with the reason. "
    "Do not rewrite it yet.\n{% for principle in principles %}\n- {{ principle }}{% endfor %}",
    "revise": "Now write the whole text again so that nothing of your criticism applies any more. Write only the text.",
    "textbook": "Write a passage of a textbook that teaches what the following text is about, step by step, for a "
    "reader who knows nothing of it yet. Write only the passage.\n\n{{ text }}",
    "exercise": "Write an exercise about what the following text says, then its solution with every step of the "
    "reasoning.\n\n{{ text }}",
    "entities": "Explain how {{ pair }} relate to each other, by what the following text says. Write a paragraph that "
    "can be read without the text.\n\n{{ text }}",
    "entities_three": "Explain how {{ triple }} relate to one another, by what the following text says. Write a "
    "paragraph that can be read without the text.\n\n{{ text }}",
    "study": "Read the following text as one who has to remember it. Choose a way to study it that fits it (such as a "
    "summary, a timeline, flash cards, an analogy, a quiz with answers, teaching it to somebody), say which one, and "
    "carry it out. Use only what the text says.\n\n{{ text }}",
}


def template_of(text_or_name: str) -> str:
    """The text of a built-in template, or the text given."""
    return TEMPLATES.get(text_or_name, text_or_name)


def template_hash(text: str) -> str:
    """Names a template by its content: 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _compiled(text: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise UserError(
            f"a prompt's template is not valid jinja2: {error}",
            got=text[:60],
            remedy=f"Write a template over text, id and slice, or name one of {', '.join(TEMPLATES)}",
        ) from error


def check_template(text: str) -> None:
    """Raises ``UserError`` where the template cannot be compiled."""
    _compiled(text)


def render(text: str, row: Mapping[str, Any]) -> str:
    """The prompt that the template ``text`` makes of a row. ``DataError`` where it names what the row does not have."""
    try:
        return _compiled(text).render(row)
    except UserError:
        raise
    except Exception as error:  # whatever an expression in a template does: types that do not add, a division by 0
        raise DataError(
            f"a prompt's template does not fit the row {row.get('id')!r}: {error}",
            remedy=f"The row has {', '.join(sorted(row))}; name further columns in the source's `provenance`",
        ) from error
