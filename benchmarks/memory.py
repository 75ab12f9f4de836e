"""The memory plan against the measured peak: two optimizer steps, each case in processes of its own.

Every case trains a random model (or the embedded policy) on random tokens (`prefloop.loop.trial`), DPO-like on even
groups; the second step has two passes. The peak is the process's highest resident set. The goal is an estimate within
15%; the same case gives peaks a tenth apart from run to run, as the allocator's heap has more or fewer holes.

    python benchmarks/memory.py [--models embedded 26m …] [--threads 2] [--split | --fresh]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST, SCORED = 192, 0.5
"""Tokens of the longest row; share of a pass that is scored."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    method: str
    dtype: str
    tokens: int
    longest: int = LONGEST
    split: str | None = None
    """Strategy of two processes; None: one."""


CASES = [
    Case("embedded", "lora", "float32", 2048),
    Case("embedded", "lora", "float32", 8192),
    Case("embedded", "lora", "bfloat16", 8192),
    Case("embedded", "lora", "bfloat16", 8192, longest=640),
    Case("embedded", "full", "bfloat16", 8192),
    Case("26m", "lora", "float32", 1024),
    Case("26m", "lora", "float32", 4096),
    Case("26m", "lora", "float32", 4096, longest=640),
    Case("26m", "lora", "bfloat16", 4096),
    Case("26m", "full", "float32", 4096),
    Case("26m", "full", "bfloat16", 4096),
    Case("26m", "qlora", "float32", 4096),
    Case("135m", "lora", "float32", 1024),
    Case("135m", "lora", "bfloat16", 2048),
    Case("135m", "full", "bfloat16", 1024),
    Case("135m", "qlora", "bfloat16", 1024),
]

SPLIT = [
    *(Case("embedded", "full", "float32", 2048, split=split) for split in (None, "ddp", "zero2", "fsdp2")),
    Case("embedded", "lora", "float32", 2048),
    Case("26m", "lora", "float32", 1024),
    *(Case("26m", "full", "float32", 1024, split=split) for split in (None, "fsdp2")),
    Case("135m", "lora", "float32", 1024),
    *(Case("135m", "full", "float32", 1024, split=split) for split in (None, "fsdp2")),
]
"""The table of docs/beyond-one-machine.md: three shapes, alone and over two processes, of which the larger counts."""

FRESH = [
    Case("52m", "lora", "float32", 1024),
    Case("52m", "full", "float32", 2048),
    Case("52m", "full", "float32", 1024, split="fsdp2"),
    Case("65m", "lora", "float32", 2048, longest=640),
    Case("65m", "full", "float32", 1024, longest=320),
]
"""Two shapes and lengths on which no share of the plan was chosen: grouped heads, and a wide vocabulary."""

MODELS = ["embedded", "26m", "135m", "52m", "65m"]


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description="The memory plan against the measured peak.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=2)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--split", action="store_true", help="few cases, some of them split over two processes")
    kinds.add_argument("--fresh", action="store_true", help="shapes on which no share of the plan was chosen")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = SPLIT if options.split else FRESH if options.fresh else CASES
        _table([case for case in cases if case.model in options.models], Path(folder), options)


def _table(cases: list[Case], folder: Path, options: argparse.Namespace) -> None:
    from prefloop.models.load import EMBEDDED
    from prefloop.models.memory import PROCESS_BYTES, plan_memory

    small = _peak(Case("embedded", "lora", "float32", 64, longest=32), EMBEDDED, options)
    print(f"process alone, one small pass included: {_mib(small)} measured, {_mib(PROCESS_BYTES)} planned\n")
    print(
        "| model | method | autocast | tokens | longest row | processes | estimate | measured | estimate / measured |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    folders = {"embedded": EMBEDDED}
    for case in cases:
        if case.model not in folders:
            folders[case.model] = _random_model(case.model, folder / case.model)
        plan = plan_memory(
            _config(folders[case.model]),
            _tuning(case),
            case.tokens,
            int(case.tokens * SCORED),
            case.longest,
            strategy=case.split or "ddp",
            processes=2 if case.split else 1,
        )
        measured = _peak(case, folders[case.model], options)
        processes = f"2, {case.split}" if case.split else "1"
        print(
            f"| {case.model} | {case.method} | {case.dtype} | {case.tokens} | {case.longest} | {processes} "
            f"| {_mib(plan.total)} | {_mib(measured)} | {plan.total / measured:.2f} |",
            flush=True,
        )


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def _tuning(case: Case) -> Any:
    from prefloop.config.training import Tuning

    return Tuning(method=case.method, dtype=case.dtype, tokens_per_batch=case.tokens)


def _random_model(name: str, folder: Path) -> Path:
    """Written by a process of its own, so that this one stays small."""
    from prefloop.models.load import EMBEDDED

    shapes = {
        "26m": {"vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8}
        | {"num_attention_heads": 6, "num_key_value_heads": 6},
        "135m": {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3},
        "52m": {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12}
        | {"num_attention_heads": 8, "num_key_value_heads": 4},
        "65m": {"vocab_size": 151_936, "hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 14}
        | {"num_attention_heads": 5, "num_key_value_heads": 5},
    }
    code = (
        "import sys, json, transformers as t; c = t.LlamaConfig(**json.loads(sys.argv[1]), tie_word_embeddings=True);"
        "t.AutoModelForCausalLM.from_config(c).save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(shapes[name]), str(folder)], check=True, capture_output=True)
    for part in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):  # some tokenizer: ids are drawn
        shutil.copy(EMBEDDED / part, folder)
    return folder


def _peak(case: Case, folder: Path, options: argparse.Namespace) -> int:
    from prefloop.loop.launch import Launch
    from prefloop.loop.trial import run_trial

    launch = Launch(2, strategy=case.split, cpu=True) if case.split else None
    given = {"device": "cpu", "threads": options.threads, "launch": launch}
    return run_trial(str(folder), _tuning(case), SCORED, case.longest, **given).peak


if __name__ == "__main__":
    main()
