"""The group forward against separate rows, one forward pass per completion, no padding, no mask."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from prefloop.errors import DataError
from prefloop.models.attention import NAME, training_attention
from prefloop.models.group import ROWS, SHARED, Group, GroupForward, pack, sharing_obstacle

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    # Large weights: with the usual 0.02 a leak between completions would hide in the rounding.
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GATED: dict[str, Any] = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GATED),
    "mistral": MistralConfig(**GATED, sliding_window=None),
    "qwen3": Qwen3Config(**GATED, head_dim=8),
    "gpt2": GPT2Config(**SIZES),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


def ids(seed: int, length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, VOCABULARY, (length,), generator=generator).tolist())


def group(prompt: int, *lengths: int) -> Group:
    return Group(ids(prompt, prompt), tuple(ids(100 + length + k, length) for k, length in enumerate(lengths)))


SHAPES = {
    "C longer than R": [group(5, 7, 3)],
    "C of one token": [group(5, 1, 4)],
    "P of one token": [group(1, 3, 5)],
    "all of one token": [group(1, 1, 1)],
    "K=1": [group(4, 6)],
    "K=3": [group(6, 2, 5, 3)],
    "K=4": [group(3, 1, 2, 3, 4)],
    "groups of many shapes": [group(5, 7, 3), group(1, 2, 2, 2, 2), group(9, 1), group(2, 4, 1, 6)],
    "K=1 padded": [group(4, 6), group(9, 2), group(1, 1)],
}


def alone(model: PreTrainedModel, groups: Sequence[Group]) -> list[Tensor]:
    """Per-token log-probabilities of each completion from its own plain row: the textbook computation."""
    found = []
    for item, completion in ((g, y) for g in groups for y in g.completions):
        row = torch.tensor([[*item.prompt_ids, *completion]])
        logps = model(row, use_cache=False).logits[0].float().log_softmax(-1)
        start = len(item.prompt_ids)
        found.append(torch.stack([logps[start + t - 1, token] for t, token in enumerate(completion)]))
    return found


def gradients(model: PreTrainedModel, logps: Sequence[Tensor]) -> dict[str, Tensor]:
    """Gradient of a sum in which every token has another weight, so that no mix-up cancels."""
    flat = torch.cat(list(logps))
    model.zero_grad()
    (flat * torch.linspace(-1, 2, len(flat))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("family", "shape"), list(product(CONFIGS, SHAPES)))
def test_shared_rows_equal_separate_rows(family: str, shape: str) -> None:
    model, groups = build(CONFIGS[family]), SHAPES[shape]
    forward = GroupForward(model)
    assert forward.layout == SHARED
    expected = alone(model, groups)
    expected_gradients = gradients(model, expected)
    result = forward(forward.pack(groups))
    torch.testing.assert_close(result.tokens, torch.cat(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.sums, torch.stack([e.sum() for e in expected]), atol=1e-4, rtol=1e-5)
    found = gradients(model, result.split())
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        scale = gradient.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=1e-4)


def test_a_leak_between_completions_would_be_seen() -> None:
    """The test of the test: plain causal attention over the same row is far outside the tolerance."""
    model, groups = build(CONFIGS["llama"]), SHAPES["C longer than R"]
    batch = pack(groups)
    assert batch.mask is not None
    leaky = type(batch)(
        batch.input_ids,
        batch.position_ids,
        torch.ones_like(batch.mask).tril(),
        *(batch.scored, batch.head_row, batch.targets, batch.owner, batch.lengths, batch.padding),
    )
    difference = GroupForward(model)(leaky).tokens - torch.cat(alone(model, groups))
    assert difference[:7].abs().max() < 1e-5  # the first completion sees nothing it should not
    assert difference[7:].abs().max() > 0.1


def test_the_layout_by_hand() -> None:
    """[p0 p1 | a b c | d e] and [q0 | f]: the last prompt token predicts both a and d."""
    batch = pack([Group((10, 11), ((20, 21, 22), (30, 31))), Group((12,), ((40,),))], pad_id=9)
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 22, 30, 31], [12, 40, 9, 9, 9, 9, 9]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist()[0] == [0, 1, 2, 3, 4, 2, 3]
    assert batch.scored.long().tolist() == [[0, 1, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert batch.head_row.tolist() == [0, 1, 2, 0, 3, 4]
    assert batch.targets.tolist() == [20, 21, 22, 30, 31, 40]
    assert batch.owner.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.lengths.tolist() == [3, 2, 1]
    assert batch.padding == 5
    assert batch.mask is not None
    assert batch.mask[0].long().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert batch.mask.any(-1).all()  # padding queries see at least themselves


def test_one_completion_per_group_needs_no_mask() -> None:
    batch = pack(SHAPES["K=1 padded"])
    assert batch.mask is None
    assert batch.position_ids is None


def test_both_layouts_give_completions_in_one_order() -> None:
    model, groups = build(CONFIGS["llama"]), SHAPES["groups of many shapes"]
    forward = GroupForward(model)
    shared, rows = (forward(pack(groups, layout=layout)) for layout in (SHARED, ROWS))
    torch.testing.assert_close(shared.tokens, rows.tokens, atol=1e-5, rtol=1e-5)
    assert [len(part) for part in shared.split()] == [len(y) for g in groups for y in g.completions]


REFUSED: dict[str, PreTrainedConfig] = {
    "sliding window of 8 tokens": MistralConfig(**GATED, sliding_window=8),
    "layer types sliding_attention": Qwen3Config(
        **GATED, head_dim=8, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "takes no 4-D mask": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_models_that_cannot_share_fall_back_to_rows(reason: str) -> None:
    """Long enough to reach beyond the window, where a shared row would be silently wrong."""
    model, groups = build(REFUSED[reason]), [group(9, 12, 7), group(3, 10)]
    forward = GroupForward(model)
    assert forward.layout == ROWS
    assert reason in forward.why
    torch.testing.assert_close(
        forward(forward.pack(groups)).tokens, torch.cat(alone(model, groups)), atol=1e-5, rtol=1e-5
    )


def test_a_model_that_ignores_the_mask_is_found_out() -> None:
    """The configuration promises full attention; the check on the model itself decides."""
    model = build(CONFIGS["llama"])
    plain = model.forward
    model.forward = lambda attention_mask=None, **rest: plain(**rest)  # type: ignore[method-assign] # the fault
    forward = GroupForward(model)
    assert forward.layout == ROWS
    assert "differ by" in forward.why


def test_configurations_that_may_share() -> None:
    assert sharing_obstacle(build(CONFIGS["llama"]).config) is None
    flash = build(CONFIGS["llama"]).config
    flash._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in str(sharing_obstacle(flash))


def test_eager_attention_shares_too() -> None:
    model, groups = build(CONFIGS["llama"]), SHAPES["groups of many shapes"]
    model.set_attn_implementation("eager")
    forward = GroupForward(model)
    assert forward.layout == SHARED
    torch.testing.assert_close(
        forward(forward.pack(groups)).tokens, torch.cat(alone(model, groups)), atol=1e-5, rtol=1e-5
    )


def test_lora_on_every_linear_layer() -> None:
    model, groups = build(CONFIGS["llama"]), SHAPES["groups of many shapes"]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapted.eval()
    forward = GroupForward(adapted)
    assert forward.layout == SHARED
    expected = alone(adapted, groups)  # type: ignore[arg-type] # a PeftModel is called like its model
    expected_gradients = gradients(model, expected)
    result = forward(forward.pack(groups))
    torch.testing.assert_close(result.tokens, torch.cat(expected), atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(model, result.split()).items():
        scale = expected_gradients[name].abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("shape", ["K=1 padded", "groups of many shapes"])
def test_training_attention_in_bfloat16_equals_sdpa(shape: str) -> None:
    """Same products, other order: within bfloat16 rounding of the fused kernel, for values and gradients."""
    model, groups = build(LlamaConfig(**{**GATED, "initializer_range": 0.1})), SHAPES[shape]
    forward = GroupForward(model)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", torch.bfloat16):
            logps = forward(forward.pack(groups))
        return logps.tokens.detach(), gradients(model, logps.split())

    expected, expected_gradients = run()
    with training_attention(model):
        assert model.config._attn_implementation == NAME
        found, found_gradients = run()
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)
    for name, gradient in expected_gradients.items():
        error = (found_gradients[name] - gradient).norm() / gradient.norm()
        assert error < 0.05, name


def test_training_attention_leaves_float32_and_generation_alone() -> None:
    model = build(CONFIGS["llama"])
    prompt = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])  # the first row is padded on the left
    present = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    expected = model.generate(prompt, attention_mask=present, max_new_tokens=6, do_sample=False)
    with training_attention(model):
        assert model.generate(prompt, attention_mask=present, max_new_tokens=6, do_sample=False).equal(expected)


def test_empty_prompts_and_completions_are_refused() -> None:
    for prompt, completions in (((), ((1,),)), ((1,), ()), ((1,), ((2,), ()))):
        with pytest.raises(DataError, match="at least one token"):
            Group(prompt, completions)
