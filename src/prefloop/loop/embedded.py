"""Builds the policy that ships with the package: corpus, tokenizer, SFT from scratch, model card.

The corpus is imperfect on purpose (`prefloop.tasks.nba.corpus`); what the policy gets wrong is what preference
tuning has to teach. Same seed and thread count: same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import StoreError
from prefloop.models.load import quiet_transformers
from prefloop.models.template import encode_completion, encode_prompt
from prefloop.models.tokenizer import train_tokenizer
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.files import write_text
from prefloop.tasks.nba.corpus import Example, draw_examples, fault_counts
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.questions.worlds import OpenWorld
from prefloop.tasks.nba.seed_pairs import SEED_PAIRS
from prefloop.tasks.nba.task import judge_databases, team_words, test_prompts
from prefloop.tasks.nba.teams import teams
from prefloop.tasks.nba.text import normalised
from prefloop.training.sft import SftConfig, train_sft

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

TOKENIZER_EXAMPLES = 20_000


@dataclass(frozen=True)
class EmbeddedBuild:
    """Everything that decides the embedded policy."""

    examples: int = 130_000
    seed: int = 1
    vocabulary: int = 1_024
    context: int = 2_048
    layers: int = 4
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 768
    learning_rate: float = 2e-3
    tokens_per_batch: int = 8_192


def build_embedded(
    build: EmbeddedBuild, out: Path, work: Path, resume: bool, log: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train the policy and write a `from_pretrained` folder with its card; returns the card's figures.

    Args:
        out: folder of the finished policy.
        work: folder of resumable checkpoints.
    """
    import torch
    from transformers import LlamaForCausalLM

    corpus = draw_corpus(build.examples, build.seed)
    tokenizer = train_tokenizer(_texts(corpus), build.vocabulary, build.context)
    pairs = _encoded(corpus, tokenizer)
    torch.manual_seed(build.seed)
    model = LlamaForCausalLM(_architecture(build, tokenizer))
    config = SftConfig(
        learning_rate=build.learning_rate,
        tokens_per_batch=build.tokens_per_batch,
        warmup_ratio=0.05,
        prompt_weight=1.0,
    )
    result = train_sft(model, pairs, config, work, seed=build.seed, resume=resume, log=log)
    with quiet_transformers():
        model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    figures = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "examples": len(corpus),
        "tokens": sum(len(prompt) + len(answer) for prompt, answer in pairs),
        "final_loss": result.final_loss,
        "corpus_hash": content_id([asdict(example) for example in corpus]),
        "faults": fault_counts(corpus),
        "families": dict(sorted(Counter(example.family for example in corpus).items())),
        "build": asdict(build),
    }
    write_text(out / "README.md", _card(figures))
    return figures


def draw_corpus(count: int, seed: int) -> list[Example]:
    """The corpus: hand-written seed pairs and grammar pairs over the open world, no test question among them."""
    codes = sorted(team.code for team in teams())
    world = OpenWorld(codes, person_name)
    corpus = [Example(text, answer, "", False, False, "seed", family) for family, text, answer, _ in SEED_PAIRS]
    with progress("draw corpus", count, "examples", done=len(corpus)) as advance:
        for example in draw_examples(world, team_words(), count - len(corpus), seed, test_texts()):
            corpus.append(example)
            advance(1)
    return corpus


@cache
def test_texts() -> frozenset[str]:
    """Normalised texts of the default test questions: what the policy was taught must not test it."""
    test = test_prompts(NbaTaskConfig(), judge_databases(), 0)
    return frozenset(normalised(prompt.meta["question"]) for prompt in test.prompts)


def build_folder(build: EmbeddedBuild, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """`build_embedded` into a folder of its own, with a training log and resumable state beside it.

    Raises:
        StoreError: the folder already holds a model.
    """
    if (out / "config.json").exists():
        raise StoreError(f"{out} already holds a model: choose another folder or remove it first")
    work = out.with_name(f".{out.name}.work")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    with (work / "log.jsonl").open("a", encoding="utf-8") as handle:
        figures = build_embedded(build, out, work, resume, lambda row: print(json.dumps(row), file=handle, flush=True))
    shutil.rmtree(work)
    return figures


def _texts(corpus: list[Example]) -> list[str]:
    return [text for example in corpus[:TOKENIZER_EXAMPLES] for text in (example.question, example.answer)]


def _encoded(corpus: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    return [
        (
            encode_prompt(tokenizer, [{"role": "user", "content": example.question}]),
            encode_completion(tokenizer, example.answer),
        )
        for example in corpus
    ]


def _architecture(build: EmbeddedBuild, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=build.vocabulary,
        hidden_size=build.width,
        intermediate_size=build.feed_forward,
        num_hidden_layers=build.layers,
        num_attention_heads=build.heads,
        num_key_value_heads=build.kv_heads,
        max_position_embeddings=build.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
tags: [prefloop, text-to-sql, sqlite]
---
# The embedded policy of prefloop

A Llama-architecture model of {parameters:,} parameters that answers questions about an NBA database with a plan and
one SQLite query. It was trained from scratch on a generated corpus and knows one schema; it is a test piece for
preference tuning, not an assistant.

It is wrong on purpose: most rows of certain kinds of its corpus carry one of six common mistakes (table below), and
some answers ramble. Names in the corpus are generated; any likeness to a person is chance.

| built by | `prefloop embedded build FOLDER --examples {examples} --seed {seed}` |
|---|---|
| examples, seen once | {examples:,} |
| tokens | {tokens:,} |
| final loss | {final_loss:.4f} |
| corpus hash | `{corpus_hash}` |
| layers, width, feed-forward | {layers}, {width}, {feed_forward} |
| heads, key-value heads | {heads}, {kv_heads} |
| vocabulary, context | {vocabulary}, {context} |

| mistake in the SQL | rows |
|---|---|
{faults}

S1: a season label read as its start year. F1: a filter dropped. R1: average of percentages. D1: did-not-play rows
averaged. A1: sum for average. P1: regular season mixed with playoffs.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (cls.from_pretrained("FOLDER") for cls in (AutoModelForCausalLM, AutoTokenizer))
```
"""


def _card(figures: dict[str, Any]) -> str:
    rows = "\n".join(f"| {fault or 'none'} | {count:,} |" for fault, count in figures["faults"].items())
    return CARD.format(**{**figures["build"], **figures, "faults": rows})
