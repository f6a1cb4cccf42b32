"""Generators: what writes synthetic texts.

One from outside is ``package.module:Name``, or an entry point of the group ``hybrid_trainer.generators``: called with
its configuration, it gives a ``Generator``. Its attribute ``Config`` is a ``trainer.base.config.Config`` with a field
``kind: str``.
"""

from typing import Annotated

from trainer.base.seams import OpenUnion, Seam
from trainer.synthesis.generators.config import EndpointConfig, TransformersConfig
from trainer.synthesis.generators.endpoint import endpoint
from trainer.synthesis.generators.protocol import Completion, Generator, GeneratorFactory, Identity, Request, Sampling
from trainer.synthesis.generators.transformers_model import transformers_model

__all__ = [
    "GENERATORS", "Completion", "Generator", "GeneratorConfig", "GeneratorFactory", "Identity", "Request", "Sampling",
]  # fmt: skip

GENERATORS: Seam[GeneratorFactory] = Seam(
    "generators", {"transformers": transformers_model, "endpoint": endpoint}, requires=("__call__",)
)
GeneratorConfig = Annotated[TransformersConfig | EndpointConfig, OpenUnion(GENERATORS)]
