import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import trainer
from trainer.recipe import shipped_folder

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    requirement_names = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in requirements}
    return requirement_names - {"hybrid-trainer"}


def test_every_constraint_is_one_version_and_every_direct_dependency_has_one() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    assert names(PROJECT["dependencies"]) | names(extras) <= {name.lower() for name in pins}


def test_every_dependency_is_used() -> None:
    text = "\n".join(file.read_text() for file in (ROOT / "trainer").rglob("*.py"))
    imported = {word.lower() for word in re.findall(r"^\s*(?:import|from) (\w+)", text, flags=re.MULTILINE)}
    modules = {name: module_of(name) for name in names(PROJECT["dependencies"])}
    imported |= set(re.findall(r"files\(\"(\w+)\"\)", text))  # plotly: its script goes into the report

    assert {name for name, module in modules.items() if module not in imported} == set()


def test_everything_that_is_imported_is_declared() -> None:
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    declared = {module_of(name) for name in names(PROJECT["dependencies"]) | names(extras)}
    imported: set[str] = set()
    for file in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert imported - declared - set(sys.stdlib_module_names) - {"trainer"} == set()


def module_of(name: str) -> str:
    """The module that a package's name stands for."""
    named_otherwise = {"nvidia-ml-py": "pynvml"}
    return named_otherwise.get(name, name.split(".")[0].replace("-", "_"))


def test_the_set_up_names_no_host() -> None:
    for file in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run", ".ci/set-up"):
        text = (ROOT / file).read_text()
        assert "://" not in text
        assert "index-url" not in text


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == trainer.__version__
    assert (
        f"## {trainer.__version__}" in (ROOT / "CHANGELOG.md").read_text()
        or "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_every_make_target_is_in_the_readme() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert [target for target in targets.split() if f"make {target}" not in readme] == []


def test_a_checkout_finds_its_recipes() -> None:
    assert shipped_folder("recipes") == ROOT / "recipes"


@pytest.mark.slow
def test_an_installed_wheel_brings_the_recipes_with_their_data(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"hybrid_trainer-{trainer.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in files} == {"trainer", f"hybrid_trainer-{trainer.__version__}.dist-info"}
    shipped = {
        f"recipes/{file.relative_to(ROOT / 'recipes')}" for file in (ROOT / "recipes").rglob("*") if file.is_file()
    }
    shipped |= {
        f"launch/{file.relative_to(ROOT / 'launch')}" for file in (ROOT / "launch").rglob("*") if file.is_file()
    }
    shipped.add("constraints.txt")
    assert {f"trainer/shipped/{name}" for name in shipped} <= set(files)
    code = "import trainer.recipe as r; print(r.__file__); [r.load_recipe(s.path) for s in r.shipped_recipes()]"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, env={"PYTHONPATH": "."}
    )
    assert process.returncode == 0, process.stderr
    assert str(tmp_path / "site") in process.stdout
