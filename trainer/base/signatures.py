"""Whether a part from outside can be called as it is documented, found without calling it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Arguments = tuple[str, ...]  # positional ones by their documented names; from a "*" on by keyword


def misfit(part: object, calls: Mapping[str, Arguments], methods: Mapping[str, Arguments]) -> tuple[str, str] | None:
    """What of a part is not called as documented, and how it is; None where all fits.

    ``calls`` are called on the part as it was named ("" is the part itself), ``methods`` on what the part makes, which
    is known where it is a class. What is written in C tells no signature and passes.
    """
    for name, arguments in calls.items():
        found = getattr(part, name) if name else part
        if not callable(found) or not _takes(found, arguments):
            return _shown(name or "it", found), f"{name or 'its call'}({', '.join(arguments)})"
    if isinstance(part, type):
        for name, arguments in methods.items():
            method = _method(part, name)
            if method is None or not _takes(method, arguments):
                return _shown(name, method), f"{name}({', '.join(('self', *arguments))})"
    return None


def _method(part: type, name: str) -> Callable[..., Any] | None:
    """A method of the instances of a class, without its first argument; None where they have none.

    Not ``getattr``: every class can be called, and so has a ``__call__``, of its own making.
    """
    found = next((vars(base)[name] for base in part.__mro__ if name in vars(base)), None)
    if found is None:
        return None
    bound = found.__get__(object(), part) if hasattr(found, "__get__") else found
    return bound if callable(bound) else None


def _takes(function: Callable[..., Any], arguments: Arguments) -> bool:
    star = arguments.index("*") if "*" in arguments else len(arguments)
    try:
        inspect.signature(function).bind(*arguments[:star], **dict.fromkeys(arguments[star + 1 :]))
    except TypeError:
        return False
    except ValueError:  # no signature
        return True
    return True


def _shown(name: str, function: object) -> str:
    try:
        return f"{name}{inspect.signature(function)}" if callable(function) else f"{name} is not a function"
    except (TypeError, ValueError):
        return name
