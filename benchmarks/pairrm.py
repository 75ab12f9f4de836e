"""PairRM judging against llm-blender 0.0.2, at batch size 1 (the only one whose scores are right) and its default.

    python benchmarks/pairrm.py [--size tiny|large] [--prompts 200] [--candidates 5] [--device cpu] [--dtype float32]
    python benchmarks/pairrm.py --tournament

Random weights in the published layout; both sides rank the same prompts by the full matrix, text to ranks, loading not
counted. `large` has the shape of DeBERTa-v3-large but for its vocabulary. `--tournament` asks on 1,000 noisy matrices
each how often cheaper ways to compare find the same best and worst answer as the full matrix.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _llm_blender import LARGE, TINY, WORDS, open_llm_blender, write_ranker

from prefloop.judging.pairrm import matrices, ranks, scores
from prefloop.models.pairrm import load_pairrm

SPREAD = {"tiny": 2.0, "large": 1.0}
DEFAULT_PROMPTS = {"tiny": 200, "large": 6}
POSITION_BIAS = 0.3
Groups = list[tuple[str, list[str]]]
Found = tuple[int, int, int]
"""Best, worst, and forward passes spent."""


def made_up(prompts: int, candidates: int, seed: int = 0) -> Groups:
    """Sources of 10 to 60 words with answers of 20 to 120."""
    rng = np.random.default_rng(seed)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, size=int(rng.integers(low, high + 1))).tolist())

    return [(text(10, 60), [text(20, 120) for _ in range(candidates)]) for _ in range(prompts)]


def timed(run: Callable[[Groups], Any], groups: Groups) -> tuple[float, list[list[int]]]:
    """Seconds and ranks, after one prompt to warm up."""
    run(groups[:1])
    started = time.perf_counter()
    found = run(groups)
    return time.perf_counter() - started, [list(row) for row in found]


def measure(options: argparse.Namespace) -> None:
    """Print one Markdown table."""
    groups = made_up(options.prompts or DEFAULT_PROMPTS[options.size], options.candidates)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"tiny": TINY, "large": LARGE}[options.size]
        ranker = write_ranker(
            Path(folder) / "ranker", sizes, spread=SPREAD[options.size], fp16=options.dtype == "float16"
        )
        ours = load_pairrm(str(ranker), options.dtype, options.device)
        peer = open_llm_blender(ranker, options.device)

    def theirs(**batch: int) -> Callable[[Groups], Any]:
        return lambda part: peer.rank([s for s, _ in part], [list(c) for _, c in part], disable_tqdm=True, **batch)

    mine, right = timed(lambda part: [ranks(scores(m)) for m in matrices(ours, part)], groups)
    print(f"{options.size}, {len(groups)} prompts x {options.candidates}, {options.device}, {options.dtype}\n")
    print("| | seconds | times ours | same ranks |\n|---|---|---|---|")
    print(f"| prefloop | {mine:.2f} | 1.00 | |")
    for label, batch in (("batch size 1", {"batch_size": 1}), ("default batch size", {})):
        seconds, found = timed(theirs(**batch), groups)
        same = sum(a == b for a, b in zip(right, found, strict=True))
        print(f"| llm-blender, {label} | {seconds:.2f} | {seconds / mine:.2f} | {same} of {len(groups)} |")


def noisy_matrix(rng: np.random.Generator, candidates: int, noise: float) -> np.ndarray:
    """M[i, j] = q_i − q_j + bias to the left + noise, with q ~ N(0, 1)."""
    quality = rng.normal(size=candidates)
    found = quality[:, None] - quality + POSITION_BIAS + noise * rng.normal(size=(candidates, candidates))
    np.fill_diagonal(found, 0.0)
    return found


def full(matrix: np.ndarray, rng: np.random.Generator) -> Found:
    """Every pair in both orders."""
    values, n = scores(matrix), len(matrix)
    return int(values.argmax()), int(values.argmin()), n * (n - 1)


def one_order(matrix: np.ndarray, rng: np.random.Generator) -> Found:
    """Every pair in one order, drawn at random."""
    n = len(matrix)
    left = np.triu(rng.random((n, n)) < 0.5, 1)
    asked = np.where(left | (~left.T & np.tril(np.ones((n, n), bool), -1)), matrix, 0.0)
    values = scores(asked)
    return int(values.argmax()), int(values.argmin()), n * (n - 1) // 2


def bubble(matrix: np.ndarray, rng: np.random.Generator) -> Found:
    """One pass for the best and one for the worst, each comparison in both orders."""
    difference, order = matrix - matrix.T, rng.permutation(len(matrix)).tolist()
    best = order[0]
    for other in order[1:]:
        best = other if difference[other, best] > 0 else best
    rest = [i for i in order if i != best]
    worst = rest[0]
    for other in rest[1:]:
        worst = other if difference[other, worst] < 0 else worst
    return best, worst, 2 * (2 * len(matrix) - 3)


def contenders(matrix: np.ndarray, rng: np.random.Generator) -> Found:
    """Every pair in one order, then both orders for whoever is among the two best or the two worst so far."""
    n = len(matrix)
    left = np.triu(rng.random((n, n)) < 0.5, 1)
    asked = left | (~left.T & np.tril(np.ones((n, n), bool), -1))
    guess = np.where(asked, matrix, -matrix.T)
    order = scores(guess).argsort()
    for i in (*order[:2], *order[-2:]):
        asked[i, :] = asked[:, i] = True
    np.fill_diagonal(asked, False)
    values = scores(np.where(asked, matrix, guess))
    return int(values.argmax()), int(values.argmin()), int(asked.sum())


WAYS = {"one order": one_order, "bubble": bubble, "contenders": contenders}


def agreement(way: str, candidates: int, noise: float, count: int = 1_000) -> tuple[float, float]:
    """Share of noisy matrices with the full matrix's best and worst, and share of its forward passes spent."""
    rng = np.random.default_rng(0)
    same, spent, whole = 0, 0, 0
    for _ in range(count):
        matrix = noisy_matrix(rng, candidates, noise)
        best, worst, passes = WAYS[way](matrix, rng)
        right = full(matrix, rng)
        same += (best, worst) == right[:2]
        spent, whole = spent + passes, whole + right[2]
    return same / count, spent / whole


def tournament() -> None:
    """Print how often cheaper ways agree, by noise (standard deviation, that of quality being 1)."""
    print("| way | answers | noise | same best and worst | forward passes |\n|---|---|---|---|---|")
    for way in WAYS:
        for candidates in (5, 8):
            for noise in (0.25, 0.5, 1.0):
                same, spent = agreement(way, candidates, noise)
                print(f"| {way} | {candidates} | {noise} | {same:.1%} | {spent:.0%} |")


def main() -> None:
    """Read the arguments and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["tiny", "large"], default="tiny")
    parser.add_argument("--prompts", type=int, help="default 200 (tiny) or 6 (large)")
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--tournament", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    tournament() if options.tournament else measure(options)


if __name__ == "__main__":
    main()
