"""`prefloop plan`: weights counted by hand, shares by hand, rates by hand, ways that do fit, and the printed examples."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from command_line import prefloop
from transformers import LlamaConfig

from prefloop.config.recipe import load_recipe
from prefloop.config.training import Tuning
from prefloop.errors import ConfigError
from prefloop.loop.hardware import GPUS, Gpu
from prefloop.loop.launch import Launch
from prefloop.loop.plan_cluster import plan_cluster
from prefloop.loop.plan_stages import PROMPT_TOKENS, Cluster, generation_stage, training_stage, written
from prefloop.loop.plan_ways import training_memory
from prefloop.loop.trial import run_trial
from prefloop.models.load import EMBEDDED
from prefloop.models.memory import MemoryPlan, plan_memory
from prefloop.models.shapes import SHAPES, count_parameters, policy_config, shape_config

PAGE = Path(__file__).parent.parent / "docs" / "beyond-one-machine.md"
H100 = GPUS["h100-80gb"]
HALF = {"policy.dtype": "bfloat16", "training.dtype": "bfloat16", "training.method": "lora"}
WIDTH, INNER, LAYERS, VOCABULARY = 16, 24, 3, 96
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * WIDTH
REST = 2 * VOCABULARY * WIDTH + WIDTH
"""Embedding and head, not tied, and the last norm."""


def tiny() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
    )


def planned(strategy: str, processes: int, device: str = "cuda", **tuning: object) -> MemoryPlan:
    where = {"device": device, "strategy": strategy, "processes": processes}
    return plan_memory(tiny(), Tuning(**tuning), 256, 128, 48, **where)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("smollm2-135m", 134_515_008),
        ("qwen2.5-0.5b", 494_032_768),
        ("mistral-7b", 7_241_732_096),
        ("llama-3-8b", 8_030_261_248),
        ("qwen2.5-32b", 32_763_876_352),
        ("llama-3-70b", 70_553_706_496),
    ],
)
def test_shapes_have_the_published_number_of_weights(shape: str, parameters: int) -> None:
    assert count_parameters(shape_config(shape)) == parameters


def test_ddp_splits_nothing_and_adds_buckets() -> None:
    alone, shared = planned("ddp", 1, method="full"), planned("ddp", 4, method="full")
    assert shared.exchange == alone.gradients == 4 * (LAYERS * LAYER + REST)
    assert shared.total == alone.total + alone.gradients


@pytest.mark.parametrize(("strategy", "gradients"), [("zero1", 1), ("zero2", 4)])
def test_zero_splits_moments_and_from_stage_two_gradients(strategy: str, gradients: int) -> None:
    """Beside them a float32 copy of the share, and two buckets that are no larger than the gradients here."""
    trained = 4 * (LAYERS * LAYER + REST)
    plan = planned(strategy, 4, method="full")
    assert (plan.moments, plan.gradients) == (2 * trained // 4, trained // gradients)
    assert plan.exchange == 2 * trained + trained // 4


def test_fsdp2_splits_weights_and_holds_two_layers_and_what_is_in_none() -> None:
    trained = 4 * (LAYERS * LAYER + REST)
    plan = planned("fsdp2", 4, method="full")
    assert plan.weights == {"float32": 0, "float32 copy": trained // 4}  # the policy's own stay beside the GPU
    assert (plan.gradients, plan.moments) == (trained // 4, 2 * trained // 4)
    assert plan.exchange == 2 * 4 * (2 * LAYER + REST)
    assert planned("fsdp2", 4, "cpu", method="full").weights["float32"] == trained


def test_more_processes_never_hold_more_each() -> None:
    totals = [planned("fsdp2", n, method="full").total for n in (2, 4, 8, 16)]
    assert totals == sorted(totals, reverse=True)


def test_writing_answers_reads_weights_and_cache() -> None:
    """Mistral's cache: 2 · 32 layers · 8 heads · 128 · 2 bytes = 131,072 per token."""
    recipe = load_recipe("lima-pairrm-dpo", HALF)
    config = shape_config("mistral-7b")
    stage = generation_stage(recipe, config, 7_241_732_096, 1000, Cluster(H100, 1))
    assert dict(stage.memory)["weights"] == 14_483_464_192
    assert dict(stage.memory)["keys and values (32 answers)"] == 32 * (150 + 512) * 131_072
    read = 14_483_464_192 + 32 * (150 + 128) * 131_072
    assert stage.tokens_per_second == pytest.approx(32 * 3_350e9 * 0.5 / read)
    assert stage.hours == pytest.approx(1000 * 256 / stage.tokens_per_second / 3600)


def test_servers_split_what_one_gpu_does_not_hold() -> None:
    """141 GB of weights and 7 of cache: two H100s have 142 GiB with a tenth left free, four work as one."""
    config = shape_config("llama-3-70b")
    settings = {**HALF, "generation.engine": "endpoint", "generation.endpoint": "http://127.0.0.1:8000/v1"}
    served = generation_stage(load_recipe("lima-pairrm-dpo", settings), config, 70_553_706_496, 10, Cluster(H100, 8, 4))
    alone = generation_stage(load_recipe("lima-pairrm-dpo", HALF), config, 70_553_706_496, 10, Cluster(H100, 8, 4))
    assert served.fits(H100)
    assert not alone.fits(H100)
    assert "endpoint" in alone.notes[0]
    assert served.gpus == 32


def test_training_counts_what_is_computed() -> None:
    """LoRA with checkpointing on one GPU: 2 forward, 2 backward, 2 again, and the reference's 2 over three epochs."""
    recipe = load_recipe("lima-pairrm-dpo", HALF)
    stage = training_stage(recipe, 10**9, 50, Cluster(H100, 1), "ddp", [("all", 1)])
    assert stage.tokens == 50 * (150 + 2 * 256) * 3
    assert 1 / stage.tokens_per_second == pytest.approx((2 + 2 + 2 + 2 / 3) * 1e9 / (989e12 * 0.3))


def test_gpus_without_pairs_wait() -> None:
    recipe = load_recipe("lima-pairrm-dpo", HALF)  # 8 pairs per step
    stage = training_stage(recipe, 10**9, 50, Cluster(H100, 8, 4), "ddp", [("all", 1)])
    assert "24 of which wait" in stage.notes[0]


def test_what_is_proposed_does_fit() -> None:
    """A GPU between what a process of four and one of eight holds: eight are named, adapters would do on one."""
    settings = {**HALF, "training.method": "full", "training.checkpointing": False, "training.tokens_per_batch": 512}
    recipe = load_recipe("lima-pairrm-dpo", settings)
    config = shape_config("smollm2-135m")
    four, eight = (
        plan.total for plan in training_memory(recipe, recipe.training, config, [("fsdp2", 4), ("fsdp2", 8)])
    )
    small = Gpu("small", (four + eight) / 2 / 2**30, 100, 1_000)
    plan = plan_cluster(recipe, Cluster(small, 1), shape="smollm2-135m")
    assert not plan.stages[-1].fits(small)
    assert plan.ways[-1] == f"8 GPUs and --strategy fsdp2: {eight / 2**30:.2f} GiB per GPU"
    for way in plan.ways[:-1]:
        changes = dict(part.removeprefix("training.").split("=") for part in way.split(":")[0].split(" and "))
        changed = recipe.training.model_copy(update={name: yaml.safe_load(value) for name, value in changes.items()})
        assert training_memory(recipe, changed, config, [("ddp", 1)])[0].total <= small.gib * 2**30
    assert any("method=lora" in way or "checkpointing" in way for way in plan.ways)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["lima-pairrm-dpo", "--gpus", 8], "4-bit weights cannot be split"),
        (["lima-pairrm-dpo", "--gpu", "h100"], "h100-80gb"),
        (["lima-pairrm-dpo", "--shape", "70b"], "llama-3-70b"),
        (["lima-pairrm-dpo", "--gpus", 2, "--strategy", "zero3"], "zero1, zero2"),
        (["lima-pairrm-dpo", "--strategy", "zero2"], "no effect on one GPU"),
        (["lima-pairrm-dpo", "--set", "policy.model=nobody/nothing"], "--shape"),
        (["nba-sql", "--shape", "mistral-7b", "--measure"], "give one of them"),
    ],
)
def test_plans_that_cannot_be(options: list[object], message: str) -> None:
    done = prefloop("plan", *options)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_measured_stands_apart_from_computed_and_near_it() -> None:
    """The embedded policy, all weights, two steps on this machine: planned peak within 15% of the resident set."""
    small = {"training.method": "full", "training.tokens_per_batch": 2048, "policy.device": "cpu", "threads": 1}
    given = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    done = prefloop("plan", "nba-sql", "--measure", *given, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measured"]
    assert measured["tokens_per_second"] > 0
    assert "cpu" in measured["where"]
    recipe = load_recipe("nba-sql", small)
    config, _ = policy_config("embedded")
    share = 2 * written(recipe) / (PROMPT_TOKENS + 2 * written(recipe))
    longest = PROMPT_TOKENS + recipe.generation.max_new_tokens
    computed = plan_memory(config, recipe.training, 2048, round(2048 * share), longest)
    assert computed.total == pytest.approx(measured["bytes"], rel=0.15)


@pytest.mark.soak
@pytest.mark.parametrize("strategy", ["fsdp2", "zero2"])
def test_each_of_two_processes_holds_what_is_planned(strategy: str) -> None:
    tuning = Tuning(method="full", tokens_per_batch=2048)
    launch = Launch(2, strategy=strategy, cpu=True)
    found = run_trial(str(EMBEDDED), tuning, 0.5, 192, device="cpu", threads=1, launch=launch)
    config, _ = policy_config("embedded")
    plan = plan_memory(config, tuning, 2048, 1024, 192, strategy=strategy, processes=2)
    assert plan.total == pytest.approx(found.peak, rel=0.15)


def examples() -> list[tuple[str, str]]:
    """(command, what it prints) of the page's plans."""
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = [tuple(block.split("\n", 1)) for block in blocks if block.startswith("prefloop plan ")]
    return [(command, shown) for command, shown in found if not shown.startswith("prefloop")]


@pytest.mark.parametrize(("command", "shown"), examples(), ids=[str(i) for i in range(len(examples()))])
def test_the_page_shows_what_is_printed(command: str, shown: str) -> None:
    done = prefloop(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == shown.strip()


def test_both_documented_examples_are_there() -> None:
    assert [("mistral" in shown, "llama-3-70b" in shown) for _, shown in examples()] == [(True, False), (False, True)]


def test_json_keeps_the_columns_apart() -> None:
    command, _ = examples()[0]
    found = json.loads(prefloop(*shlex.split(command)[1:], "--json").stdout)
    assert found["measured"] is None
    assert all("computed" in stage for stage in found["stages"])


def test_an_unknown_shape_names_the_known() -> None:
    with pytest.raises(ConfigError, match=", ".join(SHAPES)):
        shape_config("gpt-5")
