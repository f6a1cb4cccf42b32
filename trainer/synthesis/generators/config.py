"""What a recipe says of a generator."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from trainer.base.config import Config
from trainer.data.source_config import Format


class TransformersConfig(Config):
    """A model of transformers in this process, on the GPU where there is one."""

    kind: Literal["transformers"] = "transformers"
    model: str | None = Field(
        None, description="folder as `save_pretrained` writes it, relative to the recipe, or a hub id; or `--from RUN`"
    )
    license: str = Field("unknown", min_length=1, description="SPDX expression of the model's license")
    batch: int = Field(16, ge=1, le=4096, description="texts written at the same time; changes no setting of a text")
    system: str | None = Field(None, description="system message, where the model's chat template has one")


class RunConfig(Config):
    """The model of the run itself, written between two steps by all its processes; only with `synthesis.every`."""

    kind: Literal["run"] = "run"
    license: str = Field("unknown", min_length=1, description="SPDX expression or terms that the texts come under")
    batch: int = Field(16, ge=1, le=4096, description="texts that a process writes at the same time")
    system: str | None = Field(None, description="system message, where the tokenizer has a chat template")


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
    retry_share: float = Field(
        0.2, ge=0, le=10, description="retries of a round, for each answer; more calls that fail count as failed"
    )
    pause_s: float = Field(
        0.5, gt=0, le=60, description="before a call is tried again, doubled each time up to a minute"
    )
    opens_after: int = Field(
        10, ge=1, description="failures in a row after which one call at a time asks whether the server is back"
    )
    give_up_after: int = Field(
        20, ge=1, description="the round stops, and can be resumed, after so many failed calls in a row"
    )
    longest_wait_s: float = Field(
        600.0, gt=0, description="the round stops, and can be resumed, where the server asks to wait longer"
    )
    cache: Path | None = Field(
        None, description="folder of answers that any round of any recipe takes from, relative to the recipe"
    )


class FileColumns(Config):
    """Where a row of another engine has what: a column, or a place inside one, as `metadata.usage.prompt_tokens`."""

    text: str | None = Field(None, description="the text; default: `text`, or the last answer in `messages`")
    messages: str | None = Field(None, description="a list of role and content")
    prompt: str | None = Field(None, description="what the engine's model was asked")
    prompt_name: str | None = Field(None, description="the way it was asked, which rows are counted under")
    source_id: str | None = Field(None, description="id of the real row that it was made from, in synthesis.sources")
    slice: str | None = Field(None, description="default: that of the real row")
    generator: str | None = Field(None, description="the model that wrote it; default: generator.written_by")
    temperature: str | None = None
    top_p: str | None = None
    max_new_tokens: str | None = None
    seed: str | None = None
    finish_reason: str | None = Field(None, description="`length` or false: cut off; default: every text has ended")
    prompt_tokens: str | None = Field(None, description="default: a quarter of the characters, marked as estimated")
    completion_tokens: str | None = Field(None, description="default: a quarter of the characters, marked as estimated")
    license: str | None = Field(None, description="default: generator.license")


class FilesConfig(Config):
    """Rows that another engine wrote: datatrove, NeMo Data Designer, Curator, or anything that writes rows."""

    kind: Literal["files"] = "files"
    path: str = Field(min_length=1, description="file, glob or folder of rows, relative to the recipe")
    format: Format | None = Field(None, description="as a source's; default: by the file's suffix")
    written_by: str = Field(min_length=1, description="name of the model that wrote the texts")
    weights: str = Field("unknown", min_length=1, description="hash of its weights, where it is known")
    license: str = Field("unknown", min_length=1, description="SPDX expression or terms that the texts come under")
    each: str | None = Field(
        None, description="a list inside the row, as `metadata.rollout_results`: each `item` of it is a row"
    )
    columns: FileColumns = FileColumns()
