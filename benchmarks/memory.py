"""The memory plan against the measured peak: two optimizer steps, each case in a process of its own.

Every case trains a random model (or the embedded policy) on random tokens through `GroupForward`, `trainable` and
`run_steps`, DPO-like on even groups; the second step has two passes. The peak is the process's highest resident
set: `VmHWM` on Linux, where `ru_maxrss` starts from the parent's, else `ru_maxrss`. The goal is an estimate within
25% above and not more than 10% below.

    python benchmarks/memory.py [--models embedded 26m 135m] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import resource
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


def main() -> None:
    """Print one row per case, or measure one case when called by itself."""
    parser = argparse.ArgumentParser(description="The memory plan against the measured peak.")
    parser.add_argument("--models", nargs="+", choices=["embedded", "26m", "135m"], default=["embedded", "26m", "135m"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return _measure(**json.loads(options.case), options=options)
    with tempfile.TemporaryDirectory() as folder:
        _table([case for case in CASES if case.model in options.models], Path(folder), options)
    return None


def _table(cases: list[Case], folder: Path, options: argparse.Namespace) -> None:
    from prefloop.models.load import EMBEDDED
    from prefloop.models.memory import PROCESS_BYTES, plan_memory

    small = _peak(Case("embedded", "lora", "float32", 64, longest=32), EMBEDDED, options)
    print(f"process alone, one small pass included: {_mib(small)} measured, {_mib(PROCESS_BYTES)} planned\n")
    print("| model | method | autocast | tokens | longest row | estimate | measured | estimate / measured |")
    print("|---|---|---|---|---|---|---|---|")
    folders = {"embedded": EMBEDDED}
    for case in cases:
        if case.model not in folders:
            folders[case.model] = _random_model(case.model, folder / case.model)
        plan = plan_memory(
            _config(folders[case.model]), _tuning(case), case.tokens, int(case.tokens * SCORED), case.longest
        )
        measured = _peak(case, folders[case.model], options)
        print(
            f"| {case.model} | {case.method} | {case.dtype} | {case.tokens} | {case.longest} | {_mib(plan.total)} "
            f"| {_mib(measured)} | {plan.total / measured:.2f} |",
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
    shapes = {
        "26m": {"vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8}
        | {"num_attention_heads": 6, "num_key_value_heads": 6},
        "135m": {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3},
    }
    code = (
        "import sys, json, transformers as t; c = t.LlamaConfig(**json.loads(sys.argv[1]), tie_word_embeddings=True);"
        "t.AutoModelForCausalLM.from_config(c).save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(shapes[name]), str(folder)], check=True, capture_output=True)
    return folder


def _peak(case: Case, folder: Path, options: argparse.Namespace) -> int:
    given = json.dumps({**vars(case), "folder": str(folder)})
    command = [sys.executable, __file__, "--threads", str(options.threads), "--case", given]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _measure(
    model: str, method: str, dtype: str, tokens: int, longest: int, folder: str, options: argparse.Namespace
) -> None:
    """Train, and print the highest resident set in bytes."""
    import torch

    from prefloop.models.group import GroupForward
    from prefloop.models.lineage import Lineage
    from prefloop.models.load import Policy, read_model
    from prefloop.progress import set_quiet
    from prefloop.training.loop import Engine, Job, run_steps
    from prefloop.training.trainable import trainable

    torch.set_num_threads(options.threads)
    set_quiet(True)
    # No tokenizer is read: the groups are drawn as token ids.
    policy = Policy(read_model(Path(folder), "float32").eval(), None, Lineage("random"), folder)
    tuning = _tuning(Case(model, method, dtype, tokens, longest))
    with trainable(policy, tuning, seed=1) as adapted, tempfile.TemporaryDirectory() as work:
        forward = GroupForward(adapted)
        groups = 2 * _groups(adapted, tokens, longest)
        whole = range(len(groups))
        job = Job(
            label="train",
            plan=[whole[: len(groups) // 2], whole],
            lengths=[group.tokens for group in groups],
            weights=[1.0] * len(groups),
            forward=lambda module, members, _: _pass(module, forward, [groups[i] for i in members], dtype),
            describe=lambda unit: unit,
        )
        engine = Engine.of(forward, tuning)
        run_steps(engine, job, tuning, work=Path(work), identity="benchmark", resume=False, log=lambda row: None)
    print(_highest())


def _groups(model: Any, tokens: int, longest: int) -> list[Any]:
    import torch

    from prefloop.models.group import Group
    from prefloop.models.memory import even_groups

    def drawn(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(model.config.vocab_size, (length,)).tolist())

    shapes = even_groups(tokens, int(tokens * SCORED), longest)
    return [Group(drawn(prompt), tuple(drawn(length) for length in completions)) for prompt, completions in shapes]


def _pass(module: Any, forward: Any, groups: list[Any], dtype: str) -> Any:
    import torch

    from prefloop.training.loop import Pass

    batch = forward.pack(groups)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        sums = module(batch).sums
    loss = -torch.nn.functional.logsigmoid(0.1 * (sums[::2] - sums[1::2])).sum()
    return Pass(loss, {}, batch.input_ids.numel() - batch.padding, batch.padding)


def _highest() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
