"""The memory plan: sizes counted by hand, PEFT's and PyTorch's own counts, and the budget as the plan's inverse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from prefloop.config.training import Tuning
from prefloop.errors import ModelError
from prefloop.models import free_memory, memory
from prefloop.models.footprint import _Live
from prefloop.models.free_memory import available_memory
from prefloop.models.group import Group, GroupForward
from prefloop.models.lineage import Lineage
from prefloop.models.load import Policy
from prefloop.models.memory import MemoryPlan, even_groups, largest_budget, plan_memory
from prefloop.training.trainable import trainable

VOCABULARY, WIDTH, INNER, LAYERS = 96, 16, 24, 3
BLOCK = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER
"""Weights of a layer's matrices: q, k, v, o; gate, up, down."""
WEIGHTS = VOCABULARY * WIDTH + LAYERS * (BLOCK + 2 * WIDTH) + WIDTH
"""Tied embedding, layers with two norms each, last norm."""


def tiny(layers: int = LAYERS, **changes: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **changes,
    )


def made(config: LlamaConfig) -> Policy:
    torch.manual_seed(0)
    return Policy(LlamaForCausalLM(config), None, Lineage("tiny"), "tiny")


def planned(
    tokens: int = 256, config: LlamaConfig | None = None, weight_bytes: int = 4, **tuning: object
) -> MemoryPlan:
    return plan_memory(
        config or tiny(), Tuning(**tuning), tokens, tokens // 2, min(48, tokens), weight_bytes=weight_bytes
    )


def test_full_training_holds_the_policy_its_float32_copy_gradients_and_two_moments():
    plan = planned(method="full", weight_bytes=2)
    assert plan.weights == {"half precision": 2 * WEIGHTS, "float32 copy": 4 * WEIGHTS}
    assert (plan.adapters, plan.gradients, plan.moments) == (0, 4 * WEIGHTS, 8 * WEIGHTS)


def test_lora_counts_are_those_of_the_layers_that_training_makes():
    rank = 5
    plan = planned(lora_rank=rank)
    by_hand = LAYERS * rank * (4 * (WIDTH + WIDTH) + 3 * (WIDTH + INNER))
    assert plan.adapters == plan.gradients == 4 * by_hand
    assert plan.moments == 8 * by_hand
    assert plan.weights == {"float32": 4 * WEIGHTS}


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapters_equal_what_peft_creates(variant):
    tuning = Tuning(lora_rank=3, lora_variant=variant)
    with trainable(made(tiny()), tuning, 0) as adapted:
        created = sum(p.numel() * p.element_size() for p in adapted.parameters() if p.requires_grad)
    assert planned(lora_rank=3, lora_variant=variant).adapters == created


def test_qlora_holds_the_policy_four_bits_with_their_constants_and_what_stays():
    plan = planned(method="qlora")
    matrices = [WIDTH * WIDTH] * 4 + [WIDTH * INNER] * 3
    # 256 weights are 4 blocks of 64 and 384 are 6: a byte each, and one float32 per 256 blocks
    assert plan.weights["4-bit copy"] == LAYERS * sum(n // 2 + n // 64 + 4 for n in matrices)
    assert plan.weights["float32 copy of what stays"] == 4 * (WEIGHTS - LAYERS * BLOCK)


def test_the_head_keeps_probabilities_only_where_it_is_trained():
    config = tiny()
    scored, vocabulary = 128, 50_000
    config.vocab_size = vocabulary
    full = plan_memory(config, Tuning(method="full"), 256, scored, 48)
    lora = plan_memory(config, Tuning(), 256, scored, 48)
    kept = 4 * sum(sum(c) for _, c in even_groups(256, scored, 48)) * vocabulary
    assert full.head == pytest.approx(kept, rel=0.01)
    assert lora.head < 4 * scored * WIDTH * 4


def test_storages_are_counted_exactly():
    weight = torch.nn.Linear(8, 4, bias=False)
    with _Live(weight) as live:
        first = torch.zeros(10, 8)  # 320 bytes
        view = first.T
        product = first @ weight.weight.detach().T  # 160 bytes; the weight's view is none
        assert live.now == 480
        del first
        assert live.now == 480
        del view
        assert live.now == 160
        del product
    assert (live.now, live.peak) == (0, 480)


@pytest.mark.parametrize(("method", "dtype"), [("lora", "float32"), ("lora", "bfloat16"), ("full", "float32")])
def test_shapes_alone_hold_what_real_tensors_hold(method, dtype):
    """The estimate of a pass is what `GroupForward` on real tensors is counted to hold, layers beyond the probed
    ones included."""
    tuning, tokens, longest = Tuning(method=method, dtype=dtype), 1024, 64
    config = tiny(layers=6)
    shapes = even_groups(tokens, tokens // 2, longest)
    groups = [Group((1,) * prompt, tuple((2,) * n for n in completions)) for prompt, completions in shapes]

    with trainable(made(config), tuning, 0) as model:
        forward = GroupForward(model)
        batch = forward.pack(groups)
        with _Live(model) as live:
            for _ in range(2):
                live.peak = live.now
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                    sums = forward(batch).sums
                sums.sum().backward()
    plan = plan_memory(config, tuning, tokens, tokens // 2, longest)
    estimate = plan.gradients + plan.activations + plan.head + plan.workspace
    assert estimate == pytest.approx(live.peak, rel=0.02)


def test_more_tokens_hold_more():
    totals = [planned(tokens).total for tokens in (64, 128, 512, 1024)]
    assert totals == sorted(set(totals))


def test_checkpointing_keeps_less():
    assert planned(1024, tiny(layers=8), checkpointing=True).activations < planned(1024, tiny(layers=8)).activations / 3


def test_other_architectures_need_no_formula():
    config = GPT2Config(vocab_size=96, n_embd=16, n_layer=5, n_head=2, n_positions=128)
    plan = plan_memory(config, Tuning(method="full"), 256, 128, 48)
    assert plan.gradients == 4 * (96 * 16 + 128 * 16 + 5 * (12 * 16 * 16 + 13 * 16) + 2 * 16)
    assert plan.activations > 0


@pytest.mark.parametrize("steps", [1, 17])
def test_the_largest_budget_is_the_inverse_of_the_plan(steps, monkeypatch):
    monkeypatch.setattr(memory, "MOST_TOKENS", 20 * memory.STEP_TOKENS)
    tokens, share, longest = memory.STEP_TOKENS * steps, 0.5, 48
    exact = plan_memory(tiny(), Tuning(), tokens, round(tokens * share), longest).total
    assert largest_budget(tiny(), Tuning(), exact, scored_share=share, longest=longest).tokens == tokens
    if steps > 1:  # one step less where one byte is missing
        below = largest_budget(tiny(), Tuning(), exact - 1, scored_share=share, longest=longest)
        assert below.tokens == tokens - memory.STEP_TOKENS
        assert below.total < exact


def test_no_budget_fits_says_what_needs_less():
    with pytest.raises(ModelError, match=r"training.method qlora or lora.*smaller model.*checkpointing"):
        largest_budget(tiny(), Tuning(method="full"), 2**20, scored_share=0.5, longest=48)


def test_even_groups_have_exactly_the_tokens():
    for tokens, scored, longest in [(1000, 500, 300), (64, 10, 64), (77, 70, 20), (4096, 4000, 512)]:
        shapes = even_groups(tokens, scored, longest)
        assert sum(p + sum(c) for p, c in shapes) in range(tokens - 2, tokens + 1)
        assert all(p > 0 and min(c) > 0 and p + max(c) <= longest for p, c in shapes)


def test_the_table_is_aligned_and_its_parts_sum_to_the_peak():
    plan = planned()
    lines = plan.text().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split()[0] == "peak"
    assert plan.total == sum(size for _, size in plan.parts)


def test_limits_of_control_groups_count_from_the_innermost_out(tmp_path, monkeypatch):
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("500\n")
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "a" / "memory.current").write_text("700\n")
    (tmp_path / "a" / "memory.stat").write_text("anon 300\ninactive_file 300\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    monkeypatch.setattr(free_memory, "OWN_GROUPS", own)
    # 700 - 300 of files = 400 held by all, 150 of it ours: 1000 - 250 are left to us, what we hold included
    assert free_memory._group_limits(150, tmp_path) == [750]


def test_version_one_without_a_limit_says_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (folder / "memory.usage_in_bytes").write_text("700\n")
    own = tmp_path / "cgroup"
    own.write_text("5:cpu,memory:/job\n3:devices:/\n")
    monkeypatch.setattr(free_memory, "OWN_GROUPS", own)
    assert free_memory._group_limits(0, tmp_path) == []
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    assert free_memory._group_limits(0, tmp_path) == [300]


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: many kB\n", "MemTotal: 5 kB\n"])
def test_unreadable_limits_are_none(tmp_path, text):
    path = tmp_path / "meminfo"
    assert free_memory._kilobytes(path, "MemAvailable:") is None
    path.write_text(text)
    assert free_memory._kilobytes(path, "MemAvailable:") is None


def test_a_system_that_says_nothing(monkeypatch):
    monkeypatch.setattr(free_memory, "_kilobytes", lambda path, name: None)
    monkeypatch.setattr(free_memory, "OWN_GROUPS", Path("/nowhere"))
    monkeypatch.setattr(free_memory, "_physical", lambda: None)
    assert available_memory() is None
    monkeypatch.setattr(free_memory, "_physical", lambda: 2**30)
    assert available_memory() == 2**30
