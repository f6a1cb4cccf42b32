"""The page reference/python-api.md: what the package offers to Python, from signatures and docstrings."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import trainer
import trainer.lightning
from trainer.recipe import LoadedRecipe
from trainer.tools.run_view import RunView
from trainer.training.run import Outcome

HEAD = """# Python API

<!-- Written by `python -m docsite`; edit the docstrings in the code instead. -->

Two modules are public: `trainer` runs recipes, `trainer.lightning` puts the mixture into a `LightningModule` of your
own. What you write to extend the trainer (policies, filters, readers, measurements, trackers) is under
[Extend](../extend/index.md).
"""
MODULES = (trainer, trainer.lightning)
RETURNED = {trainer: (RunView, Outcome, LoadedRecipe)}  # what its functions return and raise
EXAMPLE = """```python
import trainer

outcome = trainer.fit("quickstart", ["training.steps=100"], run="runs/api")
print(outcome.state, outcome.step)

run = trainer.open_run("runs/api")
print(run.history()["loss/train"][-1])
print([decision.reason for decision in run.decisions()])
print(run.batch(50)[0])  # the first sample of step 50
```"""


def page() -> str:
    """The page."""
    parts = [HEAD]
    for module in MODULES:
        parts.append(f"## {module.__name__}\n\n{_prose(module)}")
        parts += [EXAMPLE] if module is trainer else []
        parts += [
            _entry(f"{module.__name__}.{name}", getattr(module, name))
            for name in getattr(module, "__all__", ())
            if name[0] != "_"
        ]
        parts += [_entry(f"{thing.__module__}.{thing.__name__}", thing) for thing in RETURNED.get(module, ())]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _entry(name: str, thing: Any) -> str:
    if not callable(thing):
        return f"### {name}\n\n`{thing!r}`"
    parts = [f"### {name}", f"```python\n{_signature(name.rsplit('.', 1)[1], thing)}\n```", _prose(thing)]
    if inspect.isclass(thing):
        for method, function in _methods(thing):
            parts.append(f"**`{method}{_short(function)}`** {_prose(function)}")
    return "\n\n".join(part for part in parts if part)


def _methods(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself documents; hooks of Lightning are Lightning's business."""
    for name, member in vars(thing).items():
        inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        is_hook = any(hasattr(base, name) for base in thing.__mro__[1:])
        if not name.startswith("_") and not is_hook and inspect.isfunction(inner) and inner.__doc__:
            yield name, member if isinstance(member, property) else inner


def _short(function: Any) -> str:
    if isinstance(function, property):
        return ""
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    return f"({', '.join(parameters)})"


def _signature(name: str, thing: Any) -> str:
    items = list(inspect.signature(thing).parameters.values())
    parameters = [f"    {_parameter(item)}," for item in items]
    keyword_only = [item.kind is inspect.Parameter.KEYWORD_ONLY for item in items]
    if any(keyword_only):
        parameters.insert(keyword_only.index(True), "    *,")
    returns = "" if inspect.isclass(thing) else _returns(thing)
    return f"{name}(\n" + "\n".join(parameters) + f"\n){returns}" if parameters else f"{name}(){returns}"


def _parameter(item: inspect.Parameter) -> str:
    default = "" if item.default is inspect.Parameter.empty else f" = {_value(item.default)}"
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(item.kind, "")
    return f"{stars}{item.name}: {_annotation(item.annotation)}{default}"


def _value(value: object) -> str:
    if inspect.isfunction(value):
        return value.__name__
    return "..." if re.search(r" object at 0x|<factory>", repr(value)) else repr(value)


def _annotation(annotation: Any) -> str:
    return re.sub(r"\b[\w]+\.(?=[\w.]*\w)", "", inspect.formatannotation(annotation))


def _returns(thing: Any) -> str:
    annotation = inspect.signature(thing).return_annotation
    return "" if annotation is inspect.Signature.empty else f" -> {_annotation(annotation)}"


def _prose(thing: Any) -> str:
    text = inspect.cleandoc((thing.fget if isinstance(thing, property) else thing).__doc__ or "")
    return text.replace("``", "`")
