"""The report page: whole, self-contained, escaped, and alive in a real browser."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from prefloop.evaluation import charts, svg
from prefloop.evaluation.compare import Answers, evaluate
from prefloop.evaluation.metrics import HeldOutPair
from prefloop.evaluation.report import ReportContext, ShownAnswer, ShownQuestion, claim, render, write_report
from prefloop.evaluation.tables import shown_prompts
from prefloop.maths.statistics import seed_summary
from prefloop.records import Completion, Judgement, Prompt

SAMPLES = 4
FAMILIES = {
    "B": "games",
    "C": "records",
    "D": "player season",
    "E": "leaders",
    "F": "thresholds",
    "G": "single game",
    "H": "last n games",
    "J": "team ratings",
    "N": "unanswerable",
}
STATISTICS = {"points": "score", "assists": "dish out", "rebounds_total": "grab", "steals": "take"}
HOSTILE = "<script>document.title='owned'</script>"


def example_prompts() -> list[Prompt]:
    prompts = []
    for i in range(216):
        statistic, word = list(STATISTICS.items())[i % len(STATISTICS)]
        text = f"How many {statistic.split('_')[0]} did Ilvo Maräc {word} per game in the 20{10 + i % 13} season ({i})?"
        meta = {
            "question": text,
            "template": f"t{i // 3}",
            "family": list(FAMILIES)[i % len(FAMILIES)],
            "register": ("question", "terse")[i % 2],
            "seen": i % 5 < 2,
            "trap": ("season label", "did-not-play rows", None)[i % 3],
            "gold_sql": sql(statistic, 2010 + i % 13),
        }
        prompts.append(Prompt.create(({"role": "user", "content": text},), "nba-sql", "test", meta))
    return prompts


def sql(statistic: str, season: int, played: bool = True) -> str:
    rest = " AND b.did_not_play = 0" if played else ""
    return (
        f"SELECT AVG(b.{statistic}) FROM player_box_scores b JOIN games g USING (game_id) "
        f"WHERE b.player_name = 'Ilvo Maräc' AND g.season = {season}{rest}"
    )


def example_answer(
    prompt: Prompt, side: str, index: int, right: bool, rng: random.Random
) -> tuple[Completion, Judgement]:
    season = int(re.search(r"20\d\d", prompt.meta["question"])[0]) + (0 if right else 1)
    query = sql("points", season, right)
    status = "ok" if right or rng.random() < 0.9 else "unknown_column"
    text = f"Plan: average points from player_box_scores; season {season}.\n```sql\n{query}\n```"
    tokens = tuple(rng.randrange(900) for _ in range(60 + rng.randrange(30) + (0 if right else 6)))
    identity = Completion.make_id(prompt.id, side, {}, 1, 0, index)
    completion = Completion(identity, prompt.id, index, 0, text, tokens, (), "stop", side, {}, 1)
    rows = [[round(rng.uniform(8, 31), 6)]] if status == "ok" else [["no such column: b.pts"]]
    raw = {"sql": query, "status": status, "rows": rows, "digest": f"{right}{rng.randrange(3)}"}
    objectives = {
        "correct": float(right),
        "valid": float(status == "ok"),
        "reasoning": rng.choice([1.0, 1.0, 0.75]),
        "verbosity": 1.0,
    }
    value = (objectives["correct"] + 0.2) / 1.2
    return completion, Judgement.create(prompt.id, (identity,), "execution", "score", value, objectives, raw=raw)


def example_side(prompts: list[Prompt], side: str) -> Answers:
    rng = random.Random(side)
    strength = {"before": 0.42, "after": 0.71}[side]
    families = {family: rng.uniform(-0.15, 0.15) for family in FAMILIES}

    def draw(prompt: Prompt, index: int) -> tuple[Completion, Judgement]:
        chance = strength + families[prompt.meta["family"]]
        return example_answer(prompt, side, index, rng.random() < chance, rng)

    greedy = [draw(prompt, -1) for prompt in prompts]
    sampled = [draw(prompt, index) for prompt in prompts[:60] for index in range(SAMPLES)]
    return Answers(*zip(*greedy, strict=True), *zip(*sampled, strict=True))


def shown(prompt: Prompt, sides: dict[str, Answers], place: int) -> ShownQuestion:
    answers = []
    for side in ("before", "after"):
        completion, judgement = sides[side].greedy[place], sides[side].greedy_judgements[place]
        right = judgement.objectives["correct"] == 1
        raw = judgement.raw
        answers.append(ShownAnswer(completion.text, raw["sql"], right, raw["status"], raw["rows"]))
    meta = prompt.meta
    return ShownQuestion(meta["question"], meta["template"], meta["gold_sql"], answers[0], answers[1], meta["family"])


def example() -> tuple[dict[str, Any], ReportContext]:
    """A whole evaluation and its context, made of seeded chance."""
    rng = random.Random(7)
    prompts = example_prompts()
    sides = {side: example_side(prompts, side) for side in ("before", "after")}
    held_out = [HeldOutPair(p.meta["template"], rng.gauss(4, 5), rng.gauss(-0.5, 2)) for p in prompts]
    evaluation = evaluate(prompts, sides["before"], sides["after"], held_out, seed=1, draws=500, beta=0.1)
    names = ("execution_accuracy", "execution_accuracy_unseen", "valid_sql", "verbosity")
    evaluation["seeds"] = [{"seed": seed, **{name: evaluation[name] for name in names}} for seed in (1, 2, 3)]
    changes = ("gain", "gain", "difference", "length_ratio")
    evaluation["over_seeds"] = {
        name: seed_summary([row[name][change] for row in evaluation["seeds"]])
        for name, change in zip(names, changes, strict=True)
    }
    lead = {"estimate": 0.12, "ci_low": 0.06, "ci_high": 0.18}
    evaluation["baselines"] = {
        name: {"accuracy": value, "gain": value - 0.42, "ci_low": 0.02, "ci_high": 0.2, "tuned_lead": lead}
        for name, value in (("sft_on_chosen", 0.55), ("best_of_k", 0.49), ("majority_vote", 0.53))
    }
    questions = [shown(prompt, sides, place) for place, prompt in enumerate(prompts)]
    place = {prompt.id: i for i, prompt in enumerate(prompts)}
    history = [
        {
            "step": step,
            "loss": 0.69 * 0.985**step + rng.gauss(0, 0.03),
            "rewards/margins": 0.02 * step + rng.gauss(0, 0.1),
            "rewards/accuracies": min(1, 0.5 + 0.006 * step + rng.gauss(0, 0.05)),
        }
        for step in range(80)
    ]
    context = ReportContext(
        name="nba-sql",
        shown=[questions[place[p.id]] for p in shown_prompts(prompts, 10, 1)],
        fixed=[q for q in questions if q.after.right and not q.before.right],
        broken=[q for q in questions if q.before.right and not q.after.right],
        margins=[pair.margin for pair in held_out],
        lengths={side: [len(c.token_ids) for c in sides[side].greedy] for side in sides},
        drops={
            "prompts": 640,
            "kept pairs": 614,
            "answer repeated": 1893,
            "pair too similar": 12,
            "prompt with tied answers": 171,
        },
        diagnostics={"pairs": 614, "chosen_longer": 0.4812, "token_ratio": 0.9876, "margin_mean": None},
        history=history,
        families=FAMILIES,
        command="prefloop run recipe.yaml --seeds 3 --baselines",
        recipe="name: nba-sql\nseed: 1\ntraining:\n  objective: dpo\n  beta: 0.1\n",
        versions={"prefloop": "0.1.0", "python": "3.11.9", "torch": "2.11.0"},
        lineage={"initial": "4be1f0f1cbd3c1e1", "tuned": "9a2c7fd0e4a5b6c7"},
        hashes={"prompts.parquet": hashlib.sha256(b"prompts").hexdigest()},
        audit={"test": {"accepted": 216, "gold is empty": 31}},
    )
    return evaluation, context
