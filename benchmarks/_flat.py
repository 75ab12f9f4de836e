"""Cost per pair through the product's whole training of preferences, from few pairs to many, with a tiny model."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from _sizes import SEED, Size

from prefloop.config.training import TrainingConfig
from prefloop.models.load import Policy, load_policy
from prefloop.models.tokenizer import train_tokenizer
from prefloop.records import Completion, Preference, Prompt
from prefloop.training.preference import train_preferences

GOAL = 1.25
"""Cost per pair of the longest run over that of the shortest."""
VOCABULARY = 320
WORDS = 8
"""Numbers in a prompt; an answer has as many tokens, and its end token."""


@dataclass(frozen=True)
class Cost:
    """One run, in milliseconds per pair."""

    pairs: int
    before: float
    """Reading, encoding, planning, reference log-probabilities: up to the end of the first step."""
    steps: float
    """The steps after it, checkpoints included."""
    whole: float


def flat(size: Size) -> list[Cost]:
    """One run for each number of pairs."""
    with tempfile.TemporaryDirectory() as folder:
        policy = _policy(Path(folder) / "model", size.device)
        _cost(policy, 64, Path(folder) / "warm-up")
        return [_cost(policy, pairs, Path(folder) / str(pairs)) for pairs in size.flat]


def _cost(policy: Policy, pairs: int, folder: Path) -> Cost:
    data = _data(policy, pairs)
    config = TrainingConfig(epochs=1, tokens_per_batch=1_024)
    marks = [time.perf_counter()]

    def log(row: dict[str, float]) -> None:
        if row["step"] == 1:
            marks.append(time.perf_counter())

    train_preferences(policy, *data, config, folder / "out", work=folder / "work", seed=SEED, log=log)
    marks.append(time.perf_counter())
    started, first, ended = marks
    rest = max(1, pairs - config.batch_pairs)
    return Cost(pairs, 1e3 * (first - started) / pairs, 1e3 * (ended - first) / rest, 1e3 * (ended - started) / pairs)


def _policy(folder: Path, device: str) -> Policy:
    tokenizer = train_tokenizer(["how many points", "who scored"], VOCABULARY, 256)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy(folder, device=device)


def _data(policy: Policy, pairs: int) -> tuple[list[Preference], dict[str, Completion], dict[str, Prompt]]:
    """One pair per prompt, every prompt another."""
    generator = np.random.default_rng(SEED)
    end = policy.tokenizer.eos_token_id
    preferences: list[Preference] = []
    completions: dict[str, Completion] = {}
    prompts: dict[str, Prompt] = {}
    for number in range(pairs):
        words = " ".join(map(str, generator.integers(0, 10, WORDS).tolist()))
        prompt = Prompt.create(({"role": "user", "content": f"{number}: {words}"},), "benchmark", "train")
        prompts[prompt.id] = prompt
        for index in range(2):
            ids = (*generator.integers(5, VOCABULARY, WORDS).tolist(), end)
            name = f"{prompt.id}-{index}"
            completions[name] = Completion(name, prompt.id, index, 0, "", ids, (), "stop", "random", {}, 0)
        preferences.append(Preference.pair(prompt.id, f"{prompt.id}-0", f"{prompt.id}-1", 1.0, 0.0, "benchmark"))
    return preferences, completions, prompts
