import json
import sys
from importlib.metadata import EntryPoint
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from trainer.base import seams
from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.seams import OpenUnion, Seam


class PlainConfig(Config):
    kind: Literal["plain"] = "plain"
    size: int = 1
    marks: tuple[str, ...] = ()


class RoundConfig(Config):
    kind: Literal["round"]


class Plain:
    Config = PlainConfig

    @staticmethod
    def apply() -> str:
        return "plain"


class Outside:
    class Config(Config):
        kind: str
        width: int = Field(default=2, ge=1)
        color: str = "red"
        marks: tuple[str, ...] = ()

        @field_validator("color")
        @classmethod
        def _is_a_color(cls, value: str) -> str:
            if value == "loud":
                raise PydanticCustomError("not_a_color", "{braces} are no color")
            return value

    @staticmethod
    def apply() -> str:
        return "outside"


class WithoutConfig:
    @staticmethod
    def apply() -> str:
        return "bare"


class Unfit:
    Config = Outside.Config


SHAPES: Seam[type[Plain]] = Seam("shapes", {"plain": Plain, "round": Plain}, requires=("apply",))
OUTSIDE = f"{__name__}:Outside"


class Section(BaseModel):
    shape: Annotated[PlainConfig | RoundConfig, OpenUnion(SHAPES)] = Field(default_factory=PlainConfig)
    others: list[Annotated[PlainConfig | RoundConfig, OpenUnion(SHAPES)]] = []


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Outside.__module__])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Seam[type[Plain]]:
    """A fresh seam, with an entry point of its group installed."""
    entry = EntryPoint(name="star", value=OUTSIDE, group="hybrid_trainer.shapes")
    entries = {"hybrid_trainer.shapes": [entry]}
    monkeypatch.setattr(seams, "entry_points", lambda group: entries.get(group, []))
    return Seam("shapes", {"plain": Plain}, requires=("apply",))


def test_a_kind_of_the_table_is_its_part() -> None:
    assert SHAPES.resolve("plain") is Plain


def test_an_import_path_is_a_kind() -> None:
    assert SHAPES.resolve(OUTSIDE) is Outside
    assert Seam("parts", {}).resolve("json:decoder.JSONDecoder").__name__ == "JSONDecoder"


def test_an_entry_point_of_the_group_is_a_kind(installed: Seam[type[Plain]]) -> None:
    assert installed.resolve("star") is Outside
    assert installed.kinds() == ("plain", "star")


def test_a_built_in_kind_is_not_taken_over_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name="plain", value=OUTSIDE, group="hybrid_trainer.shapes")
    monkeypatch.setattr(seams, "entry_points", lambda group: [entry])
    assert SHAPES.resolve("plain") is Plain
    assert SHAPES.kinds() == ("plain", "round")


@pytest.mark.parametrize(
    ("kind", "what", "remedy"),
    [
        ("plian", "no shape of this kind", "Did you mean 'plain'"),
        ("zzz", "no shape of this kind", "Known: plain, round; or package.module:Name"),
        ("a b:C", "not an import path of a shape", "package.module:Name"),
        ("json:", "not an import path of a shape", "package.module:Name"),
        ("json:JSONDecodr", "json has no 'JSONDecodr'", "Did you mean 'JSONDecoder'"),
        ("no_such_package.inner:Name", "cannot be imported: ModuleNotFoundError", "Install the package"),
        (f"{__name__}:Section", "lacks apply", "A shape has apply"),
    ],
)
def test_a_kind_that_names_no_part_is_an_error_with_a_remedy(kind: str, what: str, remedy: str) -> None:
    with pytest.raises(UserError) as raised:
        SHAPES.resolve(kind)
    assert what in raised.value.what
    assert remedy in (raised.value.remedy or "")


def test_a_module_that_fails_when_imported_is_named_with_its_error(tmp_path, monkeypatch) -> None:
    (tmp_path / "breaks_at_import.py").write_text("1 / 0\n")
    (tmp_path / "needs_another.py").write_text("import not_there_either\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="ZeroDivisionError: division by zero"):
        SHAPES.resolve("breaks_at_import:Name")
    with pytest.raises(UserError, match="It needs 'not_there_either', which is not installed"):
        SHAPES.resolve("needs_another:Name")


def test_a_section_of_a_built_in_kind_is_strict() -> None:
    assert Section.model_validate({"shape": {"kind": "plain", "size": 3}}).shape == PlainConfig(size=3)
    with pytest.raises(ValidationError) as raised:
        Section.model_validate({"shape": {"kind": "plain", "width": 3}})
    assert [(error["type"], error["loc"]) for error in raised.value.errors()] == [
        ("extra_forbidden", ("shape", "built-in", "plain", "width"))
    ]


def test_a_section_of_an_outside_kind_is_validated_by_its_own_configuration() -> None:
    shape = Section.model_validate({"shape": {"kind": OUTSIDE, "width": "3"}}).shape
    assert isinstance(shape, Outside.Config)
    assert (shape.kind, shape.width) == (OUTSIDE, 3)


def test_mistakes_of_an_outside_section_stand_at_their_own_path() -> None:
    wrong = {"kind": OUTSIDE, "width": 0, "hight": 1, "color": "loud"}
    with pytest.raises(ValidationError) as raised:
        Section.model_validate({"shape": wrong, "others": [{"kind": "plain"}, {"kind": OUTSIDE, "width": "x"}]})
    assert [(error["type"], error["loc"]) for error in raised.value.errors()] == [
        ("greater_than_equal", ("shape", "outside", "Config", "width")),
        ("not_a_color", ("shape", "outside", "Config", "color")),
        ("extra_forbidden", ("shape", "outside", "Config", "hight")),
        ("int_parsing", ("others", 1, "outside", "Config", "width")),
    ]
    assert "{braces} are no color" in str(raised.value)


def test_a_section_of_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ValidationError) as raised:
        Section.model_validate({"shape": {"kind": "plian"}})
    (error,) = raised.value.errors()
    assert (error["type"], error["loc"]) == ("union_tag_invalid", ("shape", "outside"))
    assert error["ctx"]["expected_tags"] == "'plain', 'round'"


@pytest.mark.parametrize("kind", ["no_such_package:Name", f"{__name__}:WithoutConfig"])
def test_an_outside_kind_that_cannot_be_used_is_a_mistake_at_kind(kind: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Section.model_validate({"shape": {"kind": kind}})
    (error,) = raised.value.errors()
    assert (error["type"], error["loc"]) == ("value_error", ("shape", "outside", "kind"))


def test_a_configuration_survives_being_written_and_read_again() -> None:
    tree = {"shape": {"kind": OUTSIDE, "width": 3, "color": "red", "marks": ["a"]}, "others": [{"kind": "round"}]}
    section = Section.model_validate(tree)
    assert section.model_dump(mode="json") == tree
    assert Section.model_validate(section) == section
    assert Section.model_validate_json(section.model_dump_json()) == section
    assert Section.model_validate({"shape": section.shape}).shape == section.shape


def test_the_schema_is_strict_for_built_in_kinds_and_open_for_import_paths() -> None:
    validator = jsonschema.Draft202012Validator(Section.model_json_schema())
    assert validator.is_valid({"shape": {"kind": "plain", "size": 2}})
    assert validator.is_valid({"shape": {"kind": "package.module:Name", "anything": 1}})
    assert not validator.is_valid({"shape": {"kind": "plain", "width": 2}})
    assert not validator.is_valid({"shape": {"kind": "plian"}})


def test_the_schema_knows_installed_entry_points(installed: Seam[type[Plain]]) -> None:
    class Open(BaseModel):
        shape: Annotated[PlainConfig, OpenUnion(installed)]

    validator = jsonschema.Draft202012Validator(Open.model_json_schema())
    assert validator.is_valid({"shape": {"kind": "star", "width": 3}})
    assert not validator.is_valid({"shape": {"kind": "sun"}})
    assert Open.model_validate({"shape": {"kind": "star", "width": 3}}).shape.width == 3


@pytest.mark.parametrize("kind", ["plain", OUTSIDE])
def test_a_recipe_is_strict_and_takes_a_list_for_a_tuple_whatever_the_kind(kind: str) -> None:
    section = Section.model_validate_json(json.dumps({"shape": {"kind": kind, "marks": ["a", "b"]}}), strict=True)
    assert section.shape.marks == ("a", "b")
    field = "size" if kind == "plain" else "width"
    with pytest.raises(ValidationError) as raised:
        Section.model_validate_json(json.dumps({"shape": {"kind": kind, field: "3"}}), strict=True)
    assert [(error["type"], error["loc"][-1]) for error in raised.value.errors()] == [("int_type", field)]
