import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.tools.plans import planned
from trainer.base.errors import UserError
from trainer.control.policies import ConstantConfig, PricedConfig
from trainer.data.prepare import prepare
from trainer.model.build import parameter_count
from trainer.model.config import ModelConfig
from trainer.recipe import load_recipe
from trainer.recipe.shipped import shipped_path
from trainer.tools.plan.plan import Machine, plan_run
from trainer.tools.plan.real_budget import real_budget
from trainer.tools.plan.sizes import ModelSize, memory_per_rank, model_size
from trainer.tools.plan.sources import mean_shares
from trainer.tools.plan.table import run_table, source_table
from trainer.tools.plan.vocabulary import vocabulary_size_of

LARGE_MODEL = [
    "model.config.hidden_size=4096",
    "model.config.intermediate_size=14336",
    "model.config.num_hidden_layers=32",
    "model.config.num_attention_heads=32",
    "model.config.num_key_value_heads=8",
    "model.config.tie_word_embeddings=false",
    "data.tokenizer.train_bpe=128256",
    "data.sequence_length=8192",
]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 2},
        {"num_attention_heads": 8, "num_key_value_heads": 1, "rms_norm_eps": 1e-6},
    ],
)
def test_the_closed_form_counts_what_the_model_has(keys: dict[str, object]) -> None:
    shape = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = ModelConfig.model_validate({"architecture": "llama", "config": {**shape, **keys}})
    assert model_size(config, vocabulary_size=300, sequence_length=32).num_parameters == parameter_count(
        config, 300, 32
    )


def test_a_model_that_the_closed_form_does_not_know_is_counted_all_the_same() -> None:
    config = ModelConfig.model_validate({"architecture": "gpt2", "config": {"n_embd": 32, "n_layer": 2, "n_head": 2}})
    size = model_size(config, vocabulary_size=300, sequence_length=32)
    assert size == ModelSize(
        num_parameters=parameter_count(config, 300, 32), num_layers=2, hidden_size=32, vocabulary_size=300
    )


def test_a_pretrained_folder_tells_its_size_without_being_loaded(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=50)
    )
    model.save_pretrained(tmp_path)
    size = model_size(ModelConfig(pretrained=str(tmp_path)), vocabulary_size=50, sequence_length=8)
    assert size.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (size.num_layers, size.hidden_size, size.vocabulary_size) == (2, 16, 50)


def test_an_8_billion_model_has_the_known_size_and_states_of_16_bytes_a_parameter(tiny_recipe: Path) -> None:
    plan = planned(tiny_recipe, *LARGE_MODEL, machine=Machine(world_size=8, free_bytes=1 << 60))
    assert plan.num_parameters == 8_030_261_248  # Llama 3 8B
    memory = plan.memory
    assert memory.weights + memory.gradients + memory.optimizer == 16 * plan.num_parameters
    assert memory.total_sharded == 2 * plan.num_parameters + memory.activations


def test_recomputation_saves_activations_and_nothing_else() -> None:
    size = ModelSize(num_parameters=10**8, num_layers=24, hidden_size=1024, vocabulary_size=32_000)
    shape = {"micro_batch": 4, "sequence_length": 2048, "bf16": True, "world_size": 1}
    kept, recomputed = (memory_per_rank(size, recompute=recompute, **shape) for recompute in (False, True))  # type: ignore[arg-type]
    assert recomputed.activations < kept.activations
    assert recomputed.total - recomputed.activations == kept.total - kept.activations


def test_samples_follow_the_shares_and_epochs_the_size_of_the_sources(tiny_recipe: Path) -> None:
    plan = planned(tiny_recipe, real=640.0)
    real, good, _ = plan.sources
    assert (real.samples, real.tokens, real.available_samples, real.known_by) == (48, 768, 40, "stated")
    assert real.epochs == pytest.approx(1.2)
    assert (good.known_by, good.available_samples is not None) == ("estimate", True)
    assert sum(source.samples for source in plan.sources) == plan.samples == 96


def test_a_drawn_curve_is_integrated(tiny_recipe: Path) -> None:
    points = "[{at: 0.5, shares: {real: 1, good: 0, bad: 0}}]"
    loaded = load_recipe(tiny_recipe, [f"control.policy={{kind: schedule, points: {points}}}"], on_this_machine=False)
    assert mean_shares(loaded.recipe) == pytest.approx({"real": 0.875, "good": 0.0625, "bad": 0.0625})


def test_the_mean_shares_of_an_anneal_are_those_of_its_evaluations(tiny_recipe: Path) -> None:
    for shape in ("linear", "cosine"):
        policy = f"{{kind: anneal, real_share: 0.8, start: 0.25, end: 0.75, shape: {shape}}}"
        loaded = load_recipe(tiny_recipe, [f"control.policy={policy}"], on_this_machine=False)
        # 0.5 for a quarter of the run, 0.65 on average for a half, 0.8 for a quarter
        assert mean_shares(loaded.recipe) == pytest.approx({"real": 0.65, "good": 0.175, "bad": 0.175})


def test_prepared_data_are_counted_not_estimated(tiny_recipe: Path) -> None:

    loaded = load_recipe(tiny_recipe, on_this_machine=False)
    data = prepare(loaded.recipe.data, base=loaded.folder, seed=loaded.recipe.seed)
    plan = plan_run(loaded, Machine())
    for source in plan.sources:
        expected = sum(segment.num_samples for segment in data.sources[source.name].segments)
        assert (source.available_samples, source.known_by) == (expected, "prepared")


def test_segments_that_join_count_from_their_step(tiny_recipe: Path) -> None:
    joins = "[{from_step: 3, path: bad.jsonl}, {from_step: 5, path: real.jsonl, retires: true}]"
    good = f"data.sources.good={{kind: synthetic, path: good.jsonl, joins: {joins}}}"
    plan = planned(tiny_recipe, good, "mixture.max_epochs={good: 0.55}", good=60 * 16.0)
    source = plan.sources[1]
    # two samples a step: 4 of the first 20, 4 of 40 together with them, and 16 of the last 20
    assert (source.samples, source.available_samples, source.known_by) == (24, 60, "stated")
    assert source.epochs == pytest.approx(16 / 20)
    assert source.effective_tokens == pytest.approx(24 * 16)
    assert source.cap_step == 9
    assert not any("joins" in warning for warning in plan.warnings)
    fewer = "data.sources.good={kind: synthetic, path: good.jsonl, joins: [{from_step: 7, path: bad.jsonl}]}"
    assert planned(tiny_recipe, fewer, good=16.0 * 40).sources[1].epochs == pytest.approx(24 / 40)


def test_a_segment_that_joins_a_source_past_its_cap_is_warned_of(tiny_recipe: Path) -> None:
    joined = "data.sources.good={kind: synthetic, path: good.jsonl, joins: [{from_step: 7, path: bad.jsonl}]}"
    plan = planned(tiny_recipe, joined, "mixture.max_epochs={good: 0.4}", good=40 * 16.0)
    assert plan.sources[1].cap_step == 4  # after 8 of 20 samples
    assert any("what joins it at step 7 is not drawn" in warning for warning in plan.warnings)


def test_time_and_cost_come_from_the_speed_of_a_rank(tiny_recipe: Path) -> None:
    fast = planned(tiny_recipe, machine=Machine(world_size=4, tokens_per_second=96.0, price_per_hour=9.0))
    assert fast.seconds == pytest.approx(96 * 16 / (96 * 4))
    assert fast.cost == pytest.approx(fast.seconds / 3600 * 9 * 4)
    by_compute = planned(tiny_recipe, machine=Machine(teraflops=1e-6))
    assert by_compute.seconds == pytest.approx(by_compute.flops / 1e6)
    assert planned(tiny_recipe).seconds is None


def test_checkpoints_that_do_not_fit_are_refused(tiny_recipe: Path) -> None:
    disk = planned(tiny_recipe).disk
    assert disk.checkpoints_written == 3
    assert disk.peak == 3 * disk.checkpoint + disk.model + disk.journal
    assert planned(tiny_recipe, machine=Machine(free_bytes=disk.peak)).refusals == ()
    (refusal,) = planned(tiny_recipe, machine=Machine(free_bytes=disk.peak - 1)).refusals
    assert "keep fewer checkpoints" in refusal


def test_a_kind_that_runs_dry_is_refused_and_a_single_capped_source_is_only_a_warning(tiny_recipe: Path) -> None:
    (refusal,) = planned(tiny_recipe, "mixture.max_epochs={real: 1}", real=640.0).refusals
    assert "real" in refusal
    assert "draws 48" in refusal
    assert planned(tiny_recipe, "mixture.max_epochs={real: 1.2}", real=640.0).refusals == ()
    capped = planned(tiny_recipe, "mixture.max_epochs={good: 1}", good=160.0)
    assert capped.refusals == ()
    assert any("good reaches its cap" in warning for warning in capped.warnings)


def test_what_is_probably_not_meant_is_a_warning(tiny_recipe: Path) -> None:
    rare = planned(tiny_recipe, "mixture.shares={real: 0.9, good: 0.1, bad: 0}")
    assert any("good is drawn once in 1.2 steps" in warning for warning in rare.warnings)
    crowd = planned(tiny_recipe, machine=Machine(world_size=16))
    assert any("8 of 16 ranks get no sample" in warning for warning in crowd.warnings)
    uneven = planned(tiny_recipe, machine=Machine(world_size=3))
    assert any("padded" in warning for warning in uneven.warnings)
    blind = planned(tiny_recipe, "control.policy={kind: feedback}", "evaluation.every_steps=12")
    assert any("never decides" in warning for warning in blind.warnings)


def test_a_tokenizer_is_measured_by_its_file_and_never_fetched(tiny_recipe: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.add_special_tokens(["<end>"])
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    here = load_recipe(tiny_recipe, ["data.tokenizer={pretrained: tokenizer}"], on_this_machine=False)
    assert vocabulary_size_of(here.recipe.data.tokenizer, here.folder) == 4
    away = load_recipe(tiny_recipe, ["data.tokenizer={pretrained: some/hub-id}"], on_this_machine=False)
    with pytest.raises(UserError, match="some/hub-id"):
        plan_run(away, Machine())


def test_a_plan_for_1024_ranks_and_a_trillion_tokens_takes_less_than_2_processor_seconds(tiny_recipe: Path) -> None:
    steps = 10**12 // (1024 * 8192) + 1
    overrides = [*LARGE_MODEL, f"training.steps={steps}", "mixture.global_batch=1024", "training.micro_batch=1"]
    options = ["--world-size", "1024", "--teraflops", "400", "--price-per-hour", "2", "--free-disk-gb", "1e6", "--json"]
    stated = ["--source-tokens", "real=2e11", "--source-tokens", "good=4e11"]
    command = [sys.executable, "-m", "trainer", "plan", str(tiny_recipe), *options, *stated]
    command += [part for override in overrides for part in ("--set", override)]
    times = []
    for _ in range(3):
        before = os.times()
        process = subprocess.run(command, capture_output=True, text=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert process.returncode == 0, process.stderr
    plan = json.loads(process.stdout)
    assert plan["tokens"] >= 10**12
    assert plan["sources"][0]["epochs"] == pytest.approx(2.5, rel=1e-3)
    assert 1 < plan["seconds"] / 86_400 < 3
    assert min(times) < 2.0


def test_a_refused_plan_is_shown_and_exits_2(tiny_recipe: Path) -> None:
    command = [sys.executable, "-m", "trainer", "plan", str(tiny_recipe), "--free-disk-gb", "0"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert "parameters" in process.stdout
    assert "error: the run folder grows" in process.stderr


def test_the_plan_shows_the_value_of_repeated_real_tokens_and_of_one_more() -> None:
    budget = real_budget(1000, 4000, 10_000, policy=ConstantConfig(), rates=[1e-3], num_steps=100)
    assert budget.epochs == 4
    assert budget.effective_tokens == pytest.approx(0.931 * 4000, rel=1e-3)  # the published four-epoch figure
    assert budget.value_of_repeat == pytest.approx(0.82, abs=0.005)
    assert 0 < budget.value_of_new_token < 1
    assert budget.most_share is None


def test_the_plan_of_priced_spends_its_epochs_late_only_where_they_are_no_repeats() -> None:
    rates = [1e-3 * (100 - part) / 100 for part in range(100)]
    once, often = (
        real_budget(
            1000,
            1000,
            10_000,
            policy=PricedConfig(kind="priced", real_epochs=epochs, advanced={"curvature": 30.0}, real_floor=0.0),
            rates=rates,
            num_steps=1000,
        ).most_share
        for epochs in (1.0, 6.0)
    )
    assert once is not None
    assert often is not None
    assert sum(once) / 10 == pytest.approx(0.1, abs=1e-3)
    assert max(once[5:]) > 0.5 > 0.05 > once[0]
    assert often == pytest.approx([0.6] * 10)


def test_a_cap_on_epochs_is_the_budget_where_it_is_the_lesser() -> None:
    policy = PricedConfig(kind="priced", real_epochs=6.0)
    budget = real_budget(
        1000, 1000, 10_000, policy=policy, rates=[1e-3], num_steps=100, capped=[(500, 2.0), (500, 9.0)]
    )
    assert budget.most_epochs == pytest.approx(4.0)
    assert budget.most_share == pytest.approx([0.4] * 10)


def test_the_plan_of_priced_keeps_to_the_ceilings_of_real_data(tiny_recipe: Path) -> None:
    plan = planned(tiny_recipe, "control.policy={kind: priced, ceilings: {real: 0.6}}")
    assert plan.real is not None
    assert plan.real.most_share is not None
    assert max(plan.real.most_share) <= 0.6 + 1e-6


def test_the_plan_shows_the_real_budget_of_a_recipe(tiny_recipe: Path) -> None:
    plan = planned(tiny_recipe, "control.policy.kind=priced")
    assert plan.real is not None
    real = [source for source in plan.sources if source.kind == "real"]
    assert plan.real.drawn_tokens == sum(source.tokens for source in real)
    assert plan.real.most_share is not None
    assert len(plan.real.most_share) == 10
    assert all(source.effective_tokens <= source.tokens for source in real)


def test_the_plan_names_every_source_in_full_and_the_cost_of_evaluation_and_measurements(tiny_recipe: Path) -> None:
    long = "a-source-with-a-long-name"
    tiny_recipe.write_text(tiny_recipe.read_text().replace("good:", f"{long}:"))
    budgeted = planned(shipped_path("quickstart"))
    assert budgeted.measurements["source_value"] == pytest.approx(0.1 * budgeted.tokens, rel=0.1)
    plan = planned(tiny_recipe, "control.policy={kind: feedback}")
    shown = StringIO()
    console = Console(file=shown, width=80)
    console.print(source_table(plan))
    console.print(run_table(plan))
    text = shown.getvalue()
    assert long in text
    assert "\u2026" not in text  # nothing is cut
    assert "source value" in text
    assert "at most 5 % of the training compute" in text


def test_the_plan_promises_no_part_of_the_compute_where_the_recipe_names_the_documents(tiny_recipe: Path) -> None:
    shown = StringIO()
    Console(file=shown, width=100).print(run_table(planned(tiny_recipe, "evaluation.validation_documents=40")))
    assert "40 documents each time" in shown.getvalue()
    assert "at most 5 %" not in shown.getvalue()


def test_no_word_of_the_plan_is_broken_in_a_terminal_of_80_columns(tiny_recipe: Path) -> None:
    shown = StringIO()
    Console(file=shown, width=80).print(source_table(planned(tiny_recipe)))
    assert {"available", "token", "synthetic", "samples"} <= set(shown.getvalue().split())
