"""The group forward against separate rows, one forward pass per completion, no padding, no mask."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, product
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from prefloop.errors import DataError
from prefloop.models import attention, head
from prefloop.models.attention import NAME, Segments, training_attention
from prefloop.models.group import PACKED, ROWS, Group, GroupForward, pack, sharing_obstacle

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
    "qwen2": Qwen2Config(**GATED),
    "qwen3": Qwen3Config(**GATED, head_dim=8),
    "gemma": GemmaConfig(**GATED, head_dim=8),
    "granite": GraniteConfig(**GATED, logits_scaling=3.0),  # changes logits after the head
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


@contextmanager
def ready(model: Any, long: bool = False) -> Iterator[GroupForward]:
    """The group forward of a model; `long` takes the way of long rows whatever their length."""
    with pytest.MonkeyPatch.context() as patch, training_attention(getattr(model, "base_model", model)):
        if long:
            patch.setattr(attention, "SHORT", 0)
        yield GroupForward(model)


@pytest.mark.parametrize(("family", "shape", "long"), list(product(CONFIGS, SHAPES, (False, True))))
def test_packed_rows_equal_separate_rows(family: str, shape: str, long: bool) -> None:
    model, groups = build(CONFIGS[family]), SHAPES[shape]
    expected = alone(model, groups)
    expected_gradients = gradients(model, expected)
    with ready(model, long) as forward:
        assert (forward.layout, forward._plain_head) == (PACKED, family != "granite"), forward.why
        result = forward(forward.pack(groups))
        found = gradients(model, result.split())
    torch.testing.assert_close(result.tokens, torch.cat(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.sums, torch.stack([e.sum() for e in expected]), atol=1e-4, rtol=1e-5)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        scale = gradient.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("long", [False, True])
def test_a_leak_between_completions_would_be_seen(long: bool) -> None:
    """The test of the test: told that both completions are one, it is far outside the tolerance."""
    model, groups = build(CONFIGS["llama"]), SHAPES["C longer than R"]
    with ready(model, long) as forward:
        batch = forward.pack(groups)
        leaky = dataclasses.replace(batch, segments=Segments.of([(5, (10,))], torch.device("cpu")))
        difference = forward(leaky).tokens - torch.cat(alone(model, groups))
    assert difference[:7].abs().max() < 1e-5  # the first completion sees nothing it should not
    assert difference[7:].abs().max() > 0.1


def test_the_layout_by_hand() -> None:
    """[p0 p1 | a b c | d e][q0 | f]: the last prompt token predicts both a and d."""
    groups = [Group((10, 11), ((20, 21, 22), (30, 31))), Group((12,), ((40,),))]
    batch = pack(groups)
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 22, 30, 31, 12, 40]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1]]
    assert batch.sources.tolist() == [1, 2, 3, 1, 5, 7]
    assert batch.targets.tolist() == [20, 21, 22, 30, 31, 40]
    assert batch.owner.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.lengths.tolist() == [3, 2, 1]
    assert batch.ends.tolist() == [4, 6, 8]
    assert batch.padding == 0
    rows = pack(groups, ROWS)
    assert rows.input_ids.tolist() == [[10, 11, 20, 21, 22], [10, 11, 30, 31, 0], [12, 40, 0, 0, 0]]
    assert rows.sources.tolist() == [1, 2, 3, 6, 7, 10]
    assert rows.ends.tolist() == [4, 8, 11]
    assert (rows.position_ids, rows.segments, rows.padding) == (None, None, 4)


def test_the_segments_by_hand() -> None:
    """The same row as queries and keys of a variable-length kernel, and as padded rows."""
    shapes = [(2, (3, 2)), (1, (1,))]
    assert [piece for place, shape in attention._placed(shapes) for piece in attention._pieces(place, shape)] == [
        (0, 5, [0, 1, 2, 3, 4]),  # the prompt's queries go with the first completion's
        (5, 7, [0, 1, 5, 6]),
        (7, 9, [7, 8]),
    ]
    segments = Segments.of(shapes, torch.device("cpu"))
    assert segments.longest == (5, 5)
    assert segments.rows_NL is not None
    assert segments.rows_NL.tolist() == [[0, 1, 2, 3, 4], [0, 1, 5, 6, 0], [7, 8, 0, 0, 0]]
    assert segments.place_T is not None
    assert segments.place_T.tolist() == [0, 1, 2, 3, 4, 7, 8, 10, 11]


def test_the_variable_length_call_by_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the flash kernel is given, computed segment by segment with its rule: causal, aligned at the lower right."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *_: int, **options: Any) -> Tensor:
        assert options["window_size"] == (-1, 0)
        out = []
        for i in range(len(cu_q) - 1):
            (a, b), (c, d) = cu_q[i : i + 2].tolist(), cu_k[i : i + 2].tolist()
            mask = torch.ones(b - a, d - c, dtype=torch.bool).tril((d - c) - (b - a))
            parts = [t[None].transpose(1, 2) for t in (q[a:b], k[c:d], v[c:d])]
            found = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask, scale=options["scale"])
            out.append(found.transpose(1, 2)[0])
        return torch.cat(out)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    shapes = [(5, (7, 3)), (1, (2, 2, 2)), (9, (1,))]
    meta = Segments.of(shapes, torch.device("meta"))
    pieces = [p for place, shape in attention._placed(shapes) for p in attention._pieces(place, shape)]
    keys = torch.tensor([token for *_, seen in pieces for token in seen])
    cu_q = torch.tensor([0, *accumulate(end - start for start, end, _ in pieces)])
    cu_k = torch.tensor([0, *accumulate(len(seen) for *_, seen in pieces)])
    segments = dataclasses.replace(meta, keys=keys, starts=(cu_q, cu_k))
    total = sum(p + sum(c) for p, c in shapes)
    states = [torch.randn(1, 4, total, 8) for _ in range(3)]
    expected = attention._attend_split(*states, segments, 0.3)
    torch.testing.assert_close(attention._attend_varlen(*states, segments, 0.3), expected, atol=1e-6, rtol=1e-5)


def test_both_layouts_give_completions_in_one_order() -> None:
    model, groups = build(CONFIGS["llama"]), SHAPES["groups of many shapes"]
    with ready(model) as forward:
        packed, rows = (forward(pack(groups, layout)) for layout in (PACKED, ROWS))
    torch.testing.assert_close(packed.tokens, rows.tokens, atol=1e-5, rtol=1e-5)
    assert [len(part) for part in packed.split()] == [len(y) for g in groups for y in g.completions]


REFUSED: dict[str, PreTrainedConfig] = {
    "soft-capped attention scores": Gemma2Config(**GATED, head_dim=8, sliding_window=8),
    "implementation eager": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_models_that_cannot_share_fall_back_to_rows(reason: str) -> None:
    model, groups = build(REFUSED[reason]), [group(9, 12, 7), group(3, 10)]
    with ready(model) as forward:
        assert forward.layout == ROWS
        assert reason in forward.why
        found = forward(forward.pack(groups)).tokens
    torch.testing.assert_close(found, torch.cat(alone(model, groups)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**GATED, sliding_window=12),
        Qwen3Config(**GATED, head_dim=8, use_sliding_window=True, sliding_window=12, max_window_layers=1),
    ],
    ids=["every layer", "some layers"],
)
def test_a_sliding_window_shares_as_far_as_it_reaches(config: PreTrainedConfig) -> None:
    model = build(config)
    with ready(model) as forward:
        for groups, packed in (([group(5, 7, 3)], True), ([group(5, 7, 3), group(9, 6, 5)], False)):
            batch = forward.pack(groups)
            assert (batch.segments is not None) == packed
            torch.testing.assert_close(forward(batch).tokens, torch.cat(alone(model, groups)), atol=1e-5, rtol=1e-5)


def test_a_model_that_ignores_what_it_is_told_is_found_out() -> None:
    """The configuration promises full attention; the check on the model itself decides."""
    model = build(CONFIGS["llama"])
    decoder = model.get_decoder()
    plain = decoder.forward
    decoder.forward = lambda segments=None, attention_mask=None, **rest: plain(**rest)
    with ready(model) as forward:
        assert forward.layout == ROWS
        assert "differ by" in forward.why


def test_configurations_that_may_share() -> None:
    model = build(CONFIGS["llama"])
    assert "sdpa" in str(sharing_obstacle(model.config))
    with training_attention(model):
        assert sharing_obstacle(model.config) is None
        model.config.layer_types = ["full_attention", "linear_attention"]
        assert sharing_obstacle(model.config) == "layer types linear_attention"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("head", [False, True], ids=["frozen head", "adapter on the head"])
def test_lora(head: bool, checkpointing: bool) -> None:
    model, groups = build(CONFIGS["llama"]), SHAPES["groups of many shapes"]
    targets = r".*(proj|lm_head)" if head else "all-linear"
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()
    if checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
        adapted.train()  # transformers checkpoints in training mode only; dropout is 0
    expected = alone(adapted, groups)  # type: ignore[arg-type] # a PeftModel is called like its model
    expected_gradients = gradients(model, expected)
    with training_attention(model):
        forward = GroupForward(adapted)
        assert (forward.layout, forward._plain_head) == (PACKED, not head)
        result = forward(forward.pack(groups))
        found = gradients(model, result.split())
    torch.testing.assert_close(result.tokens, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        scale = expected_gradients[name].abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("shape", ["K=1 padded", "groups of many shapes"])
def test_bfloat16_is_within_its_rounding(shape: str, long: bool) -> None:
    model, groups = build(LlamaConfig(**{**GATED, "initializer_range": 0.1})), SHAPES[shape]
    expected = alone(model, groups)
    expected_gradients = gradients(model, expected)
    with ready(model, long) as forward:
        assert model.config._attn_implementation == NAME
        with torch.autocast("cpu", torch.bfloat16):
            logps = forward(forward.pack(groups))
        found = gradients(model, logps.split())
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(logps.tokens.detach(), torch.cat(expected).detach(), atol=0.05, rtol=0.02)
    for name, gradient in expected_gradients.items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < 0.05, name


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("kept", [0, 2**31])
@pytest.mark.parametrize("trained", [False, True])
def test_the_head_in_chunks_by_log_softmax(chunk: int, kept: int, trained: bool, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 23 * chunk)
    monkeypatch.setattr(head, "KEPT_BYTES", kept)
    hidden = torch.randn(7, 5, requires_grad=True)
    weight, bias = (torch.randn(size, requires_grad=trained) for size in ((23, 5), (23,)))
    targets = torch.tensor([0, 22, 5, 5, 1, 9, 3])
    scale = torch.linspace(-1, 2, 7)
    wanted = [hidden, weight, bias] if trained else [hidden]
    expected = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    expected_gradients = torch.autograd.grad((expected * scale).sum(), wanted)
    found, log_squares = head.token_logps(hidden, weight, bias, targets, squares=True)
    squares = torch.nn.functional.linear(hidden, weight, bias).softmax(-1).square().sum(-1).log()
    torch.testing.assert_close(log_squares, squares.detach())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * scale).sum(), wanted), expected_gradients)


def test_training_attention_leaves_generation_alone() -> None:
    model = build(CONFIGS["llama"])
    prompt = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])  # the first row is padded on the left
    present = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    expected = model.generate(prompt, attention_mask=present, max_new_tokens=6, do_sample=False)
    with training_attention(model):
        assert model.generate(prompt, attention_mask=present, max_new_tokens=6, do_sample=False).equal(expected)


def test_empty_prompts_and_completions_are_refused() -> None:
    for prompt, completions in (((), ((1,),)), ((1,), ()), ((1,), ((2,), ()))):
        with pytest.raises(DataError, match="at least one scored token"):
            Group(prompt, completions)


def test_unscored_tokens_are_read_but_not_scored() -> None:
    """A thinking section of two tokens: the rest scores as it does behind it, in both layouts."""
    model = build(CONFIGS["llama"])
    whole = Group((3, 4), ((5, 6, 7, 8), (9, 10)))
    part = Group((3, 4), ((5, 6, 7, 8), (9, 10)), (2, 0))
    with training_attention(model), torch.no_grad():
        forward = GroupForward(model)
        expected = forward(forward.pack([whole])).split()
        for layout in (PACKED, ROWS):
            found = forward(pack([part], layout))
            assert found.lengths.tolist() == [2, 2]
            assert torch.allclose(found.split()[0], expected[0][2:], atol=1e-5)
            assert torch.allclose(found.split()[1], expected[1], atol=1e-5)
    with pytest.raises(DataError, match="at least one scored token"):
        Group((3,), ((5, 6),), (2,))
