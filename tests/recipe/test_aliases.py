"""The names of other trainers: one wrong name, one message, with what to write instead."""

import json
from pathlib import Path

import pytest

from tests.recipe.mistakes import edit, line_of, mistakes_in
from trainer.recipe import Recipe, load_recipe
from trainer.recipe.aliases import ALIASES
from trainer.recipe.messages import fields_at

RATE, STEPS, MICRO, GLOBAL = "learning_rate: 1.0e-3", "steps: 12\n", "micro_batch: 4", "global_batch: 8"
SCHEDULE, LENGTH = "schedule: {kind: cosine, warmup_steps: 2}", "sequence_length: 16"


@pytest.mark.parametrize(
    ("old", "new", "advice"),
    [
        (RATE, "lr: 0.001", "`training.learning_rate: 0.001`"),
        (STEPS, "max_steps: 400\n", "`training.steps: 400`"),
        (GLOBAL, "global_batch_size: 8", "`mixture.global_batch: 8`"),
        (GLOBAL, "train_batch_size: 8", "`mixture.global_batch: 8`"),
        (MICRO, "per_device_train_batch_size: 4", "`training.micro_batch: 4`"),
        (MICRO, "micro_batch_size: 4", "`training.micro_batch: 4`"),
        (MICRO, MICRO + "\n  gradient_accumulation_steps: 8", "4 x 8 x processes, 32 on one process"),
        (MICRO, MICRO + "\n  gradient_clip_val: 1.0", "`training.max_grad_norm: 1.0`"),
        (SCHEDULE, "lr_scheduler_type: linear", "`training.schedule: {kind: wsd, decay_fraction: 1.0}`"),
        (SCHEDULE, "lr_scheduler: cosine", "`training.schedule: {kind: cosine}`"),
        (SCHEDULE, "warmup_ratio: 0.25", "0.25 of 12 steps: write `training.schedule.warmup_steps: 3`"),
        (SCHEDULE, "warmup_steps: 3", "`training.schedule.warmup_steps: 3`"),
        (
            SCHEDULE,
            "schedule: {kind: cosine, min_lr: 1.0e-4}",
            "0.0001 of 0.001: write `training.schedule.min_lr_ratio: 0.1`",
        ),
        ("seed: 3\n", "seed: 3\nval_set_size: 0.1\n", "validation: 0.1, test: 0.1"),
        (LENGTH, "sequence_len: 16", "`data.sequence_length: 16`"),
        (LENGTH, "max_seq_length: 16", "`data.sequence_length: 16`"),
        (STEPS, "num_train_epochs: 3\n", "Training is counted in steps"),
        (STEPS, "num_epochs: 3\n", "Training is counted in steps"),
        ("precision: fp32", "bf16: true", "`training.precision: bf16`"),
        ("precision: fp32", "bf16: false", "`training.precision: fp32`"),
        ("precision: fp32", "fp16: true", "fp16 is not available"),
        ("seed: 3\n", "random_seed: 3\n", "`seed: 3`"),
        ("seed: 3\n", "seed: 3\noutput_dir: out\n", "`--run DIR`"),
        ("checkpoint: {every_steps: 4, keep: 2}", "checkpoint: {save_steps: 4}", "`checkpoint.every_steps: 4`"),
        ("checkpoint: {every_steps: 4, keep: 2}", "save_total_limit: 2", "`checkpoint.keep: 2`"),
        ("evaluation: {every_steps: 4}", "evaluation: {eval_steps: 4}", "`evaluation.every_steps: 4`"),
        ("seed: 3\n", "seed: 3\nlogging_steps: 1\n", "Every step is logged"),
        ("seed: 3\n", "seed: 3\noptimizer: {lr: 1.0e-3}\n", "AdamW is the optimizer"),
        (MICRO, MICRO + "\n  adam_beta1: 0.9", "`training.betas: [0.9, 0.95]`"),
        (MICRO, MICRO + "\n  adam_epsilon: 1.0e-8", "`training.epsilon: 1e-08`"),
        ("seed: 3\n", "seed: 3\nlora_r: 16\n", "LoRA is not yet available"),
        ("seed: 3\n", "seed: 3\ndeepspeed: ds.json\n", "chosen at launch"),
        ("seed: 3\n", "seed: 3\nwandb_project: mine\n", "`tracking: {trackers: [{kind: wandb,"),
        ("seed: 3\n", "seed: 3\ndatasets: [{path: a.jsonl}]\n", "`data.sources:"),
        (RATE, "optimizer: {name: adamw, lr: 1.0e-3}", "AdamW is the optimizer"),
        ("seed: 3\n", "seed: 3\nreporting: {wandb: {mode: offline}}\n", "`tracking: {trackers: [{kind: wandb,"),
    ],
)
def test_a_name_of_another_trainer_is_one_message_with_the_right_key(
    tiny_recipe: Path, old: str, new: str, advice: str
) -> None:
    edit(tiny_recipe, old, new)
    (mistake,) = mistakes_in(tiny_recipe)
    assert advice in (mistake.remedy or "")
    assert mistake.what.startswith("unknown key ")
    assert mistake.line == line_of(tiny_recipe, new.strip().splitlines()[-1].strip())


def test_a_section_under_other_names_is_not_also_missing(tiny_recipe: Path) -> None:
    text = tiny_recipe.read_text()
    model = text[text.index("model:\n") : text.index("data:\n")]
    tiny_recipe.write_text(text.replace(model, "base_model: some/model\n"))
    (mistake,) = mistakes_in(tiny_recipe)
    assert "`model.pretrained: some/model`" in (mistake.remedy or "")


def test_a_key_of_transformers_in_the_wrong_place_is_sent_to_its_own(tiny_recipe: Path) -> None:
    edit(tiny_recipe, "  architecture: llama\n", "  architecture: llama\n  num_key_value_heads: 1\n")
    (mistake,) = mistakes_in(tiny_recipe)
    assert "`model.config.num_key_value_heads`" in (mistake.remedy or "")


def test_ten_wrong_names_are_ten_messages(tiny_recipe: Path) -> None:
    names = [
        "lr=1",
        "max_steps=4",
        "batch_size=8",
        "bf16=true",
        "lora_r=8",
        "output_dir=x",
        "model_name=y",
        "num_epochs=3",
    ]
    names += ["warmup_ratio=0.1", "seq_len=16"]
    assert len(mistakes_in(tiny_recipe, *names)) == 10


def test_what_is_advised_are_keys_of_the_recipe() -> None:
    for name, alias in ALIASES.items():
        for key in alias.keys:
            *sections, last = key.split(".")
            assert last in fields_at(Recipe, tuple(sections)), (name, key)


def test_a_source_may_have_the_name_of_an_alias(tiny_recipe: Path) -> None:
    tiny_recipe.write_text(tiny_recipe.read_text().replace("good:", "datasets:"))
    assert any("datasets" in str(mistake) for mistake in mistakes_in(tiny_recipe, "mixture.shares.dataset=0"))


def test_a_part_from_outside_may_have_a_key_with_the_name_of_an_alias(tiny_recipe: Path) -> None:
    section = {"kind": "tests.synthesis.counting:Counting", "log": "asked.log", "weights": "w2"}
    synthesis = {"pool": "pool", "sources": ["real"], "prompts": [{"template": "rephrase"}], "generator": section}
    loaded = load_recipe(tiny_recipe, [f"synthesis={json.dumps(synthesis)}"])
    assert loaded.recipe.synthesis is not None
    assert loaded.recipe.synthesis.generator.weights == "w2"
