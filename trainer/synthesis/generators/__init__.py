"""Generators: what writes synthetic texts.

One from outside is ``package.module:Name``, or an entry point of the group ``hybrid_trainer.generators``: called with
its configuration, it gives a ``Generator``. Its attribute ``Config`` is a ``trainer.base.config.Config`` with a field
``kind: str``.
"""

from typing import Annotated

from trainer.base.seams import OpenUnion, Seam
from trainer.synthesis.generators.config import EndpointConfig, FilesConfig, RunConfig, TransformersConfig
from trainer.synthesis.generators.endpoint import endpoint
from trainer.synthesis.generators.files import files
from trainer.synthesis.generators.protocol import (
    Completion,
    Generator,
    GeneratorFactory,
    Identity,
    Message,
    Request,
    Sampling,
    TokenLogprobs,
)
from trainer.synthesis.generators.run_model import run_model
from trainer.synthesis.generators.transformers_model import transformers_model

__all__ = [
    "GENERATORS", "Completion", "FilesConfig", "Generator", "GeneratorConfig", "GeneratorFactory", "Identity",
    "Message", "Request", "Sampling", "TokenLogprobs",
]  # fmt: skip

GENERATORS: Seam[GeneratorFactory] = Seam(
    "generators",
    {"transformers": transformers_model, "endpoint": endpoint, "files": files, "run": run_model},
    requires=("__call__",),
)
GeneratorConfig = Annotated[TransformersConfig | EndpointConfig | FilesConfig | RunConfig, OpenUnion(GENERATORS)]
