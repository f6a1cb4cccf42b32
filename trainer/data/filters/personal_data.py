"""Finds what points at a person: mail addresses, telephone and card numbers, IBANs, public IP addresses.

Only what can be checked counts: a card number by its check digit (Luhn 1954), an IBAN by its own (ISO 13616, mod 97)
and its country's length, a telephone number by the numbering plans of the package `phonenumbers`, an address by
whether it is public. Names of example (RFC 2606) are nobody's.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from trainer.data.filters.config import PersonalDataConfig
from trainer.data.filters.extra import required
from trainer.data.filters.protocol import Filter

_EMAIL = re.compile(r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]*@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})(?![\w-])", re.ASCII)
_NOBODYS = re.compile(r"(^|\.)(example\.(com|org|net)|example|invalid|test|localhost)$", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.,-])[2-6]\d(?:[ -]?\d){11,17}(?![\w-]|[.,]\d)", re.ASCII)
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})\d{2}(?: ?[A-Z0-9]){11,30}")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\w)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}|::[0-9A-Fa-f]{1,4})(?![\w:])", re.ASCII)
_MAYBE_PHONE = re.compile(r"\d(?:[ ().\-/\u00a0]*\d){6}")
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23GL18"
        "GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30NL18NO15"
        "PK24PL28PS29PT25QA29RO24RS22SA24SC31SD18SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
}


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether the text, without spaces, has a country's length and its check digits."""
    if len(text) != _IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def _has_email(text: str) -> bool:
    return "@" in text and any(not _NOBODYS.search(match[1]) for match in _EMAIL.finditer(text))


def _has_card(text: str) -> bool:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits):
            return True
    return False


def _has_iban(text: str) -> bool:
    for match in _IBAN.finditer(text):
        signs = match[0].replace(" ", "")  # what follows the number may look like a part of it
        if is_iban(signs[: _IBAN_LENGTHS.get(match[1], 0)]):
            return True
    return False


def _has_ip(text: str) -> bool:
    return any(_is_public(match[0]) for pattern in (_IPV4, _IPV6) for match in pattern.finditer(text))


def _is_public(text: str) -> bool:
    try:
        return ip_address(text).is_global
    except ValueError:
        return False


def _phones(region: str | None) -> Callable[[str], bool]:
    phonenumbers = required("phonenumbers", "personal_data")

    def has(text: str) -> bool:
        return bool(_MAYBE_PHONE.search(text)) and any(True for _ in phonenumbers.PhoneNumberMatcher(text, region))

    return has


def _finders(config: PersonalDataConfig) -> Iterator[tuple[str, Callable[[str], bool]]]:
    finders = {
        "email": ("a mail address", _has_email),
        "card": ("a card number", _has_card),
        "iban": ("an IBAN", _has_iban),
        "ip": ("a public IP address", _has_ip),
    }
    for name in config.find:
        yield ("a telephone number", _phones(config.phone_region)) if name == "phone" else finders[name]


def personal_data(config: PersonalDataConfig) -> Filter:
    """By the kinds that ``config`` names, in its order."""
    finders = tuple(_finders(config))

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        return next((f"holds {name}" for name, has in finders if has(text)), None)

    return reason
