"""Scoring conversations with an ArmoRM-shaped model: our batches beside the published snippet's way, in one run.

    python benchmarks/armorm.py [--sizes tiny,moderate] [--prompts 40] [--answers 5] [--rounds 3]

Random weights in the published layout. The snippet's way is that of the model card: one conversation at a time
through the chat template and the model, `.score` read. Both sides read the same folder and must give equal scores.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from prefloop.config.judges import ArmoRMConfig
from prefloop.judging.armorm import ArmoRMJudge
from prefloop.models.armorm import GATING_PATTERN, ArmoHead, load_armorm
from prefloop.progress import set_quiet
from prefloop.records import Completion, Prompt

SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "moderate": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
}
GATE_WIDTH = 64
SPECIAL = {
    "<|begin_of_text|>": 128000,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
    "[PAD]": 128256,
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
)
WORDS = "a list of points that the answer makes about one question and how far each is right".split()


def build(folder: Path, size: str) -> None:
    """A folder in the published layout with random weights, and bytes as its vocabulary."""
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=128257, max_position_embeddings=8192, **SIZES[size])
    backbone = {f"model.{name}": tensor for name, tensor in LlamaModel(config).state_dict().items()}
    head = ArmoHead([config.hidden_size, GATE_WIDTH, GATE_WIDTH, GATE_WIDTH, 19], temperature=10.0)
    save_file({**backbone, **head.state_dict()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    ids = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab={**ids, "ĊĊ": 271, "assistant": 78191, **SPECIAL}, merges=[("Ċ", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    core.add_tokens([AddedToken("assistant", normalized=False)])
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **names).save_pretrained(folder)


def conversations(prompts: int, answers: int) -> tuple[list[Prompt], list[Completion]]:
    """Prompts of 10 to 60 words with answers of 5 to 120."""
    rng = random.Random(1)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    asked = [Prompt.create(({"role": "user", "content": text(10, 60)},), "bench", "test") for _ in range(prompts)]
    answered = [
        Completion(f"{prompt.id}-{i}", prompt.id, i, 0, text(5, 120), (), (), "stop", "bench", {}, 0)
        for prompt in asked
        for i in range(answers)
    ]
    return asked, answered


def snippet(model: Any, prompts: list[Prompt], completions: list[Completion]) -> list[float]:
    """The model card's way: one conversation after the other, the gate searched in its ids."""
    messages = {prompt.id: prompt.messages for prompt in prompts}
    pattern, scores = list(GATING_PATTERN), []
    for completion in completions:
        turns = [*messages[completion.prompt_id], {"role": "assistant", "content": completion.text}]
        ids = model.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            hidden = model.backbone(ids)[0]
            row = ids[0].tolist()
            gate = next(i for i in range(len(row) - 5, -1, -1) if row[i : i + 5] == pattern)
            rewards = model.head.regression_layer(hidden[:, -1])
            adjusted = rewards @ model.head.reward_transform_matrix
            scores.append((model.head.gating(hidden[:, gate]) * adjusted).sum(1).item())
    return scores


def compare(size: str, prompts: int, answers: int, rounds: int) -> None:
    """Print one size's table."""
    asked, answered = conversations(prompts, answers)
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), size)
        model = load_armorm(name, "float32", "cpu")
        seconds = []
        with ArmoRMJudge(ArmoRMConfig(model=name, dtype="float32", device="cpu")) as judge:
            judge.judge(asked[:1], answered[:answers])  # both sides warm
            snippet(model, asked[:1], answered[:1])
            for _ in range(rounds):
                started = time.perf_counter()
                theirs = snippet(model, asked, answered)
                between = time.perf_counter()
                ours = [judgement.value or 0.0 for judgement in judge.judge(asked, answered)]
                seconds.append((between - started, time.perf_counter() - between))
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if difference > 1e-5:
        raise SystemExit(f"{size}: scores differ by up to {difference:.1e}")
    ratios = [a / b for a, b in seconds]
    print(f"{size}: {len(answered):,} conversations, scores equal within {difference:.1e}\n")
    print("| | snippet's way, s | prefloop, s | ratio |\n|---|---|---|---|")
    for i, (a, b) in enumerate(seconds, 1):
        print(f"| round {i} | {a:.2f} | {b:.2f} | {a / b:.2f} |")
    print(f"\nmedian ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})\n")


def main() -> None:
    """Print one Markdown table per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="tiny,moderate", help="some of " + ",".join(SIZES))
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--answers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    for size in options.sizes.split(","):
        compare(size, options.prompts, options.answers, options.rounds)


if __name__ == "__main__":
    main()
