"""What other trainers call the keys of a recipe: one wrong name is one message, and it says what to write instead.

Spelling alone does not lead from `lr` to `training.learning_rate` or from `warmup_ratio` to a number of steps. The
names are those of transformers, axolotl, torchtitan, litgpt and Lightning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from trainer.base.seams import is_outside_kind
from trainer.recipe.loading import KeyPath, RecipeDocument, dotted, is_number, mapping_at, number_at
from trainer.recipe.messages import fields_at

Values = Mapping[str, float | None]
SECTIONS_READ = 3  # depth to which other trainers nest these names: optimizer.params.lr


@dataclass(frozen=True)
class Alias:
    """What to write instead of a name: the keys (`training.steps`) it stands for, and the advice.

    ``advice`` is a text, or is made of the value given and the numbers of the recipe.
    """

    keys: tuple[str, ...]
    advice: str | Callable[[Any, Values], str]


def _value_for(key: str) -> Alias:
    """The same value under another name."""
    return Alias((key,), lambda value, numbers: f"Write `{key}: {_yaml(value)}`")


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "..." if value is None or isinstance(value, dict | list) else str(value)


def _not_available(what: str, instead: str = "Remove the key") -> Alias:
    return Alias((), f"{what}. {instead}")


def _warmup_steps(value: Any, numbers: Values) -> str:
    steps = numbers["steps"]
    if steps is None or not is_number(value):
        return "Write `training.schedule.warmup_steps:`, the ratio times training.steps"
    return f"{value:g} of {steps:g} steps: write `training.schedule.warmup_steps: {round(value * steps)}`"


def _min_lr_ratio(value: Any, numbers: Values) -> str:
    rate = numbers["learning_rate"]
    if not rate or not is_number(value):
        return "Write `training.schedule.min_lr_ratio:`, the lowest learning rate as a part of the highest"
    return f"{value:g} of {rate:g}: write `training.schedule.min_lr_ratio: {value / rate:g}`"


def _global_batch(value: Any, numbers: Values) -> str:
    micro = numbers["micro_batch"]
    if micro is None or not is_number(value):
        return "It follows: write `mixture.global_batch:`, micro batch x accumulation x processes"
    product = f"{micro:g} x {value:g} x processes"
    return f"It follows from `mixture.global_batch`: {product}, {micro * value:g} on one process"


def _held_out(value: Any, numbers: Values) -> str:
    if not is_number(value) or value >= 1:
        return "Write `data.held_out: {kind: share, source: ..., validation: 0.05, test: 0.05}`: parts of a real source"
    return f"Write `data.held_out: {{kind: share, source: ..., validation: {value:g}, test: {value:g}}}`"


def _steps_of_epochs(value: Any, numbers: Values) -> str:
    tokens = "mixture.global_batch x data.sequence_length"
    return (
        f"Training is counted in steps: write `training.steps: epochs x tokens / ({tokens})`; `trainer plan` shows the "
        "epochs of each source, and `mixture.max_epochs` limits them"
    )


def _precision(name: str) -> Alias:
    def advice(value: Any, numbers: Values) -> str:
        if name == "fp16":
            return "fp16 is not available: write `training.precision: bf16`, or fp32"
        return f"Write `training.precision: {'fp32' if value in (False, 'no', 'false') else name}`"

    return Alias(("training.precision",), advice)


def _optimizer(value: Any, numbers: Values) -> str:
    return "AdamW is the optimizer; its settings are learning_rate, weight_decay, betas and epsilon under `training:`"


def _lr_schedule(value: Any, numbers: Values) -> str:
    kind = {"linear": "wsd, decay_fraction: 1.0", "constant_with_warmup": "constant"}.get(str(value), str(value))
    if kind.split(",")[0] not in ("cosine", "wsd", "constant"):
        return "Write `training.schedule: {kind: ...}`; cosine, wsd and constant are available"
    return f"Write `training.schedule: {{kind: {kind}}}`"


_SOURCES = "Write `data.sources: {NAME: {kind: real, path: ..., share: 0.5}, ...}`, one entry for each data set"
_SOURCE_KEYS = ("data.sources", "mixture.shares")
_NO_LORA = "LoRA is not yet available: all weights are trained"

_SAME_VALUE: Mapping[str, tuple[str, ...]] = {
    "training.learning_rate": ("lr", "base_lr", "max_lr", "peak_lr"),
    "training.steps": ("max_steps", "total_steps", "num_steps", "train_steps", "max_train_steps", "num_training_steps"),
    "training.micro_batch": (
        "micro_batch_size",
        "per_device_train_batch_size",
        "per_device_batch_size",
        "device_batch_size",
        "local_batch_size",
        "batch_size_per_device",
    ),
    "training.max_grad_norm": ("gradient_clip_val", "grad_clip", "gradient_clipping", "max_norm", "clip_norm"),
    "training.weight_decay": ("wd", "adam_weight_decay"),
    "training.epsilon": ("adam_epsilon", "eps", "adam_eps"),
    "training.schedule.warmup_steps": ("warmup", "lr_warmup_steps", "num_warmup_steps"),
    "training.schedule.min_lr_ratio": ("min_lr_rate", "lr_min_ratio"),
    "training.compile": ("torch_compile",),
    "mixture.global_batch": ("global_batch_size", "train_batch_size", "batch_size", "total_batch_size"),
    "data.sequence_length": ("sequence_len", "seq_len", "seq_length", "max_seq_length", "max_seq_len", "block_size"),
    "data.cache": ("dataset_prepared_path", "cache_dir"),
    "data.num_proc": ("dataset_processes", "preprocessing_num_workers"),
    "data.tokenizer.pretrained": ("tokenizer_name", "tokenizer_name_or_path", "tokenizer_path"),
    "model.pretrained": ("base_model", "model_name_or_path", "model_name", "pretrained_model_name_or_path"),
    "model.architecture": ("model_type", "arch"),
    "model.attention": ("attn_implementation",),
    "checkpoint.every_steps": ("save_steps", "save_every", "checkpoint_every"),
    "checkpoint.keep": ("save_total_limit", "keep_latest_k", "max_checkpoints"),
    "evaluation.every_steps": ("eval_steps", "eval_every", "eval_interval", "val_check_interval"),
    "evaluation.micro_batch": ("eval_batch_size", "per_device_eval_batch_size", "document_batch"),
    "name": ("run_name", "wandb_run_name", "experiment_name"),
    "seed": ("random_seed", "data_seed", "manual_seed"),
}

ALIASES: Mapping[str, Alias] = {
    **{name: _value_for(key) for key, names in _SAME_VALUE.items() for name in names},
    "max_grad_norm": _value_for("training.max_grad_norm"),
    "gradient_accumulation_steps": Alias(("mixture.global_batch",), _global_batch),
    "warmup_ratio": Alias(("training.schedule.warmup_steps",), _warmup_steps),
    "warmup_fraction": Alias(("training.schedule.warmup_steps",), _warmup_steps),
    "warmup_steps": _value_for("training.schedule.warmup_steps"),
    "min_lr": Alias(("training.schedule.min_lr_ratio",), _min_lr_ratio),
    "lr_scheduler": Alias(("training.schedule",), _lr_schedule),
    "lr_scheduler_type": Alias(("training.schedule",), _lr_schedule),
    "lr_schedule": Alias(("training.schedule",), _lr_schedule),
    "num_epochs": Alias(("training.steps",), _steps_of_epochs),
    "num_train_epochs": Alias(("training.steps",), _steps_of_epochs),
    "max_epochs": Alias(("training.steps",), _steps_of_epochs),
    "epochs": Alias(("training.steps",), _steps_of_epochs),
    "max_tokens": Alias(("training.steps",), _steps_of_epochs),
    "bf16": _precision("bf16"),
    "fp16": _precision("fp16"),
    "mixed_precision": Alias(("training.precision",), "Write `training.precision: bf16`, fp32 or auto"),
    "dtype": Alias(("training.precision",), "Write `training.precision: bf16`, or fp32; weights are kept in fp32"),
    "adam_beta1": Alias(("training.betas",), "Write `training.betas: [0.9, 0.95]`, both together"),
    "adam_beta2": Alias(("training.betas",), "Write `training.betas: [0.9, 0.95]`, both together"),
    "optimizer": Alias((), _optimizer),
    "optim": Alias((), _optimizer),
    "val_set_size": Alias(("data.held_out",), _held_out),
    "validation_split": Alias(("data.held_out",), _held_out),
    "test_size": Alias(("data.held_out",), _held_out),
    "val_data": Alias(("data.held_out",), "Write `data.held_out: {kind: dataset, validation: {...}, test: {...}}`"),
    "dataset": Alias(_SOURCE_KEYS, _SOURCES),
    "datasets": Alias(_SOURCE_KEYS, _SOURCES),
    "train_data": Alias(_SOURCE_KEYS, _SOURCES),
    "data_path": Alias(_SOURCE_KEYS, _SOURCES),
    **dict.fromkeys(
        ("weights", "weight", "ratio", "proportion", "probability", "probabilities"),
        Alias(("mixture.shares",), "Write a `share:` with each source in data.sources; they sum to 1"),
    ),
    "model_config": _value_for("model.config"),
    "output_dir": _not_available("The run folder is not part of the recipe", "Give it as `--run DIR`"),
    "out_dir": _not_available("The run folder is not part of the recipe", "Give it as `--run DIR`"),
    "resume_from_checkpoint": _not_available("A run resumes automatically", "Start it again with the same `--run`"),
    "logging_steps": _not_available("Every step is logged"),
    "log_interval": _not_available("Every step is logged"),
    "deepspeed": _not_available("DeepSpeed is chosen at launch", "accelerate launch --config_file with a launch file"),
    "fsdp": _not_available("Sharding is chosen at launch", "accelerate launch --config_file with a launch file"),
    "fsdp_config": _not_available("Sharding is chosen at launch", "accelerate launch --config_file with a launch file"),
    "strategy": _not_available("Sharding is chosen at launch", "Use a launch file, or `engine: lightning`"),
    "sample_packing": _not_available("Documents are always packed"),
    **dict.fromkeys(
        ("report_to", "wandb", "use_wandb", "wandb_project", "wandb_entity", "wandb_mode", "project_name"),
        Alias(("tracking.trackers",), "Write `tracking: {trackers: [{kind: wandb, mode: online, project: ...}]}`"),
    ),
    **dict.fromkeys(
        ("tensorboard", "use_tensorboard", "logging_dir"),
        Alias(("tracking.trackers",), "Write `tracking: {trackers: [{kind: tensorboard}]}`"),
    ),
    **dict.fromkeys(
        ("lora", "peft", "adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit"),
        _not_available(_NO_LORA),
    ),
    **dict.fromkeys(
        ("chat_template", "train_on_inputs"), _not_available("Chat templates and loss masks are not yet available")
    ),
}


def note_aliases(document: RecipeDocument, model: type[BaseModel]) -> None:
    """Adds one message for each name of another trainer, and takes the key out, so that it is not also unknown.

    The keys it stands for count as mistaken: that they are missing is the same mistake.
    """
    numbers = _numbers(document)
    for path, value in _unknown_names(document.tree, model, ()):
        alias = ALIASES[str(path[-1])]
        advice = alias.advice if isinstance(alias.advice, str) else alias.advice(value, numbers)
        got = value if value is None or isinstance(value, str | int | float | bool) else None
        document.mistake(f"unknown key {dotted(path)}", path, got=got, remedy=advice)
        inner = [ALIASES[key] for key in value if key in ALIASES] if isinstance(value, dict) else []
        document.mistaken |= {tuple(key.split(".")) for each in (alias, *inner) for key in each.keys}
        mapping_at(document.tree, path[:-1]).pop(str(path[-1]))
        _remove_emptied(document, model, path[:-1])


def _remove_emptied(document: RecipeDocument, model: type[BaseModel], path: KeyPath) -> None:
    """Take out the section at ``path`` if it is another trainer's and all its keys have a message."""
    if path and not mapping_at(document.tree, path) and str(path[-1]) not in fields_at(model, path[:-1]):
        mapping_at(document.tree, path[:-1]).pop(str(path[-1]), None)


def _unknown_names(tree: Any, model: type[BaseModel], path: KeyPath) -> list[tuple[KeyPath, Any]]:
    section = mapping_at(tree, path)
    fields = {} if is_outside_kind(section.get("kind")) else fields_at(model, path)
    names: list[tuple[KeyPath, Any]] = []
    for key, value in section.items():
        if fields and key not in fields and key in ALIASES and not _names_are_free(path):
            names.append(((*path, key), value))
        elif isinstance(value, dict) and len(path) < SECTIONS_READ:
            names += _unknown_names(tree, model, (*path, key))
    return names


def _names_are_free(path: KeyPath) -> bool:
    """Whether the keys there are the user's or transformers': names of sources, and of the model's settings."""
    return path in (("model", "config"), ("data", "sources"), ("mixture", "shares"), ("mixture", "max_epochs"))


def _numbers(document: RecipeDocument) -> Values:
    """The numbers that advice needs, under our name or another trainer's."""
    homes: dict[str, tuple[str, ...]] = {
        "steps": ("steps", *_SAME_VALUE["training.steps"]),
        "learning_rate": ("learning_rate", *_SAME_VALUE["training.learning_rate"]),
        "micro_batch": ("micro_batch", *_SAME_VALUE["training.micro_batch"]),
    }
    sections: tuple[KeyPath, ...] = (("training",), ())
    return {
        name: next(
            (
                number
                for section in sections
                for key in keys
                if (number := number_at(document.tree, (*section, key))) is not None
            ),
            None,
        )
        for name, keys in homes.items()
    }
