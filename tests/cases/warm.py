"""Runs `trainer` commands, each in a process of its own that is forked from one in which the imports are done.

Importing torch and what builds on it takes most of the time of a small command. Nothing but imports happens before the
fork, so what a command does is what it does from a shell: argv, environment, folder, streams, exit code.

Requests come as lines of JSON on standard input: argv, folder, environment, stdout and stderr (files). Each is answered
by two lines: the process's id when it has started, its exit code when it has ended. ``file_bytes`` is the most that a
file may grow to, as on a disk that is full (`ulimit -f`).
"""

import json
import os
import pkgutil
import resource
import sys
from importlib import import_module

import trainer
from trainer.commands.cli import main

LATE = (  # what the modules of trainer import when they are called
    "accelerate.accelerator",
    "datasets",
    "deepspeed",
    "plotly.graph_objects",
    "pyarrow.parquet",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
)


def import_all() -> None:
    """Imports all that a command may need, but what only Lightning needs."""
    for module in pkgutil.walk_packages(trainer.__path__, "trainer."):
        if not module.name.startswith("trainer.lightning") and not module.name.endswith("__main__"):
            import_module(module.name)
    for name in LATE:
        import_module(name)


def become_the_command(request: dict) -> None:
    """Takes the argv, folder, environment, streams and limit of ``request``."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    streams = ((os.devnull, os.O_RDONLY), (request["stdout"], os.O_WRONLY), (request["stderr"], os.O_WRONLY))
    for number, (file, flags) in enumerate(streams):
        os.dup2(os.open(file, flags), number)
    if request.get("file_bytes") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
    sys.argv = ["trainer", *request["argv"]]


if __name__ == "__main__":
    import_all()
    for line in sys.stdin:
        asked = json.loads(line)
        if not (pid := os.fork()):
            become_the_command(asked)
            main()
            sys.exit()
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
