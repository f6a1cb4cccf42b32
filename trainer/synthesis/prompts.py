"""Turns rows of real training data into prompts, by jinja2 templates.

The built-in templates ask for what has been shown to help: rephrasings of a text (Maini et al. 2024, arXiv:2401.16380),
questions with answers on it, its continuation, and an entry from its title alone, which shows what the generator knows.
Templates run in jinja2's sandbox; a name that a row does not have is an error, never an empty text.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainer.base.errors import DataError, UserError

TEMPLATES: Mapping[str, str] = {
    "rephrase": "Rewrite the following text in other words. Keep every fact and add none. Write only the new text.\n\n"
    "{{ text }}",
    "questions": "Write three questions that the following text answers, each followed by its answer. Use only what "
    "the text says.\n\n{{ text }}",
    "continue": "Continue the following text. Write only what comes next.\n\n{{ text }}",
    "entry": "Write a short encyclopedia entry about {{ id }}. Write only the entry.",
    "study": "Explain the following text to a student who reads about its subject for the first time.\n\n{{ text }}",
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
    except TemplateError as error:
        raise DataError(
            f"a prompt's template does not fit the row {row.get('id')!r}: {error}",
            remedy=f"The row has {', '.join(sorted(row))}; name further columns in the source's `provenance`",
        ) from error
