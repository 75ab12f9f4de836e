"""Training beside TRL: same weights, token ids, order and number of updates; the loss curves must agree.

Both sides take turns in one process, so a machine that slows down slows both, and a ratio comes from one round.
TRL runs its own trainers at its best settings for the case (reference log-probabilities given, no activation
checkpointing, float32 on the CPU, the fastest of micro-batches 1, 2, 4 and 8, found by a pilot), and beside that at
its defaults (activation checkpointing, a reference pass in every step, micro-batch 8). Ours runs at the fastest of a
few token budgets. Lengths vary by half of their mean either way.

cases:
  dpo-long  DPO, prompts of 512 tokens, answers of 128
  dpo-lima  DPO, prompts of 100, answers of 300
  reward    reward model on rankings of 4 answers, all 6 pairs (P 256, C 128)
  grpo      one GRPO update per step with given answers, 8 per prompt (P 512, C 128)
  limit     our step over the model's own forward and backward on as many tokens without padding
  memory    peak memory on dpo-long, each side in a process of its own
  flat      cost per pair from few pairs to many through the whole of `prefloop train`, with a tiny model

sizes:
  cpu       26M parameters, vocabulary 32,000, float32; what is running is said on standard error
  tiny      the same cases in seconds: says whether both sides agree, nothing about speed
  gpu-0.5b  the shape of Qwen2.5-0.5B, bfloat16, on one GPU
  gpu-7b    the shape of Mistral-7B, bfloat16, on one GPU

The computed ceiling is the ratio of the floating-point operations of both sides (benchmarks/_flops.py says what is
counted): a ratio above it comes from kernels and from bookkeeping, one below it was lost to them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

CASES = ("dpo-long", "dpo-lima", "reward", "grpo", "limit", "memory", "flat")
SIZES = ("cpu", "tiny", "gpu-0.5b", "gpu-7b")
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
"""Environment in which TRL and its libraries are imported, here and in child processes."""
EXAMPLES = """examples:
  python benchmarks/training.py --size tiny
  python benchmarks/training.py --cases dpo-long,limit --rounds 3 --json training.json
  python benchmarks/training.py --gpu
"""


def main() -> None:
    """Measure, print, and fail where two loss curves part."""
    options = _options()
    os.environ.update(QUIET)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a package that nothing here uses
    import torch  # after the options: --help need not wait for torch and TRL

    if options.size.startswith("gpu") and not torch.cuda.is_available():
        sys.exit(f"no GPU: torch {torch.__version__} sees no CUDA device, so --size {options.size} was not run")
    if options.threads:
        torch.set_num_threads(options.threads)
    from _table import Run

    run = Run(options.size, options.rounds, options.steps)
    print(run.heading(), flush=True)
    results = {}
    for case in options.cases:
        results[case], lines = run.case(case)
        print("\n".join(["", f"### {case}", "", *lines]), flush=True)
    if options.json:
        whole = {"size": options.size, "setup": run.heading(), "cases": results}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    apart = [case for case, result in results.items() if not result.get("curves_agree", True)]
    if apart:
        sys.exit(f"the loss curves part in {', '.join(apart)}: these ratios compare different trainings")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--gpu", action="store_const", const="gpu-0.5b", dest="size", help="short for --size gpu-0.5b")
    parser.add_argument("--cases", type=_cases, default=list(CASES), metavar="A,B", help="only these (default: all)")
    parser.add_argument("--rounds", type=_positive, default=5, help="rounds after the warm-up (default: 5)")
    parser.add_argument("--steps", type=_positive, default=1, help="optimizer steps of a round (default: 1)")
    parser.add_argument("--threads", type=_positive, help="default: torch's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, round by round")
    return parser.parse_args()


def _cases(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        raise argparse.ArgumentTypeError(f"no case {', '.join(unknown)}: there are {', '.join(CASES)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1")
    return int(text)


if __name__ == "__main__":
    main()
