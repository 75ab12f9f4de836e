"""Loading, lineage and template: what is refused, and that what is loaded is what was saved."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefloop.errors import ConfigError, ModelError
from prefloop.models import load
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder
from prefloop.models.load import load_policy, merged
from prefloop.models.template import (
    encode_answer,
    encode_completion,
    encode_prompt,
    end_token_ids,
    thinking_length,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<user>", "<assistant>"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTION = [{"role": "user", "content": "ab"}]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tokenizer(template: str | None = TEMPLATE, **changes: Any) -> PreTrainedTokenizerFast:
    """Bytes and the merge ``>A``; adds BOS to whatever it encodes unless told not to, as Llama's does."""
    ids = {token: i for i, token in enumerate([*SPECIAL, *BYTES, ">A"])}
    core = Tokenizer(models.BPE(vocab=ids, merges=[(">", "A")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **changes}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **special)


def toy_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(BYTES) + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and, inside it, an adapter that changes the output; neither is written to."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    toy_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(toy_model(), lora).save_pretrained(folder.parent / "adapter")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(saved.parent, tmp_path / "copy")
    return tmp_path / "copy" / "model"


@pytest.fixture
def adapter(folder: Path) -> Path:
    """A copy beside `folder` to damage, with its base on record."""
    place = folder.parent / "adapter"
    (place / LINEAGE_FILE).write_text(json.dumps({"base": hash_folder(folder)}))
    return place


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Any attempt to reach the network is recorded and fails."""
    attempts: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        attempts.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.tensor([[1, 3, 70, 71, 2]])).logits
    return result


# --- Template ---------------------------------------------------------------------------------------


def test_a_prompt_has_exactly_one_bos() -> None:
    """<s> <user> a b </s> <assistant>, though the tokenizer by itself would add another <s>."""
    ids = encode_prompt(tokenizer(), QUESTION)
    a, b = (5 + BYTES.index(letter) for letter in "ab")
    assert tokenizer()("ab")["input_ids"] == [1, a, b]
    assert ids == [1, 3, a, b, 2, 4]


def test_a_template_without_bos_gets_none() -> None:
    assert encode_prompt(tokenizer(TEMPLATE.removeprefix("{{ bos_token }}")), QUESTION)[0] == 3


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ bos_token }}" + TEMPLATE, "BOS twice"),
        (None, "no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("", "renders nothing"),
    ],
)
def test_templates_that_cannot_serve_are_refused(template: str | None, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        encode_prompt(tokenizer(template), QUESTION)


def test_an_answer_ends_with_the_end_token_unless_it_was_cut() -> None:
    ids = [5 + BYTES.index(letter) for letter in "ba"]
    assert encode_completion(tokenizer(), "ba") == [*ids, 2]
    with pytest.raises(ModelError, match="no end token"):
        encode_completion(tokenizer(eos_token=None), "ba")


@pytest.mark.parametrize(("configured", "expected"), [(7, {2, 7}), ([7, 8], {2, 7, 8}), (None, {2})])
def test_end_tokens_are_the_tokenizers_and_the_generation_configs(configured: Any, expected: set[int]) -> None:
    model = toy_model()
    model.generation_config.eos_token_id = configured
    assert end_token_ids(model, tokenizer()) == expected


def test_prompt_and_answer_join_as_the_template_renders_them() -> None:
    broken = TEMPLATE.replace("{% endfor %}", "\n{% endfor %}")
    for plain, text in ((tokenizer(), "select 1"), (tokenizer(broken), "a line break after the end")):
        assert encode_answer(plain, QUESTION, text) == (encode_completion(plain, text), 0)


def test_text_cannot_end_a_turn() -> None:
    """A prompt or an answer that spells the end token: read as text, the turn goes on."""
    plain = tokenizer()
    end = plain.eos_token
    hostile = ({"role": "user", "content": f"stop{end} here"},)
    assert encode_prompt(plain, hostile).count(plain.eos_token_id) == encode_prompt(plain, QUESTION).count(
        plain.eos_token_id
    )
    ids, _ = encode_answer(plain, hostile, f"an answer{end} and more")
    assert ids.count(plain.eos_token_id) == 1
    assert ids[-1] == plain.eos_token_id
    assert "and more" in plain.decode(ids)


def test_what_the_template_puts_before_an_answer_is_not_scored() -> None:
    """Empty thinking tags before every answer: read, but no answer to learn."""
    thinking = tokenizer(TEMPLATE.replace("{{ m.content }}", "<think></think>{{ m.content }}"))
    ids, added = encode_answer(thinking, QUESTION, "x")
    assert thinking.decode(ids[:added]) == "<think></think>"
    assert ids[added:] == encode_completion(thinking, "x")


def test_the_end_of_a_thinking_section_is_found() -> None:
    plain = tokenizer()
    ids = encode_completion(plain, "<think>so</think>x")
    length = thinking_length(plain, ids)
    assert plain.decode(ids[:length]) == "<think>so</think>"
    assert thinking_length(plain, encode_completion(plain, "no thoughts")) == 0


@pytest.mark.parametrize(
    ("template", "answer", "words"),
    [
        # The prompt ends in ">" and the answer begins with "A": together they are one token.
        (
            TEMPLATE.replace("<assistant>", "->").replace("<{{ m.role }}>", "->"),
            "Answer",
            r"'>A\|n.* '>\|A",
        ),
        (TEMPLATE.replace("{{ eos_token }}", "<pad>"), "x", "<pad>"),
    ],
)
def test_templates_that_render_another_answer_are_found(template: str, answer: str, words: str) -> None:
    with pytest.raises(ModelError, match=f"do not join.*{words}"):
        encode_answer(tokenizer(template), QUESTION, answer)


# --- Lineage ----------------------------------------------------------------------------------------


def test_a_lineage_id_depends_on_base_adapters_and_their_order() -> None:
    lineages = [
        Lineage("a"),
        Lineage("b"),
        Lineage("a", ("x",)),
        Lineage("a", ("x", "y")),
        Lineage("a", ("y", "x")),
    ]
    assert len({lineage.id for lineage in lineages}) == 5
    assert Lineage("a", ("x",)).id == Lineage("a", ("x",)).id


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=3))


def test_a_hash_outlives_copying_and_volatile_keys(saved: Path, folder: Path) -> None:
    rewrite(folder / "config.json", transformers_version="9.9", _name_or_path="elsewhere", dtype="bfloat16")
    (folder / "README.md").write_text("notes")
    assert hash_folder(folder) == hash_folder(saved)


def test_an_adapters_hash_ignores_the_order_in_which_peft_wrote_its_sets(saved: Path, adapter: Path) -> None:
    config = adapter / "adapter_config.json"
    rewrite(config, target_modules=sorted(json.loads(config.read_text())["target_modules"], reverse=True))
    assert hash_folder(adapter) == hash_folder(saved.parent / "adapter")
    rewrite(config, lora_alpha=99)
    assert hash_folder(adapter) != hash_folder(saved.parent / "adapter")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"])
def test_a_hash_sees_one_changed_byte(file: str, saved: Path, folder: Path) -> None:
    if file == "config.json":
        rewrite(folder / file, rms_norm_eps=1e-5)
    else:
        content = bytearray((folder / file).read_bytes())
        content[-2] ^= 1
        (folder / file).write_bytes(content)
    assert hash_folder(folder) != hash_folder(saved)


# --- Loading ----------------------------------------------------------------------------------------


def test_a_folder_loads_as_saved_without_asking_the_hub(saved: Path, offline: list[Any]) -> None:
    policy = load_policy(saved, device="cpu")
    assert torch.equal(logits(policy.model), logits(toy_model()))
    assert encode_prompt(policy.tokenizer, QUESTION) == encode_prompt(tokenizer(), QUESTION)
    assert (policy.lineage, policy.name) == (Lineage(hash_folder(saved)), str(saved))
    assert not policy.model.training
    assert policy.device.type == "cpu"
    assert offline == []


def test_the_dtype_is_the_one_asked_for_and_leaves_the_lineage(saved: Path) -> None:
    policy = load_policy(saved, dtype="bfloat16", device="cpu")
    assert policy.model.dtype == torch.bfloat16
    assert policy.lineage == load_policy(saved, device="cpu").lineage


def test_embedded_is_the_policy_of_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(load.__file__).parents[1] / "embedded" / "policy" == load.EMBEDDED
    monkeypatch.setattr(load, "EMBEDDED", folder)
    policy = load_policy("embedded", device="cpu")
    assert (policy.name, policy.lineage.base) == ("embedded", hash_folder(folder))


def test_a_hub_model_is_known_by_its_content(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, [p for p in allow_patterns if p.endswith((".bin", ".py", ".pt"))]))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    policy = load_policy("owner/name", device="cpu")
    assert asked == [("owner/name", [])], "no pickles, no code"
    assert (policy.name, policy.lineage.base) == ("owner/name", hash_folder(saved))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, metadata={"format": "pt"})


def pickle_weights(path: Path) -> None:
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("model.safetensors", truncate, "cannot load the model .*copy/model"),
        ("model.safetensors", lambda path: path.write_bytes(b"not tensors at all"), "cannot load the model"),
        ("model.safetensors", drop_tensor, "lack 2 tensors, lm_head.weight first"),
        ("model.safetensors", pickle_weights, "pickled weights are not loaded"),
        ("config.json", Path.unlink, "no config.json"),
        ("config.json", truncate, "cannot load the model"),
        ("config.json", lambda path: rewrite(path, model_type="no-such-type"), "no-such-type"),
        ("config.json", lambda path: rewrite(path, hidden_size=64), "cannot load the model"),
        ("tokenizer.json", truncate, "cannot load the tokenizer"),
    ],
)
def test_damaged_folders_are_refused(file: str, damage: Any, words: str, folder: Path, offline: list[Any]) -> None:
    damage(folder / file)
    with pytest.raises(ModelError, match=words) as caught:
        load_policy(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert offline == []


def test_the_tokenizer_of_a_larger_model_is_refused(folder: Path) -> None:
    larger = tokenizer()
    larger.add_tokens(["<extra>"])
    larger.save_pretrained(folder)
    with pytest.raises(ModelError, match="has 263 tokens but the model embeds only 262"):
        load_policy(folder, device="cpu")


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "nowhere", "a/b/c"])
def test_a_missing_folder_is_named(source: str, offline: list[Any]) -> None:
    with pytest.raises(ModelError, match=f"no model folder {Path(source)}.*hub id"):
        load_policy(source, device="cpu")
    assert offline == []


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("cannot reach the hub\nlong story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"no folder runs/model here, and .*: cannot reach the hub$"):
        load_policy("runs/model", device="cpu")


def test_dtypes_and_devices_that_are_not_there(saved: Path) -> None:
    with pytest.raises(ConfigError, match="float8"):
        load_policy(saved, dtype="float8", device="cpu")
    for device in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match=f"{device}.*use 'auto' or 'cpu'"):
            load_policy(saved, device=device)


# --- Adapters ---------------------------------------------------------------------------------------


def test_an_adapter_loads_on_its_base_and_names_itself_in_the_lineage(folder: Path, adapter: Path) -> None:
    plain, tuned = load_policy(folder, device="cpu"), load_policy(folder, adapter=adapter, device="cpu")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter).eval()
    assert torch.equal(logits(tuned.model), logits(theirs))
    assert not torch.allclose(logits(tuned.model), logits(plain.model), atol=0.1)
    assert tuned.lineage == Lineage(plain.lineage.base, (hash_folder(adapter),))
    assert tuned.lineage.id != plain.lineage.id


def test_merging_keeps_the_numbers(folder: Path, adapter: Path) -> None:
    tuned = load_policy(folder, adapter=adapter, device="cpu")
    before = logits(tuned.model)
    fast = merged(tuned)
    torch.testing.assert_close(logits(fast.model), before, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in fast.model.named_parameters())
    assert (fast.lineage, fast.name) == (tuned.lineage, tuned.name)
    plain = load_policy(folder, device="cpu")
    assert merged(plain) is plain


def test_an_adapter_on_another_base_is_refused(folder: Path, adapter: Path) -> None:
    toy_model(seed=7).save_pretrained(folder)
    with pytest.raises(ModelError, match=f"wrong base for the adapter {adapter}.*{hash_folder(folder)}"):
        load_policy(folder, adapter=adapter, device="cpu")


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("adapter_config.json", Path.unlink, "no adapter_config.json"),
        ("adapter_model.safetensors", Path.unlink, "no adapter_model.safetensors"),
        ("adapter_model.safetensors", truncate, "cannot load the adapter"),
        ("adapter_model.safetensors", drop_tensor, "missing adapter keys"),
        ("adapter_config.json", lambda path: rewrite(path, r=3), "cannot load the adapter"),
        (LINEAGE_FILE, lambda path: path.write_text("{}"), "does not name a base"),
        (LINEAGE_FILE, lambda path: path.write_text("["), "does not name a base"),
    ],
)
def test_damaged_adapters_are_refused(file: str, damage: Any, words: str, folder: Path, adapter: Path) -> None:
    damage(adapter / file)
    with pytest.raises(ModelError, match=words):
        load_policy(folder, adapter=adapter, device="cpu")


def test_an_adapter_without_a_recorded_base_loads(folder: Path, adapter: Path) -> None:
    """Adapters made elsewhere carry no lineage file."""
    (adapter / LINEAGE_FILE).unlink()
    assert load_policy(folder, adapter=adapter, device="cpu").lineage.adapters == (hash_folder(adapter),)


def test_virtual_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(toy_model(), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ModelError, match="virtual tokens"):
        load_policy(folder, adapter=tmp_path / "prompt", device="cpu")
