"""The installed packages, compared with what the package requires and what it was tested with."""

import platform
from collections.abc import Iterator
from importlib import metadata

from trainer.tools.doctor.findings import Finding, Subject

PACKAGE = "hybrid-trainer"


def check_versions(_subject: Subject) -> Iterator[Finding]:
    """Every requirement of the package is there in a version that it allows; those not tested with are named."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    try:
        requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or []]
    except metadata.PackageNotFoundError:
        yield Finding("versions", "fail", f"{PACKAGE} is not installed", "pip install -c constraints.txt -e '.[all]'")
        return
    tested, same = _tested_versions(), 0
    for need in requirements:
        is_needed = need.marker is None or need.marker.evaluate({"extra": ""})
        try:
            installed = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            if is_needed:
                yield Finding(need.name, "fail", "not installed", f"pip install '{need.name}{need.specifier}'")
            continue
        public = Version(installed).public  # 2.13.0+cpu is 2.13.0
        if not need.specifier.contains(public, prereleases=True):
            result, remedy = f"{installed}, needed is {need.specifier}", f"pip install '{need.name}{need.specifier}'"
            yield Finding(need.name, "fail" if is_needed else "warn", result, remedy)
        elif tested.get(need.name.lower(), public) != public:
            remedy = "Nothing as long as it works; else install with -c constraints.txt"
            yield Finding(need.name, "warn", f"{installed}, tested with {tested[need.name.lower()]}", remedy)
        else:
            same += 1
    system = f"Python {platform.python_version()}, {platform.system()} {platform.release()}"
    yield Finding("versions", "ok", f"{same} packages as tested; {system}")


def _tested_versions() -> dict[str, str]:
    from trainer.recipe.shipped import constraints_file

    pins = [line.split("==") for line in constraints_file().read_text().splitlines() if "==" in line and line[0] != "#"]
    return {name.lower(): version.strip() for name, version in pins}
