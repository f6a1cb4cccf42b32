"""The terms that a generated row comes under, and where they forbid or contradict its use.

A row is made of a document, by a generator, and let in by a judge; each has terms. Terms are SPDX expressions, parsed
by `license-expression`; terms of use that are no license are named as SPDX has it, `LicenseRef-NAME`. The table below
says what well-known terms say in general, to stop what nobody should do unseen. It is no legal advice:
`synthesis.licenses.terms` states one's own reading, which counts before the table.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from license_expression import AND, OR, ExpressionError, combine_expressions, get_spdx_licensing

from trainer.base.errors import UserError
from trainer.synthesis.licenses_config import LicensesConfig, Meaning

UNKNOWN, _UNKNOWN_TERMS = "unknown", "LicenseRef-unknown"
KNOWN_TERMS: Mapping[str, Meaning] = {
    "LicenseRef-OpenAI-Terms": "forbids_training",  # output is not used to develop models that compete with OpenAI
    "LicenseRef-Anthropic-Terms": "forbids_training",  # nor to train models that compete with Anthropic's
    "LicenseRef-Gemini-API-Terms": "forbids_training",  # nor to develop models that compete with the service
    "LicenseRef-Llama-2": "forbids_training",  # nor to improve any other large language model
    "LicenseRef-Llama-3": "forbids_training",  # as Llama 2
    "LicenseRef-Llama-3.1": "conditional",  # the trained model's name begins with "Llama"
    "LicenseRef-Llama-3.2": "conditional",
    "LicenseRef-Llama-3.3": "conditional",
    "LicenseRef-Gemma": "conditional",  # a model trained on output is a derivative under the same terms
}
_SHARE_ALIKE = re.compile(r"(?:^|-)(SA|A?GPL|LGPL|ODbL|GFDL|OSL|EUPL|Sharing)(?:-|$)", re.IGNORECASE)
_WHY: Mapping[Meaning, str] = {
    "noncommercial": "allows no commercial use",
    "no_derivatives": "allows no derivatives, and a rewritten text is one",
    "share_alike": "asks that what is made of it comes under the same license",
    "forbids_training": "forbids training (other) models on what it writes",
    "conditional": "allows training on what it writes under a condition: read it",
    "unknown": "is not known",
}


@dataclass(frozen=True)
class Problem:
    """A term of an expression and what it means for rows that come under it."""

    term: str
    meaning: Meaning

    def __str__(self) -> str:
        return f"{self.term} {_WHY[self.meaning]}"


@cache
def _licensing() -> Any:
    return get_spdx_licensing()


@cache
def spdx(license_text: str) -> str:
    """The license as an SPDX expression; free words become a `LicenseRef-`."""
    if license_text == UNKNOWN:
        return UNKNOWN
    licensing = _licensing()
    try:
        parsed = licensing.parse(license_text)
        unknown = [] if parsed is None else licensing.unknown_license_keys(parsed)
        if parsed is not None and all(key.startswith("LicenseRef-") for key in unknown):
            return str(parsed)
    except ExpressionError:
        pass
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", license_text).strip("-")


@cache
def symbols_of(license_text: str) -> frozenset[str]:
    """The single licenses that an expression names; unknown names none."""
    if license_text in ("", UNKNOWN):
        return frozenset()
    return frozenset(str(symbol) for symbol in _licensing().parse(spdx(license_text)).symbols)


def together(licenses: Iterable[str]) -> str:
    """The terms of what comes under all of these; what is not known of them is part of it."""
    return _together(tuple(dict.fromkeys(licenses)))


@cache
def _together(licenses: tuple[str, ...]) -> str:
    terms = list(dict.fromkeys(map(spdx, licenses)))
    if not terms or terms == [UNKNOWN]:
        return UNKNOWN
    terms = [_UNKNOWN_TERMS if term == UNKNOWN else term for term in terms]
    return str(combine_expressions(terms, relation="AND", unique=True, licensing=_licensing()))


def problems_of(license_text: str, own: Mapping[str, Meaning]) -> list[Problem]:
    """What the terms mean for use as training data; of alternatives (OR) those of the one with the fewest."""
    expression = spdx(license_text)
    if expression == UNKNOWN:
        return [Problem(license_text, own.get(UNKNOWN, "unknown"))] if own.get(UNKNOWN) != "allowed" else []
    return sorted(set(_problems(_licensing().parse(expression), own)), key=str)


def _problems(node: Any, own: Mapping[str, Meaning]) -> list[Problem]:
    if isinstance(node, OR | AND) or (hasattr(node, "args") and node.args):
        parts = [_problems(argument, own) for argument in node.args]
        return min(parts, key=len) if isinstance(node, OR) else [problem for part in parts for problem in part]
    meaning = _meaning(str(node), own)
    return [] if meaning == "allowed" else [Problem(str(node), meaning)]


def _meaning(term: str, own: Mapping[str, Meaning]) -> Meaning:
    if term in own or term in KNOWN_TERMS:
        return own.get(term) or KNOWN_TERMS[term]
    if term.startswith("LicenseRef-"):
        return "unknown"
    if "-ND" in term:
        return "no_derivatives"
    if "-NC" in term:
        return "noncommercial"
    return "share_alike" if _SHARE_ALIKE.search(term) else "allowed"


def check_licenses(config: LicensesConfig, parties: Mapping[str, str]) -> Iterator[str]:
    """Warnings about the terms of what makes rows (``parties``: "source books" -> its license). ``UserError`` where the
    recipe refuses them.
    """
    own = {spdx(name): meaning for name, meaning in config.terms.items()}
    share_alike: dict[str, str] = {}
    for party, license_text in parties.items():
        for problem in problems_of(license_text, own):
            if problem.meaning == "share_alike":
                share_alike.setdefault(problem.term, party)
            else:
                yield from _told(getattr(config, problem.meaning), f"{party}: {problem}", key=problem.meaning)
    if len(share_alike) > 1:
        both = " and ".join(f"{term} ({party})" for term, party in share_alike.items())
        what = f"each asks that what is made of it comes under its own terms: {both}"
        yield from _told(config.share_alike_mix, what, key="share_alike_mix")


def _told(action: str, what: str, *, key: str) -> Iterator[str]:
    if action == "refuse":
        remedy = f"Use another, state your own reading in synthesis.licenses.terms, or set synthesis.licenses.{key}"
        raise UserError(f"rows may not be made under these terms: {what}", remedy=remedy)
    if action == "warn":
        yield f"{what} (synthesis.licenses.{key}: warn)"
