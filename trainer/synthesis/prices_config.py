"""What a recipe says of prices."""

from pydantic import Field

from trainer.base.config import Config


class PricesConfig(Config):
    """What synthesis costs. Whatever is not given costs nothing."""

    currency: str = Field("USD", min_length=1, description="what the prices are in")
    per_million_prompt_tokens: float = Field(0.0, ge=0, description="for tokens that the generator reads")
    per_million_completion_tokens: float = Field(0.0, ge=0, description="for tokens that it writes")
    per_gpu_hour: float = Field(0.0, ge=0, description="for an hour of one GPU (or of the machine)")
    gpus: int = Field(1, ge=1, description="GPUs that the generator keeps busy")
    per_kwh: float = Field(0.0, ge=0, description="for energy")
    watts: float | None = Field(
        None, gt=0, description="power of the generator, where it cannot be read from the GPUs of this machine"
    )
