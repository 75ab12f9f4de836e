"""The LLM judge over a local server with a fixed latency: seconds for so many calls, beside what waiting alone takes.

    python benchmarks/llm_judge.py [--calls 1000] [--latency 0.05] [--concurrency 64] [--rounds 3]

The server is a process of its own. Questions, requests, reading, verdicts and the journal on disk are all counted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prefloop.config.judges import LLMConfig
from prefloop.judging.llm import LLMJudge
from prefloop.progress import set_quiet
from prefloop.records import Completion, Prompt
from prefloop.store.journal import FileJournal

SERVER = Path(__file__).parents[1] / "tests" / "endpoint_server.py"
GOAL_S = 10.0
PER_PROMPT = 5


def answered(calls: int) -> tuple[list[Prompt], list[Completion]]:
    """Five answers to each prompt, of the length such answers have."""
    prompts = [
        Prompt.create(
            ({"role": "user", "content": f"Question {i}: " + "what follows from this, and why? " * 8},), "b", "train"
        )
        for i in range(math.ceil(calls / PER_PROMPT))
    ]
    texts = [(p, i) for p in prompts for i in range(PER_PROMPT)][:calls]
    return prompts, [
        Completion(
            f"{p.id}/{i}",
            p.id,
            i,
            0,
            f"Answer {i}. " + "It follows from what was said. " * 40,
            (),
            (),
            "stop",
            "p",
            {},
            0,
        )
        for p, i in texts
    ]


def seconds(url: str, calls: int, concurrency: int) -> float:
    """One run of the rubric judge; every call must have been read."""
    prompts, completions = answered(calls)
    config = LLMConfig(model="toy", endpoint=url, concurrency=concurrency, cache=False)
    with tempfile.TemporaryDirectory() as folder, LLMJudge(config) as judge:
        started = time.perf_counter()
        judged = judge.judge(prompts, completions, journal=FileJournal(Path(folder) / "journal"))
        spent = time.perf_counter() - started
    if [judgement.value for judgement in judged] != [4.0] * calls:
        raise SystemExit("some calls were not answered as the server answers: the figure would mean nothing")
    return spent


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    command = [sys.executable, str(SERVER), "--latency", str(options.latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        rows = [seconds(url, options.calls, options.concurrency) for _ in range(options.rounds)]
        server.stdin.close()
    waiting = math.ceil(options.calls / options.concurrency) * options.latency
    print(f"{options.calls:,} calls, {options.latency * 1000:g} ms latency, {options.concurrency} at once\n")
    print("| | seconds |\n|---|---|")
    for i, spent in enumerate(rows, 1):
        print(f"| round {i} | {spent:.2f} |")
    print(f"| waiting alone | {waiting:.2f} |")
    median = statistics.median(rows)
    print(f"\nmedian {median:.2f} s, goal under {GOAL_S:g} s: {'met' if median < GOAL_S else 'missed'}")


if __name__ == "__main__":
    main()
