"""A small sweep: objective, beta and learning rate at equal budgets, compared on pairs that no trial has seen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

from prefloop.config.objectives import OBJECTIVES
from prefloop.config.recipe import load_recipe
from prefloop.config.training import TrainingConfig
from prefloop.errors import ConfigError, DataError
from prefloop.loop.console import TrainingConsole
from prefloop.loop.learned import read_learned
from prefloop.maths.statistics import SHARE, clustered_mean_interval, paired_bootstrap
from prefloop.models.load import Policy, load_policy
from prefloop.progress import note
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.store.files import claim, read_json, write_json
from prefloop.training.batches import split
from prefloop.training.preference import pair_logps, train_preferences

HELD_OUT = 0.15
"""Share of the prompts on whose pairs trials are compared."""
LOG_EVERY = 50


@dataclass(frozen=True)
class Trial:
    """One point of the sweep."""

    name: str
    config: TrainingConfig


@dataclass(frozen=True)
class Pairs:
    """What is trained on and what is compared on."""

    prompts: Mapping[str, Prompt]
    completions: Mapping[str, Completion]
    training: Sequence[Preference]
    held_out: Sequence[Preference]


def sweep(
    preferences: Path,
    out: Path,
    overrides: Mapping[str, Any],
    *,
    objectives: Sequence[str] = ("dpo",),
    betas: Sequence[float] = (),
    rates: Sequence[float] = (),
    model: str = "embedded",
    seed: int = 1,
    device: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train every combination on the same pairs in the same order, and write ``sweep.json`` beside the checkpoints.

    Trials are compared by how often they raise the chosen answer's log-probability, relative to the start, above the
    rejected one's, on the pairs of prompts held out. Finished trials are kept when the sweep is resumed.

    Args:
        overrides: of the recipe's training section, the same for all trials.
        betas, rates: values to try; empty: the recipe's, and for beta each objective's default.

    Raises:
        ConfigError: nothing to compare, or options that do not go together.
        StoreError: `out` holds another sweep.
    """
    trials = _trials(overrides, objectives, betas, rates)
    pairs = _pairs(preferences, seed)
    policy = load_policy(model, device=device)
    out = Path(out)
    identity = content_id(
        [t.config.model_dump() for t in trials], [p.id for p in pairs.training], policy.lineage.id, seed
    )
    claim(out, identity, resume)
    start = _logps(policy, pairs, trials[0].config)
    rows = []
    for number, trial in enumerate(trials, 1):
        folder = out / trial.name
        note(f"trial {number} of {len(trials)}: {trial.name}")
        if not (folder / "margins.json").is_file():
            _run(trial, folder, policy, pairs, start, seed, device, first=number == 1)
        rows.append(read_json(folder / "margins.json"))
    found = _table(trials, rows, [p.prompt_id for p in pairs.held_out], seed)
    write_json(out / "sweep.json", {"identity": identity, "held_out_pairs": len(pairs.held_out), "trials": found})
    return {"held_out_pairs": len(pairs.held_out), "trials": found}


def _trials(
    overrides: Mapping[str, Any], objectives: Sequence[str], betas: Sequence[float], rates: Sequence[float]
) -> list[Trial]:
    unknown = sorted(set(objectives) - set(OBJECTIVES))
    if unknown:
        raise ConfigError(f"no objective {', '.join(unknown)}: there are {', '.join(OBJECTIVES)}")
    for name, values in (("beta", betas), ("learning rate", rates)):
        if not all(0 < value < inf for value in values):
            raise ConfigError(f"a {name} to try must be a number above 0, not {', '.join(map(str, values))}")
    found: dict[str, Trial] = {}
    for objective, beta, rate in product(objectives, betas or (None,), rates or (None,)):
        options = {"objective": objective, "learning_rate": rate}
        if "beta" in OBJECTIVES[objective]:
            options["beta"] = beta
        given = {f"training.{name}": value for name, value in options.items() if value is not None}
        config = load_recipe("nba-sql", {**overrides, **given}, ["training."]).training
        pull = f"-beta-{config.strength:g}" if "beta" in OBJECTIVES[objective] else ""
        name = f"{objective}{pull}-rate-{config.learning_rate:g}"
        found.setdefault(name, Trial(name, config))
    if len(found) < 2:
        raise ConfigError("a sweep needs at least two trials: give several --objective, --beta or --learning-rate")
    return list(found.values())


def _pairs(folder: Path, seed: int) -> Pairs:
    preferences, completions, prompts = read_learned(folder).records
    asked = sorted({preference.prompt_id for preference in preferences})
    if len(asked) < 4:
        raise DataError(f"{folder} has pairs of {len(asked)} prompts: too few to hold two out and train on the others")
    _, chosen = split(len(asked), max(HELD_OUT, 2 / len(asked)), seed)
    kept = {asked[i] for i in chosen}
    return Pairs(
        prompts,
        completions,
        [p for p in preferences if p.prompt_id not in kept],
        [p for p in preferences if p.prompt_id in kept],
    )


def _run(
    trial: Trial,
    folder: Path,
    policy: Policy,
    pairs: Pairs,
    start: list[tuple[float, float]],
    seed: int,
    device: str,
    first: bool,
) -> None:
    """Train one trial and write what it does to the held-out pairs."""
    began = time.monotonic()
    checkpoint = folder / "checkpoint"
    result = train_preferences(
        policy,
        pairs.training,
        pairs.completions,
        pairs.prompts,
        trial.config,
        checkpoint,
        work=folder / "work",
        seed=seed,
        log=TrainingConsole(LOG_EVERY),
        show=note if first else None,
    )
    full = trial.config.method == "full"
    tuned = load_policy(checkpoint, device=device) if full else load_policy(policy.name, checkpoint, device=device)
    now = _logps(tuned, pairs, trial.config)
    rows = {
        "margins": [(new[0] - old[0]) - (new[1] - old[1]) for new, old in zip(now, start, strict=True)],
        "chosen": [new[0] - old[0] for new, old in zip(now, start, strict=True)],
        "steps": result.steps,
        "seconds": time.monotonic() - began,
    }
    write_json(folder / "margins.json", rows)


def _logps(policy: Policy, pairs: Pairs, config: TrainingConfig) -> list[tuple[float, float]]:
    return pair_logps(policy, pairs.held_out, pairs.completions, pairs.prompts, config.tokens_per_batch)


def _table(
    trials: Sequence[Trial], rows: Sequence[Mapping[str, Any]], clusters: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Trials, best first; `behind` is how much less accurate than the first, with its interval."""
    right = [[float(margin > 0) for margin in row["margins"]] for row in rows]
    order = sorted(range(len(trials)), key=lambda i: (-sum(right[i]), -sum(rows[i]["margins"])))
    found = []
    for i in order:
        accuracy = clustered_mean_interval(right[i], clusters, seed=seed, bounds=SHARE)
        behind = paired_bootstrap(right[i], right[order[0]], clusters, seed=seed)
        count = len(clusters)
        found.append(
            {
                "name": trials[i].name,
                "objective": trials[i].config.objective,
                "beta": trials[i].config.strength,
                "learning_rate": trials[i].config.learning_rate,
                "steps": rows[i]["steps"],
                "seconds": rows[i]["seconds"],
                "accuracy": [accuracy.estimate, accuracy.low, accuracy.high],
                "behind": [behind.estimate, behind.low, behind.high],
                "margin": sum(rows[i]["margins"]) / count,
                "chosen_shift": sum(rows[i]["chosen"]) / count,
            }
        )
    return found


def sweep_text(found: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    lines = [("trial", "accuracy on held-out pairs", "behind the best", "margin", "Δ chosen", "steps", "seconds")]
    for row in found["trials"]:
        value, low, high = (100 * x for x in row["accuracy"])
        behind = [100 * x for x in row["behind"]]
        gap = "–" if row is found["trials"][0] else f"{behind[0]:.1f} [{behind[1]:.1f}, {behind[2]:.1f}]"
        lines.append(
            (
                row["name"],
                f"{value:.1f}% [{low:.0f}, {high:.0f}]",
                gap,
                f"{row['margin']:+.2f}",
                f"{row['chosen_shift']:+.2f}",
                f"{row['steps']}",
                f"{row['seconds']:.0f}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = "\n".join(
        "  ".join(
            f"{cell:<{w}}" if not i else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return (
        f"{text}\n{found['held_out_pairs']} held-out pairs, 95% intervals by prompt. A trial whose distance to the "
        "best includes 0 may be as good; the best of several is flattered, so confirm it on other data."
    )
