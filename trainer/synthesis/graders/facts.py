"""The names, numbers and dates in an English text, and whether another text holds them.

What counts as the same: ``1,200``, ``1200.0`` and ``twelve hundred``'s digits are one number; a number rounds another
where it has at least two digits that count and the other one rounds to it; ``5.2 million`` is 5,200,000; a decade holds
its years; a month is a name. A name is held where each of its words is, in any case, up to its ending: ``Sicilian`` is
held by ``Sicily``, ``Obama`` by ``Barack Obama``. A word that only begins a sentence is no name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property


def _counted_from(first: int, words: str, *, step: int = 1) -> dict[str, int]:
    return {word: first + step * place for place, word in enumerate(words.split())}


_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_TENS = _counted_from(20, "twenty thirty forty fifty sixty seventy eighty ninety", step=10)
_SMALL = {
    **_counted_from(
        0,
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
    ),
    **_counted_from(
        1,
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
        "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    ),
    **_TENS,
}
_NUMBER = re.compile(
    r"(?<![\w.])(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(s|st|nd|rd|th)?"
    rf"(?:[ -]({'|'.join(_SCALES)})s?)?(?!\w)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_CAPITALIZED = re.compile(r"[A-Z\u00c0-\u00de][\w\u2019'-]*")
_NAME = re.compile(rf"{_CAPITALIZED.pattern}(?: (?:of the |of |de |von |van |al-|the )?{_CAPITALIZED.pattern})*")
_BEGINS = re.compile(r"(?:^|[.!?:;]['\")\]\u201d]*\s|\n)\s*[\"'(\u201c\[*-]*\s*$")  # what stands before a sentence
_SMALL_WORDS = frozenset(
    _counted_from(
        0,
        "a an and are as at but by for from he her his i if in into is it its of on or she so that the their there "
        "these they this those to was we were what when where which while who with you your our my not no yes all "
        "however although though since after before during today despite because many most some several other",
    )
)
_LONGEST_INITIALS = 6
_STEM = 4  # letters that an ending may not touch


@dataclass(frozen=True)
class Facts:
    """What a text states that can be looked up."""

    names: frozenset[str]
    numbers: frozenset[Decimal]  # years among them
    decades: frozenset[int]  # 1990 for "the 1990s"

    def __len__(self) -> int:
        return len(self.names) + len(self.numbers) + len(self.decades)


def facts_of(text: str) -> Facts:
    """Names (of capitalized words, those that only begin a sentence left out), numbers and decades of a text."""
    numbers, decades = _numbers(text)
    return Facts(names=frozenset(_names(text)), numbers=frozenset(numbers), decades=frozenset(decades))


class Held:
    """What a source holds: answers whether facts of another text are among it."""

    def __init__(self, text: str) -> None:
        self.text = text
        numbers, decades = _numbers(text)
        self.numbers, self.decades = set(numbers) | set(_spelled(text)), set(decades)

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(_bare(word) for word in _WORD.findall(self.text))

    @cached_property
    def _stems(self) -> frozenset[str]:
        return frozenset(word[:length] for word in self._words for length in range(_STEM, len(word) + 1))

    @cached_property
    def _initials(self) -> frozenset[str]:
        firsts = ("".join(word[0] for word in _CAPITALIZED.findall(name)).lower() for name in _NAME.findall(self.text))
        return frozenset(
            each[start : start + length]
            for each in firsts
            for length in range(2, _LONGEST_INITIALS + 1)
            for start in range(len(each) - length + 1)
        )

    def missing(self, facts: Facts) -> dict[str, list[str]]:
        """Those that the source does not hold, by what they are."""
        return {
            "names": sorted(name for name in facts.names if not self.holds_name(name)),
            "numbers": [str(number) for number in sorted(facts.numbers) if not self.holds_number(number)]
            + [f"{decade}s" for decade in sorted(facts.decades) if not self._holds_decade(decade)],
        }

    def holds_name(self, name: str) -> bool:
        """Whether each word of the name is in the source, up to its ending, or the name is the initials of one."""
        return _bare(name) in self._initials or all(
            self._holds_word(_bare(word)) for word in _WORD.findall(name) if word.lower() not in _SMALL_WORDS
        )

    def _holds_word(self, word: str) -> bool:
        if word in self._words or word in _SMALL or len(word) == 1:
            return True
        # sicilian and sicily, chinese and china: alike but for their endings
        return any(word[:length] in self._stems for length in range(max(_STEM, len(word) - 3), len(word) + 1))

    def holds_number(self, number: Decimal) -> bool:
        """Whether the source has the number, or one that it rounds."""
        if number in self.numbers:
            return True
        digits = number.normalize().as_tuple()
        exponent = digits.exponent
        if len(digits.digits) < 2 or not isinstance(exponent, int):
            return False
        unit = Decimal(1).scaleb(exponent)
        return any(
            number != held and abs(held - number) * 2 <= unit and held.normalize().as_tuple().exponent < exponent  # type: ignore[operator]
            for held in self.numbers
        )

    def _holds_decade(self, decade: int) -> bool:
        return decade in self.decades or any(decade <= number < decade + 10 for number in self.numbers)


def _numbers(text: str) -> tuple[list[Decimal], list[int]]:
    numbers, decades = [], []
    for match in _NUMBER.finditer(text):
        digits, ending, scale = match.groups()
        try:
            number = Decimal(digits.replace(",", ""))
        except InvalidOperation:
            continue
        if ending in ("s", "S"):
            decades.append(int(number))
        else:
            numbers.append((number.scaleb(_SCALES[scale.lower()]) if scale else number).normalize())
    return numbers, decades


def _spelled(text: str) -> Iterable[Decimal]:
    """Small numbers and ordinals that are written in words: ``twenty-three``, ``five million``, ``third``."""
    words = [part for word in _WORD.findall(text.lower()) for part in word.split("-")]
    for place, word in enumerate(words):
        if word not in _SMALL:
            continue
        value = Decimal(_SMALL[word])
        yield value.normalize()
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in _TENS and 0 < _SMALL.get(following, 0) < 10:
            yield (value + _SMALL[following]).normalize()
        elif following in _SCALES:
            yield value.scaleb(_SCALES[following]).normalize()


def _names(text: str) -> Iterable[str]:
    for match in _NAME.finditer(text):
        words = _CAPITALIZED.findall(match[0])
        begins = bool(_BEGINS.search(text[max(0, match.start() - 12) : match.start()])) or match.start() == 0
        name = match[0]
        if begins and (len(words) == 1 or words[0].lower() in _SMALL_WORDS):
            name = name[len(words[0]) :].strip()  # no name, only the beginning of a sentence
        name = re.sub(r"^(?:of the|of|the|de|von|van) ", "", name).removesuffix("'s").removesuffix("\u2019s")
        if name and name.lower() not in _SMALL_WORDS and name.lower() not in _SMALL:
            yield name


def _bare(word: str) -> str:
    return word.lower().removesuffix("'s").removesuffix("\u2019s").strip("'\u2019-")
