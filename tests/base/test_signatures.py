"""A part from outside whose functions do not take what they are documented to take is refused by `trainer check`."""

from pathlib import Path
from typing import Any

import pytest

from trainer.base.signatures import misfit
from trainer.recipe import RecipeError, load_recipe

HEAD = """\
from typing import Any
from trainer.base.config import Config
class Settings(Config):
    kind: str
"""
FILTER = {
    "no call": "class Part:\n    Config = Settings\n    def __init__(self, config): pass\n",
    "no config": "class Part:\n    Config = Settings\n    def __call__(self, text, columns): pass\n",
    "one argument": "class Part:\n    Config = Settings\n    def __init__(self, c): pass\n"
    "    def __call__(self, text): pass\n",
    "a function of rows": "def Part(text, columns): pass\nPart.Config = Settings\n",
}
POLICY = """\
class Part:
    kind, Config, State = "part", Settings, object
    @staticmethod
    def begin(config, shares, kinds): pass
    {decorator}
    def propose({arguments}): pass
    @staticmethod
    def needs(config, max_epochs): pass
    @staticmethod
    def explain(evidence): return ()
"""
TRACKER = "class Part:\n    Config = Settings\n    def __init__(self, config): pass\n    def begin(self, run): pass\n"


def mistakes(recipe: Path, override: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, [override], on_this_machine=False)
    return [str(mistake) for mistake in caught.value.mistakes]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Writes an importable module; its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"part_{abs(hash((request.node.name, text)))}"
        (tmp_path / f"{name}.py").write_text(HEAD + text)
        return f"{name}:Part"

    return write


@pytest.mark.parametrize("text", FILTER.values(), ids=FILTER)
def test_a_class_that_is_no_filter_is_refused(tiny_recipe: Path, module: Any, text: str) -> None:
    [message] = mistakes(tiny_recipe, f'data.filters=[{{kind: "{module(text)}"}}]')
    assert "cannot be called as a filter is" in message
    assert "Write it as" in message


@pytest.mark.parametrize(
    ("decorator", "arguments"), [("", "self, config, state, observation"), ("@staticmethod", "config, observation")]
)
def test_a_class_that_is_no_policy_is_refused(tiny_recipe: Path, module: Any, decorator: str, arguments: str) -> None:
    part = module(POLICY.format(decorator=decorator, arguments=arguments))
    [message] = mistakes(tiny_recipe, f'control.policy={{kind: "{part}"}}')
    assert "propose(config, state, observation)" in message


def test_a_policy_that_gives_something_else_than_it_must_is_one_message(tiny_recipe: Path, module: Any) -> None:
    part = module(POLICY.format(decorator="@staticmethod", arguments="config, state, observation"))
    [message] = mistakes(tiny_recipe, f'control.policy={{kind: "{part}"}}')
    assert "failed" in message
    assert part in message


@pytest.mark.parametrize(
    "rest",
    ["    def note(self): pass\n    def close(self): pass\n", "    def note(self, line): pass\n    close = None\n"],
)
def test_a_class_that_is_no_tracker_is_refused(tiny_recipe: Path, module: Any, rest: str) -> None:
    [message] = mistakes(tiny_recipe, f'tracking.trackers=[{{kind: "{module(TRACKER + rest)}"}}]')
    assert "cannot be called as a tracker is" in message


def test_a_class_that_is_no_measurement_or_reader_is_refused(tiny_recipe: Path, module: Any) -> None:
    plan = module("class Part:\n    Config = Settings\n    @staticmethod\n    def plan(config, run): pass\n")
    assert (
        "plan(config, run, *, text, sources)"
        in mistakes(tiny_recipe, f'evaluation.measurements=[{{kind: "{plan}"}}]')[0]
    )
    reader = module("class Part:\n    def read(self, file, options): pass\n")
    assert "read(file, options)" in " ".join(mistakes(tiny_recipe, f'data.sources.good.format="{reader}"'))


class Good:
    def __init__(self, config: Any, extra: int = 1) -> None: ...

    def __call__(self, text: str, columns: Any, **more: Any) -> None: ...


@pytest.mark.parametrize("part", [Good, lambda *given: None, dict, print])
def test_what_takes_more_than_it_must_and_what_is_written_in_c_passes(part: Any) -> None:
    assert misfit(part, {"": ("config",)}, {"__call__": ("text", "columns")} if part is Good else {}) is None
