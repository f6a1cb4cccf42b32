"""The page reference/cli.md: every command with its arguments and options, from the command line itself."""

from typing import Any

import typer

from docsite.pages import code, table
from trainer.commands.cli import app

HEAD = """# Commands

<!-- Written by `python -m docsite`; edit the help texts in the code instead. -->

`RECIPE` is the file of a recipe, or the name of a shipped one (`trainer recipes` lists them). `RUN` is a run folder.
`trainer COMMAND --help` prints the same. What the exit codes mean: [exit codes](exit-codes.md).
"""


def page() -> str:
    """The page."""
    group: Any = typer.main.get_command(app)
    rows = [[f"[`{name}`](#{name})", _first(command.help)] for name, command in group.commands.items()]
    parts = [HEAD, table(["command", "does"], rows)]
    parts += [_command(name, command) for name, command in group.commands.items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _command(name: str, command: Any) -> str:
    usage = " ".join(["trainer", name, *_pieces(command)])
    parts = [f"## {name}", _paragraphs(command.help), f"```text\n{usage}\n```"]
    rows = [row for parameter in command.params if (row := _row(parameter))]
    if rows:
        parts.append(table(["option", "value", "default", "meaning"], rows))
    return "\n\n".join(parts)


def _type(parameter: Any) -> str:
    return str(getattr(parameter.type_descriptor.annotation, "__name__", "")).upper()


def _pieces(command: Any) -> list[str]:
    return ["[OPTIONS]", *(str(item.metavar) for item in command.params if item.param_type_name == "argument")]


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _row(parameter: Any) -> list[str] | None:
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return None
    is_option = parameter.param_type_name == "option"
    names = ", ".join(code(name) for name in parameter.opts) if is_option else code(parameter.metavar)
    value = "" if not is_option or parameter.is_flag else code(parameter.metavar or _type(parameter))
    default = (
        "" if parameter.default in (None, False, (), []) or callable(parameter.default) else code(parameter.default)
    )
    required = parameter.required and not str(parameter.metavar).startswith("[")
    return [names, value, "**required**" if required else default, _paragraphs(parameter.help)]
