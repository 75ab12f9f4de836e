"""Labels that a reward model needs, by how the pairs are chosen: simulated people, made-up answers, a linear model.

    python benchmarks/annotation_selection.py [--seeds 20] [--json FILE]

An answer has features f and the quality θ*·f; prompts differ in spread, and features in scale, as the last layer of a
model does. A person prefers the better of two answers with σ(θ*·(f_i − f_j)), in `NOISE` of the cases says the other;
one pair of each prompt is asked. Judges know θ* with an error. A ridge Bradley-Terry model is fitted to the
first n labels of each queue; its accuracy counts the pairs of unseen prompts that it orders as θ* does. Labels needed
are those at which the accuracy (made monotone) first reaches a target, log-linear between the sizes; a queue that
does not reach it counts with the largest size, which understates its need. All strategies see the same answers, people
and test pairs of a seed; intervals are percentile bootstraps over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from prefloop.annotation.selection import Group, select_items
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Judgement, Prompt

Floats = NDArray[np.float64]

STRATEGIES = ("random", "mix", "d-optimal")
PROMPTS, ANSWERS, FEATURES = 600, 4, 32
TEST = 400
SIZES = (20, 30, 45, 65, 100, 150, 220, 320, 450, 600)
TARGETS = (0.70, 0.75, 0.80, 0.85)
NOISE, RIDGE, DRAWS = 0.1, 1.0, 2000


@dataclass(frozen=True)
class World:
    """Answers, their true qualities, and what judges said."""

    groups: list[Group]
    features: dict[str, Floats]
    theta: Floats
    judgements: list[Judgement]
    test: Floats
    """[M, F] differences of pairs of unseen prompts."""


def world(seed: int) -> World:
    """One made-up project."""
    rng = np.random.default_rng(seed)
    scales = np.geomspace(2.0, 0.25, FEATURES)
    theta = rng.standard_normal(FEATURES) * 1.5 / np.sqrt(FEATURES) / scales.mean()
    guesses = [theta + rng.standard_normal(FEATURES) * np.abs(theta).mean() * error for error in (1.0, 1.5)]
    groups, features, judgements = [], {}, []
    for n in range(PROMPTS + TEST):
        prompt = Prompt.create(({"role": "user", "content": f"prompt {n}"},), "made", "train")
        table = rng.standard_normal((ANSWERS, FEATURES)) * scales * rng.uniform(0.3, 1.7)
        answers = tuple(
            Completion(f"{n}-{i}", prompt.id, i, 0, f"answer {i}", (), (), "stop", "made", {}, 0)
            for i in range(ANSWERS)
        )
        groups.append(Group(prompt, answers))
        features |= {answer.id: row for answer, row in zip(answers, table, strict=True)}
        judgements += [
            Judgement.create(prompt.id, (answer.id,), f"judge {k}", "score", float(features[answer.id] @ guess))
            for k, guess in enumerate(guesses)
            for answer in answers
        ]
    pairs = [pair for group in groups[PROMPTS:] for pair in combinations(group.answers, 2)]
    test = np.array([features[a.id] - features[b.id] for a, b in pairs])
    return World(groups[:PROMPTS], features, theta, judgements, test)


def accuracies(made: World, strategy: str, seed: int) -> Floats:
    """[sizes] held-out accuracy after so many labels."""
    config = AnnotationConfig.model_validate({"seed": seed, "selection": {"strategy": strategy}})
    features = made.features if strategy == "d-optimal" else None
    items = select_items(made.groups, made.judgements, config, features).items[: SIZES[-1]]
    rows = np.array([made.features[i.answers[0].id] - made.features[i.answers[1].id] for i in items])
    first = np.array([_says_first(made, item.id, row, seed) for item, row in zip(items, rows, strict=True)])
    found = [
        float((np.sign(made.test @ fitted(rows[:n], first[:n])) == np.sign(made.test @ made.theta)).mean())
        for n in SIZES
    ]
    return np.array(found)


def _says_first(made: World, item: str, row: Floats, seed: int) -> bool:
    """The same person says the same of the same pair, whatever the strategy."""
    rng = np.random.default_rng([seed, int(item[:12], 16)])
    wins = rng.random() < 1 / (1 + np.exp(-(row @ made.theta)))
    return bool(wins != (rng.random() < NOISE))


def fitted(rows: Floats, first: NDArray[np.bool_]) -> Floats:
    """θ of the ridge Bradley-Terry model."""
    signed = rows * np.where(first, 1.0, -1.0)[:, None]

    def loss(theta: Floats) -> tuple[float, Floats]:
        logits = signed @ theta
        slope = -1 / (1 + np.exp(np.clip(logits, -500, 500)))
        return float(np.logaddexp(0, -logits).sum() + RIDGE * theta @ theta / 2), signed.T @ slope + RIDGE * theta

    return np.asarray(minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x)


def needed(curve: Floats, target: float) -> float:
    """Labels at which the accuracy first reaches the target."""
    risen = np.maximum.accumulate(curve)
    if risen[-1] < target:
        return float(SIZES[-1])
    if risen[0] >= target:
        return float(SIZES[0])
    return float(np.exp(np.interp(target, risen, np.log(SIZES))))


def table(curves: dict[str, Floats]) -> list[str]:
    """Markdown: accuracy by labels, then labels needed and their saving over random."""
    lines = [f"| labels | {' | '.join(STRATEGIES)} |", "|---|" + "---|" * len(STRATEGIES)]
    for n, size in enumerate(SIZES):
        lines.append(f"| {size} | {' | '.join(f'{curves[name][:, n].mean():.3f}' for name in STRATEGIES)} |")
    lines += [
        "",
        "| accuracy | strategy | labels needed | saving over random [95%] | not reached |",
        "|---|---|---|---|---|",
    ]
    for target in TARGETS:
        wanted = {name: np.array([needed(curve, target) for curve in curves[name]]) for name in STRATEGIES}
        for name in STRATEGIES:
            missed = int((curves[name].max(axis=1) < target).sum())
            saving = "" if name == "random" else _saving(wanted["random"], wanted[name])
            lines.append(
                f"| {target:.0%} | {name} | {wanted[name].mean():.0f} | {saving} | {missed} of {len(wanted[name])} |"
            )
    return lines


def _saving(random: Floats, other: Floats) -> str:
    """1 − labels needed over those of random, with an interval over seeds."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(random), (DRAWS, len(random)))
    ratios = 1 - other[drawn].mean(axis=1) / random[drawn].mean(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return f"{1 - other.mean() / random.mean():.0%} [{low:.0%}, {high:.0%}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    started, runs = time.monotonic(), {name: [] for name in STRATEGIES}
    for seed in range(options.seeds):
        made = world(seed)
        for name in STRATEGIES:
            runs[name].append(accuracies(made, name, seed))
    curves = {name: np.array(found) for name, found in runs.items()}
    print(
        f"{options.seeds} seeds; {PROMPTS} prompts of {ANSWERS} answers, one pair of each; {FEATURES} features; people "
        f"say the opposite in {NOISE:.0%}; {time.monotonic() - started:.0f} s\n"
    )
    print("\n".join(table(curves)))
    if options.json:
        options.json.write_text(json.dumps({name: curve.tolist() for name, curve in curves.items()}, indent=1))


if __name__ == "__main__":
    main()
