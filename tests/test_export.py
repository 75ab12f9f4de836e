"""Export: the folder is plain, holds the weights worked out by hand, and answers as base and adapter do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import prefloop
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from typer.testing import CliRunner

from prefloop.cli.app import app
from prefloop.config.training import TrainingConfig
from prefloop.errors import ConfigError, ModelError, PrefloopError, StoreError
from prefloop.models import export
from prefloop.models.export import export_model
from prefloop.models.lineage import LINEAGE_FILE, hash_folder
from prefloop.models.load import load_policy, quantised
from prefloop.models.reward import HEAD, load_reward_model, new_reward_model
from prefloop.models.tokenizer import train_tokenizer
from prefloop.records import Completion, Preference, Prompt
from prefloop.training.preference import train_preferences

IDS = torch.tensor([[5, 9, 70, 71, 250, 33, 12, 8]])
ALPHA, RANK = 12, 4
Q = "model.layers.0.self_attn.q_proj"
LEVELS = """-1.0 -0.69619280 -0.52507305 -0.39491749 -0.28444138 -0.18477343 -0.09105004 0.0
0.07958030 0.16093020 0.24611230 0.33791524 0.44070983 0.56261700 0.72295684 1.0"""
"""Of NF4: QLoRA's appendix E, to eight places."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build_base(folder: Path, seed: int = 0, model: Any = None) -> Path:
    tokenizer = train_tokenizer(["who led the league in points per game"] * 3, 300, 96)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=96,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = model or LlamaForCausalLM(config)
    model.generation_config.repetition_penalty = 1.3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_adapter(
    base: Path, out: Path, method: str, variant: str = "lora", spread: float = 0.1, reward: bool = False
) -> Path:
    """An adapter of every linear layer; its B, and DoRA's magnitudes, are moved at random in place of training."""
    policy = load_policy(base, device="cpu")
    if reward:
        policy = new_reward_model(policy, method, "float32", 3)
    four = quantised(policy, "float32") if method == "qlora" and not reward else policy.model
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules="all-linear",
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        modules_to_save=[HEAD] if reward else None,
    )
    model = get_peft_model(four, lora)
    shake(model, spread)
    model.save_pretrained(out)
    (out / LINEAGE_FILE).write_text(json.dumps({"base": policy.lineage.base, "method": method}))
    return out


@torch.no_grad()
def shake(model: Any, spread: float = 0.1) -> None:
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, spread)
        if "magnitude" in name:
            parameter.mul_(1 + spread * torch.rand_like(parameter))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    """One adapter of each kind, by method and variant."""
    made = [("lora", "lora"), ("lora", "rslora"), ("lora", "dora"), ("qlora", "lora"), ("qlora", "dora")]
    return {f"{m} {v}": build_adapter(base, base.parent / f"{m}-{v}", m, v) for m, v in made}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    result: Tensor = model(IDS).logits
    return result


def greedy(model: Any) -> list[int]:
    ids: list[int] = model.generate(IDS, do_sample=False, max_new_tokens=24)[0].tolist()
    return ids


def by_hand(base: Path, adapter: Path, variant: str) -> Tensor:
    """The first query projection: W + scale·BA, and for DoRA its rows set to their learned lengths."""
    weight = load_file(base / "model.safetensors")[f"{Q}.weight"]
    parts = load_file(adapter / "adapter_model.safetensors")
    a, b = (parts[f"base_model.model.{Q}.lora_{x}.weight"] for x in "AB")
    summed = weight + ALPHA / (RANK**0.5 if variant == "rslora" else RANK) * b @ a
    if variant != "dora":
        return summed
    magnitude = parts[f"base_model.model.{Q}.lora_magnitude_vector"]
    return magnitude[:, None] * summed / summed.norm(dim=1, keepdim=True)


# --- What is written ---


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_the_folder_is_plain_and_answers_the_same(
    base: Path, adapters: dict[str, Path], variant: str, tmp_path: Path
) -> None:
    adapter, out = adapters[f"lora {variant}"], tmp_path / "merged"
    result = export_model(str(base), adapter, out, device="cpu")
    original = AutoModelForCausalLM.from_pretrained(base).eval()
    before = logits(original)
    tuned = PeftModel.from_pretrained(original, adapter).eval()
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    assert (logits(tuned) - before).abs().max() > 0.1
    torch.testing.assert_close(logits(plain), logits(tuned), atol=1e-4, rtol=1e-5)
    assert greedy(plain) == greedy(tuned)
    merged = load_file(out / "model.safetensors")
    torch.testing.assert_close(merged[f"{Q}.weight"], by_hand(base, adapter, variant), atol=1e-6, rtol=1e-5)
    assert merged.keys() == load_file(base / "model.safetensors").keys()
    assert result.difference < 1e-4
    assert result.difference_of_rounding == 0
    assert result.same_top == 1
    assert result.quantisation is None


def test_everything_but_the_weights_is_the_bases(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "merged"
    result = export_model(base, adapters["lora lora"], out, device="cpu")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_text() == (base / name).read_text()
    messages = [{"role": "user", "content": "who led 1986?"}]
    mine, theirs = (AutoTokenizer.from_pretrained(place) for place in (out, base))
    assert mine.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)
    policy = load_policy(out, device="cpu")
    recorded = json.loads((out / LINEAGE_FILE).read_text())
    assert policy.lineage.id == result.policy == recorded["policy"]
    assert recorded["base"] == hash_folder(base)
    assert recorded["merged"] == [hash_folder(adapters["lora lora"])]
    assert sum(path.stat().st_size for path in out.iterdir()) == result.size_bytes
    assert [path.name for path in out.parent.iterdir()] == ["merged"]
    with pytest.raises(ModelError, match="wrong base"):  # an adapter is not put on top of itself
        load_policy(out, adapters["lora lora"], device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_rounding_explains_is_measured(base: Path, adapters: dict[str, Path], dtype: str, tmp_path: Path) -> None:
    adapter, out = adapters["lora lora"], tmp_path / "merged"
    result = export_model(base, adapter, out, dtype, device="cpu")
    stored = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    half_a_place = torch.finfo(getattr(torch, dtype)).eps / 2
    by = by_hand(base, adapter, "lora")
    torch.testing.assert_close(stored[f"{Q}.weight"].float(), by, rtol=half_a_place, atol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(out).dtype is getattr(torch, dtype)
    tuned = load_policy(base, adapter, device="cpu").model
    rounded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert 0 < (logits(rounded) - logits(tuned)).abs().max() < 3 * result.difference
    assert result.difference == pytest.approx(result.difference_of_rounding, rel=0.05)


def test_a_reward_model_keeps_its_head(base: Path, tmp_path: Path) -> None:
    reward_adapter, out = build_adapter(base, tmp_path / "adapter", "lora", reward=True), tmp_path / "merged"
    result = export_model(base, reward_adapter, out, device="cpu")
    plain = AutoModelForSequenceClassification.from_pretrained(out).eval()
    tuned = load_reward_model(base, reward_adapter, device="cpu")
    torch.testing.assert_close(logits(plain), logits(tuned.model), atol=1e-4, rtol=1e-4)
    head = load_file(reward_adapter / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert plain.score.weight.equal(head)
    assert logits(load_reward_model(out, device="cpu").model).equal(logits(plain))
    assert plain.config.pad_token_id == tuned.tokenizer.pad_token_id  # else batches of different lengths are refused
    assert (result.kind, result.same_top) == ("reward model", None)


def test_separate_embeddings_stay_apart(base: Path, tmp_path: Path) -> None:
    """A head trained whole on a model whose head and embeddings were one matrix: afterwards they are two."""
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    with torch.no_grad():
        adapted.get_base_model().lm_head.modules_to_save["default"].weight.mul_(1.5)
    adapted.save_pretrained(tmp_path / "adapter")
    export_model(base, tmp_path / "adapter", tmp_path / "merged", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(plain), logits(adapted.eval()), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_an_adapter_of_one_of_two_tied_layers(base: Path, module: str, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=[module], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    export_model(base, tmp_path / "adapter", tmp_path / "merged", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(plain), logits(adapted), atol=1e-4, rtol=1e-5)


# --- From QLoRA ---


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_qlora_is_merged_onto_the_weights_it_saw(
    base: Path, adapters: dict[str, Path], variant: str, tmp_path: Path
) -> None:
    adapter = adapters[f"qlora {variant}"]
    result = export_model(base, adapter, tmp_path / "merged", device="cpu")
    cost = result.quantisation
    assert cost is not None
    assert result.difference < 1e-4
    assert cost.difference_to_4bit < 1e-4
    assert cost.difference_on_original > 0.1
    other = export_model(base, adapter, tmp_path / "plain", onto_quantised=False, device="cpu")
    assert other.quantisation is None
    one, two = (
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32))
        for name in ("merged", "plain")
    )
    assert (one - two).abs().max() > 0.1  # the choice matters: the adapter learned on other weights
    torch.testing.assert_close(
        load_file(tmp_path / "plain" / "model.safetensors")[f"{Q}.weight"],
        by_hand(base, adapter, variant),
        atol=1e-6,
        rtol=1e-5,
    )


def test_the_dequantised_weights_are_nf4(base: Path, tmp_path: Path) -> None:
    """With B = 0 the export is the dequantised base: in blocks of 64, each a multiple of the 16 NF4 levels."""
    adapter = build_adapter(base, tmp_path / "still", "qlora", spread=0)
    result = export_model(base, adapter, tmp_path / "merged", device="cpu")
    after, before = (load_file(place / "model.safetensors") for place in (tmp_path / "merged", base))
    changed = {name for name in before if not after[name].equal(before[name])}
    assert changed == {name for name in before if "_proj" in name}  # not embeddings, head or norms
    moved = sum(float((after[name] - before[name]).square().sum()) for name in changed)
    total = sum(float(before[name].square().sum()) for name in changed)
    assert result.quantisation is not None
    assert result.quantisation.weights_moved == pytest.approx((moved / total) ** 0.5, rel=1e-4)
    for name in changed:
        blocks = after[name].reshape(-1, 64)
        levels = blocks / blocks.abs().amax(1, keepdim=True)
        assert (levels[..., None] - torch.tensor([float(level) for level in LEVELS.split()])).abs().amin(
            -1
        ).max() < 1e-5


def test_qlora_on_layers_that_keep_their_weights_transposed(tmp_path: Path) -> None:
    """GPT-2's; its first projection is square, so that a missed transposition would not fail by shape."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.1)
    base = build_base(tmp_path / "gpt2", model=GPT2LMHeadModel(config))
    adapter = build_adapter(base, tmp_path / "adapter", "qlora")
    result = export_model(base, adapter, tmp_path / "merged", device="cpu")
    assert result.quantisation is not None
    assert result.quantisation.difference_to_4bit < 1e-4 < 0.01 < result.quantisation.difference_on_original


@pytest.mark.parametrize(("method", "dequantised"), [("qlora", True), ("lora", False)])
def test_training_records_what_export_needs(base: Path, method: str, dequantised: bool, tmp_path: Path) -> None:
    prompt = Prompt.create(({"role": "user", "content": "who led?"},), "toy", "train")
    answers = [Completion(t, prompt.id, i, 0, t, (), (), "stop", "toy", {}, 0) for i, t in enumerate(["one", "two"])]
    train_preferences(
        load_policy(base, device="cpu"),
        [Preference.pair(prompt.id, "one", "two", 1.0, 0.0, "toy")],
        {answer.id: answer for answer in answers},
        {prompt.id: prompt},
        TrainingConfig(method=method, epochs=1),
        tmp_path / "adapter",
        work=tmp_path / "work",
        seed=1,
    )
    result = export_model(base, tmp_path / "adapter", tmp_path / "merged", device="cpu")
    assert (result.quantisation is not None) == dequantised
    assert json.loads((tmp_path / "merged" / LINEAGE_FILE).read_text())["dequantised"] == dequantised


def test_a_reward_model_from_qlora(base: Path, tmp_path: Path) -> None:
    build_adapter(base, tmp_path / "adapter", "qlora", reward=True)
    result = export_model(base, tmp_path / "adapter", tmp_path / "merged", device="cpu")
    assert result.quantisation is not None
    assert result.quantisation.difference_to_4bit < 1e-4 < 1e-3 < result.quantisation.difference_on_original


# --- What is refused; nothing is left behind ---


def assert_refused(kind: type[PrefloopError], words: str, out: Path, *arguments: Any, **options: Any) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind, match=words) as caught:
        export_model(*arguments[:2], out, *arguments[2:], device="cpu", **options)
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before


def test_what_is_no_adapter_of_this_base(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    other = build_base(tmp_path / "other", seed=7)
    assert_refused(ModelError, "wrong base for the adapter", out, other, adapters["lora lora"])
    assert_refused(ModelError, "whole model: use it as it is", out, base, other)
    assert_refused(ModelError, "not an adapter folder", out, base, tmp_path / "nowhere")
    assert_refused(ModelError, "no model folder", out, tmp_path / "nowhere", adapters["lora lora"])
    assert_refused(ConfigError, "int8", out, base, adapters["lora lora"], "int8")
    prompt = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), prompt).save_pretrained(tmp_path / "prompt")
    assert_refused(ModelError, "virtual tokens", out, base, tmp_path / "prompt")


@pytest.mark.parametrize(
    ("content", "words"),
    [("[", "is damaged"), ("[]", "is damaged"), ('{"task_type": "SEQ_2_SEQ_LM"}', "SEQ_2_SEQ_LM")],
)
def test_an_adapter_configuration_that_says_no(base: Path, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(content)
    assert_refused(ModelError, words, tmp_path / "merged", base, tmp_path / "adapter")


def test_an_output_that_stands(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("precious")
    assert_refused(StoreError, "exists already", taken, base, adapters["lora lora"])
    assert_refused(StoreError, "exists already", taken / "mine", base, adapters["lora lora"])
    (tmp_path / "empty").mkdir()
    (tmp_path / ".empty.partial").mkdir()
    (tmp_path / ".empty.partial" / "of a killed export").write_text("half")
    export_model(base, adapters["lora lora"], tmp_path / "empty", device="cpu")
    assert not (tmp_path / ".empty.partial").exists()
    assert not (tmp_path / "empty" / "of a killed export").exists()


def test_a_full_disk(base: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(export.os, "fsync", full)
        assert_refused(StoreError, "disk full", tmp_path / "merged", base, adapters["lora lora"])
    monkeypatch.setattr(export.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    monkeypatch.setattr(export, "_merged", lambda *_: pytest.fail("work was done that cannot be written"))
    assert_refused(StoreError, "disk full.*are free", tmp_path / "merged", base, adapters["lora lora"])


def test_a_folder_that_answers_otherwise(
    base: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write

    def damaged(model: Any, *rest: Any) -> None:
        with torch.no_grad():
            model.model.norm.weight[3] += 0.1
        write(model, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(export, "_write", damaged)
        assert_refused(ModelError, "is not what was merged", tmp_path / "merged", base, adapters["lora lora"])
    monkeypatch.setattr(export, "_merged", lambda adapted, adapter: adapted.model.unload())
    assert_refused(ModelError, "cannot be folded into", tmp_path / "merged", base, adapters["lora lora"])


def test_a_type_too_small_for_the_weights(tmp_path: Path) -> None:
    base = build_base(tmp_path / "large")
    model = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] *= 1e7  # row 0 is padding, all zeros
    model.save_pretrained(base)
    adapter = build_adapter(base, tmp_path / "adapter", "lora")
    assert_refused(
        ModelError, "float16 cannot hold.*embed_tokens.*bfloat16", tmp_path / "merged", base, adapter, "float16"
    )


# --- The command ---


def test_the_command_tells_and_writes(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["export", str(base), "--device", "cpu", "--adapter"]
    told = CliRunner().invoke(app, [*arguments, str(adapters["qlora lora"]), "--out", str(tmp_path / "one")])
    assert told.exit_code == 0, told.exception
    for words in ("read back", "likeliest token", "quantisation", "4-bit model", "original weights"):
        assert words in told.stdout
    options = ["--dtype", "bfloat16", "--no-quantised", "--json", "--out", str(tmp_path / "two")]
    told = CliRunner().invoke(app, [*arguments, str(adapters["qlora lora"]), *options])
    result = json.loads(told.stdout)
    assert result["quantisation"] is None
    assert result["dtype"] == "bfloat16"
    assert result["policy"] == load_policy(tmp_path / "two", device="cpu").lineage.id


def test_the_command_fails_on_one_line(base: Path, tmp_path: Path) -> None:
    done = prefloop("export", base, "--adapter", base, "--out", tmp_path / "out")
    assert done.returncode == ModelError.exit_code
    assert done.stderr.startswith("prefloop: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
