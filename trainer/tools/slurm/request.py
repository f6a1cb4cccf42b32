"""What is asked of a cluster, and what is wrong with it: all mistakes together, before anything waits in a queue."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trainer.base.errors import UserError

TIME_FORMS = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
WARNING_ERROR_S = 60  # SLURM may send the warning so much earlier than asked for
LARGEST_ARRAY = 1001  # SLURM's default MaxArraySize

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d{1,2}){0,2})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SECRET = re.compile(  # a word of the name; those that end no other word also at its end: APIKEY
    r"(^|_)(pat|pass|pwd|pw|auth|creds?|jwt|dsn|cookie|bearer|private|sas)\d*(_|$)"
    r"|(key|token|secret|password|passwd|passphrase|credential|webhook)s?\d*(_|$)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(  # as the large services write them, and a password in a URL
    r"^(sk|pk|rk)[-_][\w-]{16,}|^(gh[opsu]|github_pat|hf|glpat|xox[abp]|AKIA|ASIA)[-_]?\w{12,}|^eyJ[\w-]+\.eyJ"
    r"|-----BEGIN|://[^/\s:@]*:[^/\s@]+@"
)
_OPTIONS = {"environment": "--env", "options": "--sbatch", "container_mounts": "--mount", "sweep": "--array"}
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Nodes, processes and conditions of a job. ``time`` and ``memory`` as SLURM writes them; None is the cluster's
    default.
    """

    nodes: int
    gpus_per_node: int
    processes_per_node: int | None = None  # only without GPUs: on GPUs it is one process per GPU
    cpus_per_process: int = 1
    memory: str | None = None  # of a node
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    dependency: str | None = None
    container: str | None = None
    container_mounts: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()  # NAME=VALUE
    options: tuple[str, ...] = ()  # sbatch's own, as they are
    launch_file: Path | None = None
    warn_s: int = 300  # before the end
    idle_restarts: int = 2
    sweep: tuple[str, ...] = ()  # KEY=V1,V2: one array task for each combination
    at_once: int | None = None  # array tasks

    @property
    def processes(self) -> int:
        """On each node."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """On all nodes."""
        return self.nodes * self.processes


def mistakes(request: Request) -> list[UserError]:
    """All that is wrong with a request, whatever the recipe."""
    return [
        *_about_control_characters(request),
        *_about_processes(request),
        *_about_time(request),
        *_about_environment(request.environment),
        *_about_options(request.options),
        *_about_launch_file(request),
        *_about_sweep(request),
    ]


def refuse_control_characters(name: str, value: object) -> None:
    """``UserError`` for a value of the batch script that would end its line, and begin one of its own."""
    if _CONTROL.search(str(value)):
        raise UserError(f"{name} holds a control character, such as a line break", got=str(value))


def _about_control_characters(request: Request) -> Iterator[UserError]:
    for field in fields(request):
        value = getattr(request, field.name)
        for part in value if isinstance(value, tuple) else [value]:
            try:
                refuse_control_characters(_OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}"), part)
            except UserError as error:
                yield error


def seconds(time: str) -> int | None:
    """Seconds of a time limit in one of SLURM's forms; None when it is in none of them."""
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:  # D-HH[:MM[:SS]]
        hours, minutes, secs = [*parts, 0, 0][:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + secs
    hours, minutes, secs = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return (hours * 60 + minutes) * 60 + secs


def combinations(sweep: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides (`a.b=c`) of each array task: every combination of the values, the last key fastest."""
    return list(itertools.product(*([f"{key}={value}" for value in values] for key, values in map(_values, sweep))))


def _values(setting: str) -> tuple[str, list[str]]:
    """Key and values of `KEY=V1,V2`; `1-4` counts. No values where it is not of this form."""
    key, _, text = setting.partition("=")
    if (span := _RANGE.fullmatch(text.strip())) is not None:
        return key, [str(value) for value in range(int(span[1]), int(span[2]) + 1)]
    listed = f"[{text}]"
    try:
        nodes = YAML().compose(listed).value
    except YAMLError:
        return key, []
    values = [listed[node.start_mark.index : node.end_mark.index].strip() for node in nodes]
    ends_in_comma = text.rstrip().endswith(",")  # which YAML takes for none
    return key, values if key and all(values) and not ends_in_comma else []


def _about_processes(request: Request) -> Iterator[UserError]:
    if request.gpus_per_node and request.processes_per_node not in (None, request.gpus_per_node):
        yield UserError(
            "--processes-per-node is not --gpus-per-node: one process drives one GPU",
            got=request.processes_per_node,
            remedy=f"Leave it out, or ask for --gpus-per-node {request.processes_per_node}",
        )


def _about_time(request: Request) -> Iterator[UserError]:
    if request.time is None:
        return
    limit_s = seconds(request.time)
    if limit_s is None:
        yield UserError("--time is not a time limit", got=request.time, remedy=f"Write it as {TIME_FORMS}")
    elif limit_s <= request.warn_s + WARNING_ERROR_S:
        yield UserError(
            f"--time leaves nothing to train in: the warning comes {request.warn_s} s before the end, "
            f"or up to {WARNING_ERROR_S} s earlier",
            got=request.time,
            remedy="Ask for more time, or set a shorter --warn-before (a step and a checkpoint must fit into it)",
        )


def _about_environment(environment: Sequence[str]) -> Iterator[UserError]:
    for variable in environment:
        name, equals, value = variable.partition("=")
        if not equals or not _NAME.fullmatch(name):
            yield UserError("--env is not of the form NAME=VALUE", got=variable)
        elif _SECRET.search(name) or _SECRET_VALUE.search(value):
            yield UserError(
                f"--env {name} looks like a secret, and would be written into the run folder",
                remedy=f"Export {name} before `trainer submit`: SLURM hands the environment on",
            )


def _about_options(options: Sequence[str]) -> Iterator[UserError]:
    for option in options:
        if not option.startswith("-"):
            yield UserError(
                "--sbatch takes an option of sbatch", got=option, remedy="For example: --sbatch=--exclusive"
            )


def _about_launch_file(request: Request) -> Iterator[UserError]:
    if request.launch_file is None:
        return
    try:
        settings = YAML(typ="safe").load(request.launch_file)
    except (OSError, YAMLError) as error:
        yield UserError("--launch-file cannot be read", got=str(request.launch_file), remedy=str(error))
        return
    if not isinstance(settings, dict):
        yield UserError("--launch-file is not a launch file of accelerate", got=str(request.launch_file))
    elif settings.get("distributed_type") == "NO" and request.world_size > 1:
        yield UserError(
            f"--launch-file starts one process (distributed_type 'NO'), {request.world_size} are asked for",
            got=str(request.launch_file),
            remedy="Take another launch file, or none",
        )
    elif isinstance(deepspeed := settings.get("deepspeed_config"), dict) and not request.container:
        file = deepspeed.get("deepspeed_config_file")
        if file is not None and not Path(str(file)).is_file():
            yield UserError(
                "--launch-file names a DeepSpeed file that is not there: the job starts in this folder",
                got=str(file),
                remedy=f"Submit from the folder in which {file} is, or write its full path into the launch file",
            )


def _about_sweep(request: Request) -> Iterator[UserError]:
    for setting in request.sweep:
        if not _values(setting)[1]:
            yield UserError(
                "--array is not of the form KEY=V1,V2",
                got=setting,
                remedy="For example: --array seed=1-5 --array a.b=1,2",
            )
    keys = [setting.partition("=")[0] for setting in request.sweep]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        yield UserError("--array names a key twice", got=key, remedy=f"Give all its values together: {key}=V1,V2")
    if (size := len(combinations(request.sweep))) > LARGEST_ARRAY:
        yield UserError(f"--array makes {size} runs, SLURM takes {LARGEST_ARRAY} in an array")
    if request.at_once is not None and not request.sweep:
        yield UserError("--at-once limits the tasks of an array, and there is none", remedy="Add --array KEY=V1,V2")
