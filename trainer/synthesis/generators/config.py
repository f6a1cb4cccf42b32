"""What a recipe says of a generator."""

from typing import Literal

from pydantic import Field

from trainer.base.config import Config


class TransformersConfig(Config):
    """A model of transformers in this process, on the GPU where there is one."""

    kind: Literal["transformers"] = "transformers"
    model: str | None = Field(
        None, description="folder as `save_pretrained` writes it, relative to the recipe, or a hub id; or `--from RUN`"
    )
    license: str = Field("unknown", min_length=1, description="SPDX expression of the model's license")
    batch: int = Field(16, ge=1, le=4096, description="texts written at the same time; changes no setting of a text")
    system: str | None = Field(None, description="system message, where the model's chat template has one")


class EndpointConfig(Config):
    """A server with the OpenAI API: vLLM, SGLang, llama.cpp, `transformers serve`, or a hosted one."""

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(pattern=r"^https?://", description="base URL, usually ending in /v1")
    model: str = Field(min_length=1, description="the model's name at the server; another one there is refused")
    license: str = Field("unknown", min_length=1, description="SPDX expression or terms that the texts come under")
    api_key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    system: str | None = Field(None, description="system message")
    max_concurrency: int = Field(
        64, ge=1, le=4096, description="calls in flight at most; fewer while the server refuses"
    )
    timeout_s: float = Field(120.0, gt=0, description="a call that takes longer is tried again")
    retries: int = Field(5, ge=0, le=100, description="further tries of a call before its text counts as failed")
    give_up_after: int = Field(
        20, ge=1, description="the round stops, and can be resumed, after so many failed calls in a row"
    )
