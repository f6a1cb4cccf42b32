"""Templated text of several kinds: documents of one form that are different documents all the same.

Letters, logs, recipes, licenses at the head of files: most of real text that people keep is of a form. Each generator
makes a document whose own part is random, so no two of them are copies, however much of their wording they share.
"""

import random
from collections.abc import Callable

_SYLLABLES = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
_LETTER = (
    "Dear {name} we thank you for your letter and are glad to tell you that your request has been received by our "
    "office and will be dealt with in the order in which it came please keep this notice with your papers and have it "
    "at hand when you call us our lines are open on all working days between nine in the morning and five in the "
    "afternoon should you not hear from us within six weeks you may write to the address above and name the number of "
    "your case the office at {place} remains in charge of your file until it is closed with kind regards"
)
_EVENTS = (
    "{time} host{host} sshd {number} accepted key for user{user} from 10 0 {a} {b} port {port} ssh2",
    "{time} host{host} kernel usb {a} new high speed device number {b} using driver {number}",
    "{time} host{host} cron {number} session opened for user{user} by uid {a}",
    "{time} host{host} nginx {number} get index html http 200 bytes {port} client 10 0 {a} {b}",
    "{time} host{host} systemd 1 started daily cleanup of temporary directories in {a} seconds",
)
_INGREDIENTS = [
    "flour", "sugar", "butter", "salt", "milk", "eggs", "yeast", "cream", "honey", "oats", "raisins", "walnuts",
    "cinnamon", "vanilla", "cocoa", "rice", "beans", "onions", "garlic", "tomatoes", "carrots", "celery", "pepper",
    "basil", "thyme", "beef", "chicken", "pork", "shrimp", "cheese",
]  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_CHINESE = (
    "尊敬的{name}先生您好感谢您的来信我们已经收到您的申请并将按照收到的先后顺序进行处理请妥善保管本通知并在致电时"
    "随身携带我们的办公时间为工作日上午九点至下午五点{place}办事处敬上"
)
_TEST = """import pytest
from app.models import {name}

def test_{name}_can_be_created(client, db):
    response = client.post('/{name}', json={{'name': '{word}'}})
    assert response.status_code == 201
    assert response.json()['id'] is not None
    assert db.query({name}).count() == 1

def test_{name}_can_be_deleted(client, db):
    response = client.delete('/{name}/1')
    assert response.status_code == 204
    assert db.query({name}).count() == 0
"""


def word(rng: random.Random, syllables: int = 3) -> str:
    """A word that no other text has, or hardly any."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(syllables))


def _vocabulary(seed: str, size: int) -> list[str]:
    rng = random.Random(seed)
    return [word(rng) for _ in range(size)]


_NAMES, _BRANDS, _COUNTIES = _vocabulary("names", 30), _vocabulary("brands", 15), _vocabulary("counties", 25)
_CODE = _vocabulary("code", 300)
_LICENSES = [" ".join(_vocabulary(f"license {number}", 120)) for number in range(4)]
_FORMS = [_vocabulary(f"form {number}", 80) for number in range(20)]


def _letter(rng: random.Random) -> str:
    return _LETTER.format(name=word(rng, 4), place=word(rng, 4))


def _letter_of_few_names(rng: random.Random) -> str:
    text = _LETTER.format(name=rng.choice(_NAMES), place=rng.choice(_NAMES[:12]))
    return f"{text} the amount due is {rng.randint(100, 99_999)} to be paid before the {rng.randint(1, 28)} day"


def _log_line(rng: random.Random) -> str:
    return rng.choice(_EVENTS).format(
        time=f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}",
        host=rng.randint(1, 5),
        number=rng.randint(100, 32_000),
        user=rng.randint(1, 40),
        a=rng.randrange(256),
        b=rng.randrange(256),
        port=rng.randint(1024, 65_535),
    )


def _log_file(rng: random.Random) -> str:
    return "\n".join(_log_line(rng) for _ in range(30))


def _recipe(rng: random.Random) -> str:
    names = rng.sample(_INGREDIENTS, rng.randint(5, 9))
    measures = ("cups", "tablespoons", "teaspoons", "pounds")
    amounts = "\n".join(f"{rng.randint(1, 4)} {rng.choice(measures)} of {name}" for name in names)
    return (
        f"Ingredients\n{amounts}\nDirections\nPreheat the oven to {rng.choice([325, 350, 375, 400])} degrees. Mix the "
        f"{names[0]} and the {names[1]} in a large bowl. Add the {names[2]} and stir until smooth. Fold in the "
        f"{names[3]} and the {names[4]}. Pour into a greased pan and bake for {rng.randrange(20, 65, 5)} minutes. "
        f"Let it cool for {rng.randrange(5, 20, 5)} minutes before serving. Serves {rng.randint(2, 8)}."
    )


def _licensed_file(rng: random.Random) -> str:
    return f"{rng.choice(_LICENSES)}\n{' '.join(rng.choice(_CODE) for _ in range(rng.randint(30, 150)))}"


def _forecast(rng: random.Random) -> str:
    sky, winds = ("clear", "cloudy", "overcast", "rainy", "foggy"), ("north", "south", "east", "west")
    return " ".join(
        f"{day} will be {rng.choice(sky)} with a high near {rng.randint(1, 35)} and a low around "
        f"{rng.randint(-10, 20)} wind from the {rng.choice(winds)} at {rng.randint(5, 40)} km per hour chance of rain "
        f"{rng.randrange(0, 100, 10)} percent"
        for day in _DAYS
    )


def _village(rng: random.Random) -> str:
    return (
        f"{word(rng, 4).title()} is a village in the administrative district of Gmina {rng.choice(_COUNTIES)}, within "
        f"{rng.choice(_COUNTIES[:8])} County, in central Poland. It lies approximately {rng.randint(2, 30)} kilometres "
        f"{rng.choice(['north', 'south', 'east', 'west'])} of {rng.choice(_COUNTIES)} and {rng.randint(20, 90)} km "
        f"from the regional capital. The village has a population of {rng.randint(20, 900)}."
    )


def _product(rng: random.Random) -> str:
    return (
        f"Brand: {rng.choice(_BRANDS)}\nColor: {rng.choice(['red', 'green', 'blue', 'black', 'white'])}\n"
        f"Size: {rng.choice('SMLX')}\nPrice: {rng.randint(5, 200)}.99\nArticle: {rng.randint(10**5, 10**6)}\n"
        "This item ships within two working days and can be returned free of charge within thirty days of delivery in "
        "its original package. Please see our terms of sale for items that are excluded from returns."
    )


def _chinese_letter(rng: random.Random) -> str:
    own = "".join(chr(rng.randint(0x4E00, 0x9F00)) for _ in range(5))
    return _CHINESE.format(name=own[:3], place=own[3:])


def _unit_test(rng: random.Random) -> str:
    return _TEST.format(name=word(rng), word=word(rng, 2))


def _one_of_twenty_forms(rng: random.Random) -> str:
    words = list(rng.choice(_FORMS))
    words[20], words[55] = word(rng, 4), word(rng, 4)
    return " ".join(words)


FORMS: dict[str, Callable[[random.Random], str]] = {
    "letter": _letter,
    "letter of few names": _letter_of_few_names,
    "log line": _log_line,
    "log file": _log_file,
    "recipe": _recipe,
    "license header": _licensed_file,
    "weather forecast": _forecast,
    "village": _village,
    "product": _product,
    "Chinese letter": _chinese_letter,
    "unit test": _unit_test,
    "one of twenty forms": _one_of_twenty_forms,
}


def templated(kind: str, num: int, seed: int = 0) -> list[str]:
    """``num`` documents of a kind, no two of them equal."""
    rng, texts = random.Random(f"{kind} {seed}"), dict[str, None]()
    while len(texts) < num:
        texts[FORMS[kind](rng)] = None
    return list(texts)
